"""The judgement itself: it finds what grows, and is not moved by noise, a spike or one step."""

import random
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.bench.growth import figures, slope
from tests.bench.plot import draw
from tests.bench.resources import Sample

_MIB = 1024 * 1024
_REST = Sample(
    at=0,
    rss=60 * _MIB,
    anonymous=30 * _MIB,
    cpu=0,
    cpu_children=0,
    descriptors=40,
    threads=4,
    children=0,
    zombies=0,
    connections=29,
    nginx_rss=10 * _MIB,
    workers=2,
    leaving=0,
    generations=22,
    objects=120,
    snippet_sets=1,
    pending=0,
    leftovers=0,
    state_bytes=200_000,
    reloads=0,
    series=90,
    logged=0,
    unanswered=0,
)


def _run(**changes: list[float]) -> set[str]:
    """The figures that failed in half an hour of which these fields changed."""
    samples = []
    for number in range(600):
        at = 3.0 * number
        steady = {"at": at, "reloads": number, "logged": 700 * number}
        samples.append(_replaced(steady | {field: values[number] for field, values in changes.items()}))
    return {one.name for one in figures(samples, keep=20) if not one.passed}


def _replaced(changes: dict[str, float]) -> Sample:
    return Sample(**{field: changes.get(field, getattr(_REST, field)) for field in Sample.__struct_fields__})


def test_nothing_that_stays_as_it_is_fails() -> None:
    assert _run() == set()


@pytest.mark.parametrize(
    ("field", "start", "each", "name"),
    [
        ("anonymous", 30 * _MIB, 8 * 1024, "grayctl RSS, anonymous"),
        ("descriptors", 40, 1 / 150, "descriptors"),
        ("threads", 4, 1 / 100, "threads"),
        ("objects", 120, 1 / 3, "objects"),
        ("state_bytes", 200_000, 500, "state directory"),
        ("series", 90, 1 / 60, "lines of /metrics"),
        ("pending", 0, 1 / 150, "journal files"),
    ],
)
def test_a_slow_leak_is_found(field: str, start: float, each: float, name: str) -> None:
    assert name in _run(**{field: [float(int(start + each * number)) for number in range(600)]})


def test_noise_and_a_spike_and_the_warm_up_are_no_growth() -> None:
    noise = random.Random(1)
    values = [30.0 * _MIB * noise.uniform(0.97, 1.03) for _ in range(600)]
    values[:100] = [one * number / 100 for number, one in enumerate(values[:100])]
    values[400] *= 3
    assert _run(anonymous=values) == set()


def test_one_step_is_no_growth() -> None:
    assert _run(threads=[4.0] * 500 + [5.0] * 100) == set()


def test_passing_a_bound_once_is_enough() -> None:
    assert _run(unanswered=[0.0] * 300 + [1.0] + [0.0] * 299) == {"services that did not answer"}


def test_a_log_that_says_more_and_more_about_each_change_is_found() -> None:
    assert _run(logged=[700.0 * number + number**2 for number in range(600)]) == {"log a reload"}


def test_the_slope_is_the_median_of_all_pairs() -> None:
    assert slope([0, 1, 2, 3], [0, 2, 4, 6]) == 2
    assert slope([0, 1, 2, 3, 4], [0, 2, 4, 6, 100]) == 2
    assert slope([0, 1], [5, 5]) == 0
    assert slope([0], [5]) == 0


def test_a_run_can_be_drawn(tmp_path: Path) -> None:
    samples = [_replaced({"at": 3.0 * number, "descriptors": 40 + number % 3}) for number in range(20)]
    draw(samples, tmp_path / "churn.svg", "a minute of churn")
    drawn = ET.parse(tmp_path / "churn.svg").getroot()  # noqa: S314 -- our own file
    texts = {one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a minute of churn", "descriptors", "minutes"} <= texts
