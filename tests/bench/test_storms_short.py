"""The storms' short form: the final state is reached, and reloads stay within bounds. No test judges time."""

from tests.bench import storms


def test_every_storm_ends_in_its_final_state_within_the_bound_of_reloads() -> None:
    rows = list(storms.run(3, 4, alone=True))
    assert [one.storm for one in rows] == ["weights", "flap", "at once", "rolling"]
    assert storms.failed(rows) == []
