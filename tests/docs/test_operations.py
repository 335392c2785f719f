"""docs/operations.md: whatever an operator can meet has a row, and every row is about something that is there."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from grayctl.metrics import Metrics, NotServed, outcome_name
from grayctl.model.outcome import Held, HeldBy, Rejected, RolledBack
from grayctl.model.plan import FieldFault, Serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "examples/prometheus/grayctl.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples/grafana/grayctl.json").read_text(encoding="utf-8"))


def section(title: str) -> str:
    """The text below a heading, up to the next heading of its rank or above."""
    rank, _, _ = title.partition(" ")
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{len(rank)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in `text`, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number - 1 for number, line in enumerate(lines) if set(line) <= set("|- ")}
    body = [line for number, line in enumerate(lines) if number not in heads and number - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def named(text: str) -> list[str]:
    """What stands in backquotes in the first cells of `text`."""
    return [name for first, *_ in rows(text) for name in re.findall(r"`([^`]+)`", first)]


# ---------------------------------------------------------------- metrics


def _exposed() -> dict[str, tuple[str, str]]:
    """Sample family -> type and labels, as prometheus_client knows them."""
    registry = Metrics().registry
    labels = {
        name: " ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
        for collector, names in registry._collector_to_names.items()
        for name in names
    }
    return {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, labels.get(family.name, ""))
        for family in registry.collect()
    }


EXPOSED = _exposed()


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    documented = {row[0].strip("`"): (row[1], row[2]) for row in rows(section("## Metrics"))}
    assert documented == EXPOSED


def test_the_unit_of_a_metric_is_what_its_name_says() -> None:
    units = {row[0].strip("`"): row[3] for row in rows(section("## Metrics"))}
    for name, unit in units.items():
        stem = name.removesuffix("_total")
        for suffix, said in (("timestamp_seconds", "seconds since 1970"), ("start_time_seconds", "seconds since 1970")):
            if stem.endswith(suffix):
                assert unit == said, name
                break
        else:
            for word in ("seconds", "bytes"):
                assert (unit == word) == stem.endswith(f"_{word}"), name


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("grayctl_held", [*get_args(get_args(NotServed)[0]), *get_args(get_args(NotServed)[1])]),
        ("grayctl_services", list(Serving)),
        ("grayctl_converges_total", ["unchanged", "applied", "held", "rejected", "rolled_back"]),
    ],
)
def test_the_values_of_a_label_are_documented(metric: str, values: list[str]) -> None:
    (meaning,) = [row[4] for row in rows(section("## Metrics")) if row[0] == f"`{metric}`"]
    listed = re.sub(r"\([^)]*\)", "", meaning.rpartition(": ")[2] if metric != "grayctl_held" else meaning)
    assert set(values) <= set(re.findall(r"[\w-]+", listed))


# ---------------------------------------------------------------- alerts and dashboard

QUERIES = [(rule["alert"], rule["expr"]) for rule in RULES] + [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]


def _selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Metric and matchers of each selector; buckets, sums and counts as their histogram."""
    for name, inner in re.findall(r"\b((?:grayctl|process)_\w+|up)\b(?:\{([^}]*)\})?", query):
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        yield (stem if stem in EXPOSED else name), dict(re.findall(r'(\w+)[!=~]+"([^"]*)"', inner))


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_rules_and_dashboard_ask_for_metrics_and_labels_that_exist(where: str, query: str) -> None:
    selectors = list(_selectors(query))
    assert selectors, where
    for metric, matchers in selectors:
        assert metric == "up" or metric in EXPOSED, f"{where}: {metric}"
        own = set(re.findall(r"\w+", EXPOSED.get(metric, ("", ""))[1]))
        assert matchers.keys() <= own | {"job", "instance"}, f"{where}: {metric}"
        assert matchers.get("by", "freeze") in get_args(HeldBy), where
        assert matchers.get("serving", "kept") in set(Serving), where


def test_every_alert_has_a_row_that_names_its_severity_and_every_row_an_alert() -> None:
    found = {row[0].strip("`"): row[1].partition(":")[0] for row in rows(section("### Alerts"))}
    assert found == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


# ---------------------------------------------------------------- the runbook


def test_every_row_of_the_runbook_says_what_it_means_and_what_to_do() -> None:
    found = rows(section("## Runbook"))
    assert len(found) > 80
    assert all(len(row) == 3 and all(row) for row in found), [row for row in found if len(row) != 3 or not all(row)]


def test_whatever_holds_a_change_back_has_a_row() -> None:
    held = {name for name in named(section("### What status shows")) if name.startswith("held (")}
    assert held == {f"held ({by})" for by in get_args(HeldBy)}
    for stopped in ("FROZEN", "GUARD", "QUARANTINE", *Serving, "not proven"):
        if stopped != Serving.LIVE:
            assert any(name.split(" ...")[0] == stopped for name in named(section("### What status shows"))), stopped


def test_every_fault_of_a_registration_has_a_row() -> None:
    found = {name.rpartition(" ")[2] for name in named(section("### Registrations"))}
    assert found >= set(FieldFault)


def _events() -> Iterator[str]:
    """Every event that the daemon logs: the first argument of `log.info(...)` and the like."""
    for file in (ROOT / "grayctl").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in {"info", "warning", "error", "exception", "critical"}
                and ast.unparse(call.func.value).endswith("log")
            ):
                assert isinstance(call.args[0], ast.Constant), f"{file}:{call.lineno}: an event has a fixed name"
                yield str(call.args[0].value)


def test_every_event_of_the_log_has_a_row_and_every_row_an_event() -> None:
    outcomes = {"applied", *(outcome_name(kind) for kind in _NOT_SERVED)}
    first = {name for row in rows(section("### Log")) for name in re.findall(r"`(\w+)`", row[0])}
    assert first == outcomes | set(_events())


_NOT_SERVED = (
    Held(1, "freeze", ""),
    Rejected(1, "", ""),
    RolledBack(1, 2, "", "", restored=True),
)


def test_messages_in_the_runbook_are_messages_of_grayctl() -> None:
    """The parts of a quoted message stand in the sources: a message that was reworded is found."""
    sources = re.sub(
        r'"\s*\n\s*f?"',
        "",
        "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "grayctl").rglob("*.py"))),
    )
    quoted = [
        *named(section("### What commands answer")),
        *named(section("### Why a service is in quarantine")),
        *named(section("### Why a generation is refused or taken back")),
        *(name for name in named(section("### What status shows")) if " " in name and "held (" not in name),
    ]
    assert len(quoted) > 20
    for message in quoted:
        for part in re.split(r"\bN\b|\.\.\.|FILE\.j2:LINE|[();,]", message):
            assert part.strip(" :") in sources, f"{message!r}: {part!r} is no message of grayctl"
