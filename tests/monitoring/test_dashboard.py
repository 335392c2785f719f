"""The Grafana dashboard: whole, explained, and every panel draws something from what grayctl exposes."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from grayctl.metrics import ConsulObserver, Metrics
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.outcome import Applied, Held
from grayctl.policy.admission import present
from grayctl.policy.guard import Guard
from grayctl.policy.resolve import Limits, resolve
from grayctl.settings import GuardSettings, Settings
from tests.support.promtool import REPOSITORY, judge, series

DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "examples/grafana/grayctl.json").read_text(encoding="utf-8"))
PANELS = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
# of Grafana's categoryFormats; an unknown one is shown as a bare suffix
UNITS = {"none", "s", "bytes", "percentunit", "reqps", "cpm", "bool_yes_no"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = {"$instance": ".*", "$__rate_interval": "5m"}


def expressions(panel: dict[str, Any]) -> list[str]:
    """The panel's queries, as Grafana sends them."""
    found = []
    for target in panel["targets"]:
        text = target["expr"]
        for variable, value in VARIABLES.items():
            text = text.replace(variable, value)
        assert "$" not in text, f"{panel['title']}: unknown variable in {text}"
        found.append(text)
    return found


def test_the_data_source_and_the_nodes_are_chosen_by_variables() -> None:
    source, node = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (node["name"], node["datasource"], node["includeAll"], node["multi"]) == ("instance", SOURCE, True, True)
    assert node["query"]["query"] == node["definition"] == 'label_values(grayctl_build_info{job="grayctl"}, instance)'
    assert (DASHBOARD["id"], DASHBOARD["uid"], DASHBOARD["title"]) == (None, "grayctl", "grayctl")


@pytest.mark.parametrize("panel", PANELS, ids=lambda one: one["title"])
def test_every_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == SOURCE
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE
        selectors = re.findall(r"\{([^}]*)\}", target["expr"])
        assert selectors
        assert all(one == 'job="grayctl",instance=~"$instance"' for one in selectors), target["expr"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    every = DASHBOARD["panels"]
    assert len({one["id"] for one in every}) == len(every)
    assert len({one["title"] for one in every}) == len(every)
    for one in every:
        assert one["gridPos"]["x"] + one["gridPos"]["w"] <= 24
    for one, other in combinations([one["gridPos"] for one in every], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def _page() -> str:
    """What a node exposes that has had every kind of trouble: no label is missing."""
    metrics = Metrics()
    rows = [Registration(service="shop", id=str(port), address="10.0.0.1", port=port) for port in (0, 80, 81)]
    catalog = Catalog(services={"shop": tuple(rows)})
    known = resolve(catalog, {}, Settings(), Limits()).services["shop"].known
    here = {"shop": present(rows[:2], {})}
    guard = Guard.after_start({"shop": known}, 0.0).judge(here, GuardSettings(min_instances=1, max_loss=0.1), 1.0)
    rest = Catalog(services={"shop": tuple(rows[:2])})
    metrics.describe(resolve(rest, {}, Settings(), Limits(), guarded=guard.kept()), 1)
    timings = {"render": 0.1, "write": 0.1, "check": 0.1, "reload": 0.1}
    metrics.record(Applied(1, proven=True, changed=(), quarantined={}, timings=timings), 0.1, 0.5)
    metrics.record(Held(1, "disk", "full"), 0.0, 0.0)
    metrics.orphans.set(1)
    observer = ConsulObserver(metrics)
    observer.answered("health", 1.0)
    observer.failed(TimeoutError())
    return metrics.exposition().decode()


def test_every_panel_draws_something_from_what_grayctl_exposes(tmp_path: Path) -> None:
    """A misspelt metric or label, a join that matches nothing, a query that is no PromQL: nothing would be drawn."""
    asked = [text for panel in PANELS for text in expressions(panel)]
    tests = [
        {"expr": f"count({text}) > bool 0", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for text in asked
    ]
    done = judge(tmp_path, "15s", {"input_series": series(_page(), times=240), "promql_expr_test": tests})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(asked) > 20


def test_a_panel_that_asks_for_what_is_not_there_would_be_found(tmp_path: Path) -> None:
    missing = {
        "expr": "count(grayctl_misspelt) > bool 0",
        "eval_time": "30m",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
    group: dict[str, object] = {"input_series": series(_page(), times=240), "promql_expr_test": [missing]}
    assert judge(tmp_path, "15s", group).returncode != 0
