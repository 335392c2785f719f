"""The benchmarks' short forms: they converge, and nothing grows. No test judges time."""

import math

from tests.bench import churn, releases, served, sizes
from tests.bench.growth import figures


def test_three_changes_are_served() -> None:
    ours, _ = served.run(3)
    assert ours.samples is not None
    assert len(ours.samples) == 3


def test_a_policy_is_served_whichever_way_it_was_written() -> None:
    assert [len(one.samples) for one in releases.written(2)] == [2, 2]


def test_a_minute_of_churn_grows_nothing_and_leaves_nothing() -> None:
    run = churn.run(60, 0.5, keep=5)
    # in its first minute the state directory still fills up: its bounds, and what is left in the end, judge it
    judged = figures(run.samples, run.keep, memory=0.05, written=math.inf)
    assert [one for one in judged if not one.passed] == []
    assert run.left == []
    assert run.done["service forgotten"] > 0
    assert run.events["quarantined"] == run.events["quarantine_left"] > 0


def test_a_weight_change_in_each_of_three_services_is_served() -> None:
    [row] = sizes.run(3, (3,))
    assert len(row.samples["grayctl"]) == 3
