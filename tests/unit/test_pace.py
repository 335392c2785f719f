"""Pace, with invented times: at once when quiet, coalesced under churn, never later than max_delay."""

import math
import random
from dataclasses import dataclass
from itertools import accumulate

import pytest

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
    assert pace.waiting_since == 100.03
    assert pace.due() == 100.1 + 0.2


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
    pace = Pace(0.2, 2.0, interval=2.0, turn=100.0)
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


def test_under_churn_a_converge_that_found_nothing_to_change_is_a_turn_too() -> None:
    churning = Pace(0.2, 2.0, interval=1.6, turn=100.0).changed(101.0).taken()
    assert churning.done(101.6, reloaded=False).turn == 101.6
    # so a change soon after it is as hurried as after a reload, and does not let the interval fall back
    pace = churning.done(101.6, reloaded=False).changed(101.8)
    assert (pace.hurried, pace.interval) == (True, 1.6)


def test_the_last_change_of_a_storm_goes_when_no_further_one_came_for_a_while() -> None:
    pace = Pace(0.2, 2.0, interval=2.0, turn=100.0)
    for at in (100.1, 100.35, 100.6):
        pace = pace.changed(at)
        assert pace.due() == pytest.approx(at + (0.2 if at == 100.1 else 0.375))


def test_changes_that_come_evenly_do_not_pass_for_the_end_of_a_storm() -> None:
    pace = Pace(0.2, 2.0, interval=2.0, turn=100.0, changed_at=99.89, gap=0.21)
    for count in range(8):
        at = 100.1 + 0.21 * count
        due = pace.due()
        assert due is None or due > at
        pace = pace.changed(at).changed(at + 0.001)  # one act in Consul may wake us twice


def test_nginx_rests_as_long_as_a_reload_takes_while_changes_keep_coming() -> None:
    alone = FRESH.changed(100.0).taken().done(101.0, reloaded=True, took=1.0)
    assert alone.current_interval == 0.2
    assert alone.changed(101.1).taken().done(102.0, reloaded=True, took=0.9).current_interval == 0.9


CROWDED = Pace(0.2, 2.0, turn=100.0).counted(crowded=True)


@pytest.mark.parametrize(("at", "due"), [(100.1, 110.0), (109.0, 110.0), (115.0, 115.0)])
def test_with_too_many_old_workers_ten_seconds_lie_between_two_reloads(at: float, due: float) -> None:
    assert CROWDED.changed(at).due() == due


def test_an_urgent_change_does_not_wait_for_old_workers() -> None:
    assert CROWDED.changed(100.1, urgent=True).due() == 100.1


def test_what_waited_for_old_workers_goes_when_they_have_gone() -> None:
    assert CROWDED.changed(100.1).counted(crowded=False).due() == pytest.approx(100.2)


# ---------------------------------------------------------------- storms, beside the peer

_CONVERGE, _TO_SIGNAL = 0.13, 0.03  # seconds, as measured: of a whole converge, and of its part before nginx


@dataclass
class Quiescence:
    """consul-template with `wait`: a change goes when none came for `least`, at the latest after `most`."""

    least: float = 0.2
    most: float = 2.0
    waiting_since: float | None = None
    changed_at: float = 0.0

    def changed(self, now: float) -> "Quiescence":
        since = now if self.waiting_since is None else self.waiting_since
        return Quiescence(self.least, self.most, since, now)

    def due(self) -> float | None:
        return None if self.waiting_since is None else min(self.changed_at + self.least, self.waiting_since + self.most)

    def taken(self) -> "Quiescence":
        return Quiescence(self.least, self.most)

    def done(self, now: float, *, reloaded: bool, took: float) -> "Quiescence":
        del now, reloaded, took
        return self


@dataclass(frozen=True)
class Played:
    """What came of a storm: reloads, and seconds from a change to nginx's signal: of the last one, and the longest."""

    reloads: int
    last: float
    longest: float


def play(pace: "Pace | Quiescence", changes: list[float], *, flapping: bool = False) -> Played:
    """Let time run. Where it is one instance that flaps, an even number of changes at once is none."""
    waits, waiting = [0.0], list[float]()
    reloads, over, reloaded = 0, math.inf, False
    ahead = list(changes)
    while ahead or waiting or over < math.inf:
        due = pace.due() if waiting and over == math.inf else None
        at = min(ahead[0] if ahead else math.inf, over, math.inf if due is None else due)
        if at == over:
            pace, over = pace.done(at, reloaded=reloaded, took=_CONVERGE), math.inf
        elif ahead and at == ahead[0]:
            waiting.append(ahead.pop(0))
            pace = pace.changed(at)
        else:
            reloaded = not flapping or bool(len(waiting) % 2)
            reloads += reloaded
            waits += [at + _TO_SIGNAL - one for one in waiting]
            pace, waiting, over = pace.taken(), [], at + (_CONVERGE if reloaded else 0.005)
    return Played(reloads, waits[-1], max(waits))


def _evenly(rate: float, seconds: float = 60) -> list[float]:
    jitter = random.Random(1)
    return sorted(100 + count / rate + jitter.gauss(0, 0.003) for count in range(int(rate * seconds)))


def _by_chance(rate: float, seconds: float = 60) -> list[float]:
    gaps = random.Random(2)
    return list(accumulate((gaps.expovariate(rate) for _ in range(int(rate * seconds))), initial=100.0))


# name -> (changes, one instance that flaps, reloads at most beside the peer's, seconds at most from the last change)
STORMS = {
    "five a second": (_evenly(5), False, 0.5, 0.45),
    "five a second, by chance": (_by_chance(5), False, 0.7, 0.45),
    "two a second, by chance": (_by_chance(2), False, 0.95, 0.45),
    "one a second, by chance": (_by_chance(1), False, 1.05, 0.45),
    "one a second": (_evenly(1), False, 1.0, 0.05),
    "an instance flaps": (_evenly(5), True, 0.5, 0.45),
    "an instance flaps, by chance": (_by_chance(5), True, 0.7, 0.45),
    # too dense for any pause: the peer is as good, and has no first change that goes at once
    "ten a second": (_evenly(10), False, 1.15, 0.3),
    "twenty a second, by chance": (_by_chance(20), False, 1.1, 0.3),
    "a hundred at once": ([100 + 0.0015 * count for count in range(100)], False, 2.0, 0.3),
}


@pytest.mark.parametrize("storm", STORMS)
def test_a_storm_costs_no_more_reloads_than_the_peers_and_its_last_change_is_soon_served(storm: str) -> None:
    changes, flapping, share, last = STORMS[storm]
    peer = play(Quiescence(), changes, flapping=flapping)
    # the peer's figures hang on where the storm ends; so it ends at each of the last ten changes
    ours = [play(FRESH, changes[: len(changes) - left], flapping=flapping) for left in range(10)]
    assert ours[0].reloads <= share * peer.reloads, (ours[0], peer)
    assert max(one.last for one in ours) <= last
    assert max(one.longest for one in ours) <= 2.0 + _CONVERGE + _TO_SIGNAL
