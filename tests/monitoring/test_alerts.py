"""The shipped alerts, judged by promtool: each fires when it should, not before, and not when it should not."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import NODE, REPOSITORY, judge, promtool

FOLDER = REPOSITORY / "examples" / "prometheus"
RULES = FOLDER / "grayctl.rules.yml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
STEP = 15  # seconds between two samples and two evaluations


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, from which an alert fires; and series beside them, from which it does not.

    `a+bxn` is a, a+b, ... n times more; a series stands in `{}` with the labels it has beside instance and job.
    """

    alert: str
    fires: dict[str, str]
    quiet: tuple[dict[str, str], ...]
    labels: dict[str, str]
    value: str = ""
    seen_after: int = 0  # seconds until its expression is true at all

    def __str__(self) -> str:
        return self.alert


def case(
    alert: str, fires: dict[str, str], *quiet: dict[str, str], value: str = "", seen_after: int = 0, **labels: str
) -> Case:
    return Case(alert, fires, quiet, NODE | labels, value, seen_after)


BUCKETS = 'grayctl_change_duration_seconds_bucket{le="%s"}'
CASES = [
    case("GrayctlNginxDown", {"grayctl_nginx_up": "0x40"}, {"grayctl_nginx_up": "1x40"}),
    case(
        "GrayctlNginxOrphans",
        {"grayctl_nginx_orphaned_workers": "2x40"},
        {"grayctl_nginx_orphaned_workers": "0x40"},
        value="2",
    ),
    case(
        "GrayctlNotProven",
        {"grayctl_generation_proven": "0x40", "grayctl_nginx_up": "1x40"},
        {"grayctl_generation_proven": "1x40", "grayctl_nginx_up": "1x40"},
        {"grayctl_generation_proven": "0x40", "grayctl_nginx_up": "0x40"},
    ),
    case(
        "GrayctlRolledBack",
        {"grayctl_rollbacks_total": "0x20 1x20"},
        {"grayctl_rollbacks_total": "7x40"},
        seen_after=21 * STEP,
    ),
    case(
        "GrayctlReloadsOften",
        {"grayctl_reloads_total": "0+4x200"},
        {"grayctl_reloads_total": "0+2x200"},
        seen_after=31 * STEP,
    ),
    case(
        "GrayctlOldWorkers",
        {"grayctl_nginx_old_workers": "17x100"},
        {"grayctl_nginx_old_workers": "16x100"},
        value="17",
    ),
    case(
        "GrayctlHeld",
        {'grayctl_held{by="user-config"}': "1x100"},
        {'grayctl_held{by="freeze"}': "1x100"},
        {'grayctl_held{by="disk"}': "1x10 stale"},
        by="user-config",
    ),
    case(
        "GrayctlFreezeHolds",
        {'grayctl_held{by="freeze"}': "1x200"},
        {'grayctl_held{by="check"}': "1x200"},
        {"grayctl_frozen": "1x200"},
        by="freeze",
    ),
    case("GrayctlFrozen", {"grayctl_frozen": "1x2000"}, {"grayctl_frozen": "0x2000"}),
    case(
        "GrayctlSlow",
        {BUCKETS % "10.0": "0+9x200", BUCKETS % "30.0": "0+10x200", BUCKETS % "+Inf": "0+10x200"},
        {BUCKETS % "10.0": "0+96x200", BUCKETS % "30.0": "0+100x200", BUCKETS % "+Inf": "0+100x200"},
        {BUCKETS % "10.0": "9x200", BUCKETS % "30.0": "10x200", BUCKETS % "+Inf": "10x200"},
        seen_after=STEP,
    ),
    case("GrayctlRereadFailed", {"grayctl_last_reread_successful": "0x40"}, {"grayctl_last_reread_successful": "1x40"}),
    case(
        "GrayctlQuarantine",
        {"grayctl_quarantined_services": "3x40"},
        {"grayctl_quarantined_services": "0x40"},
        {"grayctl_quarantined_services": "3x15 0x40"},
        value="3",
    ),
    case(
        "GrayctlReleaseNotInForce",
        {"grayctl_release_problems": "1x40"},
        {"grayctl_release_problems": "0x40"},
        value="1",
    ),
    case(
        "GrayctlReleaseFallback",
        {'grayctl_release_fallback{service="shop",version="v2"}': "1x40"},
        {"grayctl_releases": "1x40"},
        service="shop",
        version="v2",
    ),
    case("GrayctlGuardHolds", {"grayctl_guard_holding": "1x40"}, {"grayctl_guard_holding": "0x40"}),
    case(
        "GrayctlServicesKept",
        {'grayctl_services{serving="kept"}': "1x40"},
        {'grayctl_services{serving="live"}': "1x40", 'grayctl_services{serving="kept"}': "0x40"},
        value="1",
        serving="kept",
    ),
    case(
        "GrayctlServicesRefused",
        {'grayctl_services{serving="refused"}': "2x100"},
        {'grayctl_services{serving="kept"}': "2x100", 'grayctl_services{serving="refused"}': "0x100"},
        value="2",
        serving="refused",
    ),
    case(
        "GrayctlInstancesDropped",
        {'grayctl_dropped_instances{service="shop"}': "4x60"},
        {'grayctl_dropped_instances{service="shop"}': "4x20 stale"},
        value="4",
        service="shop",
    ),
    case("GrayctlConsulDown", {"grayctl_consul_up": "0x40"}, {"grayctl_consul_up": "1x40"}),
    case(
        "GrayctlConsulDenied",
        {"grayctl_consul_denied_queries": "5x40"},
        {"grayctl_consul_denied_queries": "0x40"},
        value="5",
    ),
    case(
        "GrayctlConsulErrors",
        {
            'grayctl_consul_errors_total{kind="ConsulUnreachable"}': "0+2x200",
            'grayctl_consul_errors_total{kind="ConsulUnavailable"}': "0+2x200",
        },
        {'grayctl_consul_errors_total{kind="ConsulUnreachable"}': "0+2x200"},
        seen_after=16 * STEP,
    ),
    case(
        "GrayctlDeaf",
        {"grayctl_watch_lag_seconds": "61x40", "grayctl_consul_up": "1x40"},
        {"grayctl_watch_lag_seconds": "60x40", "grayctl_consul_up": "1x40"},
        {"grayctl_watch_lag_seconds": "61x40", "grayctl_consul_up": "0x40"},
    ),
    case("GrayctlDown", {"up": "0x40"}, {"up": "1x40"}, {'up{job="node"}': "0x40"}),
    case(
        "GrayctlRestarts",
        {"process_start_time_seconds": "100x5 200x5 300x5 400x5"},
        {"process_start_time_seconds": "100x5 200x5 300x10"},
        {'process_start_time_seconds{job="node"}': "100x5 200x5 300x5 400x5"},
        value="3",
        seen_after=18 * STEP,
    ),
    case(
        "GrayctlDescriptors",
        {"process_open_fds": "82x60", "process_max_fds": "100x60"},
        {"process_open_fds": "80x60", "process_max_fds": "100x60"},
        {'process_open_fds{job="node"}': "82x60", 'process_max_fds{job="node"}': "100x60"},
    ),
    Case(
        "GrayctlVersionsMixed",
        {
            'grayctl_build_info{version="0.1.0",instance="a"}': "1x300",
            'grayctl_build_info{version="0.2.0",instance="b"}': "1x300",
        },
        (
            {
                'grayctl_build_info{version="0.1.0",instance="a"}': "1x300",
                'grayctl_build_info{version="0.1.0",instance="b"}': "1x300",
            },
        ),
        {},
        value="2",
    ),
]


