"""The benchmark's short form: it converges. It never judges time."""

from tests.bench.served import run


def test_three_changes_are_served() -> None:
    ours, _ = run(3)
    assert ours.samples is not None
    assert len(ours.samples) == 3
