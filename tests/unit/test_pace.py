"""Pace, with invented times: at once when quiet, coalesced under churn, never later than max_delay."""

from grayctl.pace import Pace

FRESH = Pace(min_interval=0.2, max_delay=2.0)
RELOADED_AT_90 = FRESH.changed(90.0).taken().done(90.0, reloaded=True)
RELOADED_AT_100 = FRESH.changed(100.0).taken().done(100.0, reloaded=True)


def test_nothing_waits_nothing_is_due() -> None:
    assert FRESH.due() is None


def test_the_first_change_after_quiet_goes_at_once() -> None:
    assert FRESH.changed(100.0).due() == 100.0
    assert RELOADED_AT_90.changed(100.0).due() == 100.0


def test_a_change_soon_after_a_reload_waits_for_the_interval() -> None:
    assert RELOADED_AT_100.changed(100.05).due() == 100.2


def test_an_urgent_change_does_not_wait() -> None:
    assert RELOADED_AT_100.changed(100.05, urgent=True).due() == 100.05


def test_what_arrives_while_another_is_applied_waits_anew() -> None:
    pace = FRESH.changed(100.0).taken().changed(100.03).done(100.1, reloaded=True)
    assert pace.due() == 100.1 + pace.interval


def test_churn_widens_the_interval_up_to_max_delay_and_quiet_closes_it() -> None:
    pace, now, intervals = RELOADED_AT_100, 100.0, []
    for _ in range(8):
        pace = pace.changed(now + 0.05)
        due = pace.due()
        assert due is not None
        assert due <= now + 2.05
        now = due
        pace = pace.taken().done(now, reloaded=True)
        intervals.append(pace.interval)
    assert intervals == sorted(intervals)
    assert intervals[-1] == 2.0
    assert pace.changed(now + 10).interval == 0.2


def test_a_converge_without_a_reload_starts_no_interval() -> None:
    assert FRESH.changed(100.0).taken().done(100.1, reloaded=False).changed(100.15).due() == 100.15


def test_no_change_waits_longer_than_max_delay() -> None:
    pace = Pace(0.2, 2.0, interval=2.0, last_reload=100.0)
    due = pace.changed(100.5).due()
    assert due is not None
    assert due <= 102.5


def test_changes_slower_than_the_interval_do_not_widen_it() -> None:
    pace, now = RELOADED_AT_100, 100.0
    for _ in range(20):
        now += 0.35
        pace = pace.changed(now)
        assert pace.due() == now
        pace = pace.taken().done(now, reloaded=True)
    assert pace.interval == 0.2


def test_an_urgent_change_stays_urgent_when_others_join_it() -> None:
    waiting = RELOADED_AT_100.changed(100.05, urgent=True).changed(100.06)
    assert waiting.due() == 100.05
    assert RELOADED_AT_100.changed(100.05).changed(100.06, urgent=True).due() == 100.05


def test_a_change_that_waited_through_a_long_converge_is_not_kept_longer() -> None:
    pace = RELOADED_AT_100.changed(101.0).taken().changed(101.1).done(109.0, reloaded=True)
    due = pace.due()
    assert due is not None
    assert due <= 101.1 + 2.0