def _seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([smh])", duration).groups()  # type: ignore[union-attr]  # -- or the test fails
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def _input(series: dict[str, str]) -> list[dict[str, str]]:
    """The series with the labels of a scrape, where they say nothing else."""

    def labelled(name: str) -> str:
        own = dict(re.findall(r'(\w+)="([^"]*)"', name))
        labels = ",".join(f'{key}="{value}"' for key, value in (NODE | own).items())
        return f"{name.partition('{')[0]}{{{labels}}}"

    return [{"series": labelled(name), "values": values} for name, values in series.items()]


def _expanded(rule: dict[str, Any], one: Case) -> dict[str, str]:
    known = {f"$labels.{name}": value for name, value in one.labels.items()} | {"$value": one.value}
    return {
        name: re.sub(r"{{ (\S+) }}", lambda found: known[found[1]], text) for name, text in rule["annotations"].items()
    }


def _judged(series: dict[str, str], expected: list[tuple[int, str, list[dict[str, Any]]]], folder: Path) -> None:
    """Let promtool evaluate the rules over `series`; `expected` is (when, alert, the alerts that fire then)."""
    looks = [{"eval_time": f"{when}s", "alertname": alert, "exp_alerts": alerts} for when, alert, alerts in expected]
    done = judge(folder, f"{STEP}s", {"input_series": _input(series), "alert_rule_test": looks}, RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_are_what_prometheus_reads() -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


@pytest.mark.parametrize("one", CASES, ids=str)
def test_an_alert_fires_after_its_time_and_not_before(tmp_path: Path, one: Case) -> None:
    rule = ALERTS[one.alert]
    pending = _seconds(rule.get("for", "0s"))
    firing = {"exp_labels": one.labels | rule["labels"], "exp_annotations": _expanded(rule, one)}
    _judged(
        one.fires,
        [
            (max(0, one.seen_after + pending - STEP), one.alert, []),
            (one.seen_after + pending, one.alert, [firing]),
        ],
        tmp_path,
    )


@pytest.mark.parametrize(("one", "series"), [(one, quiet) for one in CASES for quiet in one.quiet], ids=str)
def test_an_alert_does_not_fire_without_its_reason(tmp_path: Path, one: Case, series: dict[str, str]) -> None:
    """Looked at all along, until well after its time."""
    last = one.seen_after + 2 * _seconds(ALERTS[one.alert].get("for", "10m"))
    _judged(series, [(when, one.alert, []) for when in range(0, last, max(2 * STEP, last // 50))], tmp_path)


def test_every_alert_has_a_test_a_severity_and_says_what_to_read() -> None:
    assert sorted(ALERTS) == sorted(one.alert for one in CASES)
    assert all(one.quiet for one in CASES)
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == "docs/operations.md#runbook"
