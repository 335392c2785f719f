"""Metrics: each outcome is counted once, and what is gone from the Plan is gone from the page."""

import time

import pytest

from grayctl.metrics import ConsulObserver, Metrics, outcome_name
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.outcome import Applied, Held, Outcome, Rejected, RolledBack, Unchanged
from grayctl.policy.resolve import Limits, resolve
from grayctl.settings import Settings

PROVEN = Applied(7, proven=True, changed=("shop",), quarantined={}, timings={"check": 0.01, "reload": 0.02})
UNPROVEN = Applied(8, proven=False, changed=(), quarantined={}, timings={})


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("outcome", "name", "reloads", "rollbacks"),
    [
        (Unchanged(1), "unchanged", 0, 0),
        (PROVEN, "applied", 1, 0),
        (UNPROVEN, "applied", 0, 0),
        (Held(1, "freeze", "peak"), "held", 0, 0),
        (Rejected(1, "d", "no"), "rejected", 0, 0),
        (RolledBack(1, 2, "d", "no", restored=True), "rolled_back", 0, 1),
    ],
)
def test_each_outcome_is_counted_once(outcome: Outcome, name: str, reloads: int, rollbacks: int) -> None:
    metrics = Metrics()
    metrics.record(outcome, 0.1, 0.5)
    assert outcome_name(outcome) == name
    assert sample(metrics, "grayctl_converges_total", outcome=name) == 1
    assert sample(metrics, "grayctl_reloads_total") == reloads
    assert sample(metrics, "grayctl_rollbacks_total") == rollbacks


@pytest.mark.parametrize(
    ("outcome", "by"),
    [
        (Held(1, "user-config", "your own tree"), "user-config"),
        (Rejected(1, "d", "no"), "check"),
        (RolledBack(1, 2, "d", "no", restored=True), "proof"),
    ],
)
def test_what_holds_a_change_back_is_on_the_page_until_something_is_served(outcome: Outcome, by: str) -> None:
    metrics = Metrics()
    metrics.record(Held(1, "freeze", "peak"), 0.0, 0.0)
    metrics.record(outcome, 0.0, 0.0)
    assert sample(metrics, "grayctl_held", by=by) == 1
    assert sample(metrics, "grayctl_held", by="freeze") is None
    assert sample(metrics, "grayctl_last_success_timestamp_seconds") == 0
    before = time.time()
    metrics.record(Unchanged(1), 0.0, 0.0)
    assert sample(metrics, "grayctl_held", by=by) is None
    assert before <= (sample(metrics, "grayctl_last_success_timestamp_seconds") or 0) <= time.time()


def test_what_was_applied_says_how_long_each_step_took() -> None:
    metrics = Metrics()
    metrics.record(PROVEN, 0.1, 0.5)
    assert sample(metrics, "grayctl_step_duration_seconds_sum", step="wake") == 0.1
    assert sample(metrics, "grayctl_step_duration_seconds_sum", step="reload") == 0.02
    assert sample(metrics, "grayctl_change_duration_seconds_sum") == 0.5
    assert (sample(metrics, "grayctl_generation"), sample(metrics, "grayctl_generation_proven")) == (7, 1)
    metrics.record(UNPROVEN, 0.1, 0.5)
    assert (sample(metrics, "grayctl_generation"), sample(metrics, "grayctl_generation_proven")) == (8, 0)


def test_a_service_that_mended_its_registrations_leaves_the_page() -> None:
    def described(*ports: int) -> None:
        rows = tuple(Registration(service="shop", id=str(port), address="10.0.0.1", port=port) for port in ports)
        metrics.describe(resolve(Catalog(services={"shop": rows}), {}, Settings(), Limits()), 2)

    metrics = Metrics()
    described(80, 0, -1)
    assert sample(metrics, "grayctl_dropped_instances", service="shop") == 2
    assert sample(metrics, "grayctl_services", serving="live") == 1
    assert sample(metrics, "grayctl_quarantined_services") == 2
    described(80, 0)
    assert sample(metrics, "grayctl_dropped_instances", service="shop") == 1
    assert sample(metrics, "grayctl_services", serving="live") == 1
    described(80)
    assert sample(metrics, "grayctl_dropped_instances", service="shop") is None
    described(0)
    assert sample(metrics, "grayctl_services", serving="live") == 0
    assert sample(metrics, "grayctl_services", serving="refused") == 1


def test_consul_is_counted_by_endpoint_and_error() -> None:
    metrics = Metrics()
    observer = ConsulObserver(metrics)
    observer.answered("health", 50.0)
    observer.failed(TimeoutError())
    assert sample(metrics, "grayctl_consul_requests_total", endpoint="health") == 1
    assert sample(metrics, "grayctl_consul_errors_total", kind="TimeoutError") == 1


def test_the_page_is_what_prometheus_reads() -> None:
    page = Metrics().exposition().decode()
    assert "# TYPE grayctl_reloads_total counter" in page
    assert "grayctl_build_info{version=" in page
    assert "\nprocess_open_fds " in page
    assert "_created" not in page
