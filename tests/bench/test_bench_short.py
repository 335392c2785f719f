"""The benchmarks' short forms: they converge, serve what is registered, and nothing grows. No test judges time."""

import inspect
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.bench import changes, churn, footprint, releases, start
from tests.bench.contenders import OURS, present
from tests.bench.fleet import KINDS
from tests.bench.growth import figures
from tests.bench.section import Section
from tests.bench.sections import SECTIONS


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """consul-template is missing, as where most people run the tests."""
    monkeypatch.setattr("tests.bench.machines.ConsulTemplate.binary", lambda: None)


@pytest.mark.usefixtures("_alone")
def test_each_kind_of_change_is_served_by_one_reload(tmp_path: Path) -> None:
    report = changes.report(services=[1, 3], rounds=2, changes=1, at_most=1, locations=0, own_zones=1)
    assert isinstance(report.results, list)
    for row in report.results:
        assert set(row.rounds) == set(present())
        assert [len(row.all(OURS, kind)) for kind in KINDS] == [2, 2, 2, 2]
        assert row.reloads[OURS] == row.sent == 8
    assert report.failed == []
    assert "missing" in report.text
    for draw in report.plots.values():
        draw(tmp_path / "changes.svg")
    drawn = ET.parse(tmp_path / "changes.svg").getroot()  # noqa: S314 -- our own file
    assert {"grayctl", "floor", *KINDS} <= {one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.usefixtures("_alone")
def test_a_first_start_ends_in_what_is_registered() -> None:
    report = start.report(services=[2], rounds=1)
    assert isinstance(report.results, list)
    [row] = report.results
    assert {name: len(samples) for name, samples in row.samples.items()} == dict.fromkeys(present(), 1)


@pytest.mark.usefixtures("_alone")
def test_with_default_settings_the_connections_stay_within_the_budget() -> None:
    default, each = footprint.run(services=120, rest=2, changes=5)
    assert default.connections <= 98
    assert 120 < each.connections <= 148


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_takes_the_options_that_it_says(section: Section) -> None:
    assert set(inspect.signature(section.run).parameters) == set(section.options)


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
