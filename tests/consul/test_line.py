"""Who may ask when, in invented time."""

import asyncio
from functools import partial

import pytest

from grayctl.consul.line import Line
from grayctl.errors import ConsulUnreachable
from tests.support.watching import Recorder

PER_SECOND = 20  # PROMISES


class Time:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)  # the others come meanwhile

    def line(self) -> Line:
        return Line(Recorder(), clock=lambda: self.now, sleep=self.sleep)


async def times(time: Time, line: Line, *calm: bool) -> list[float]:
    """When each of these questions is asked, in seconds after now."""
    began, found = time.now, []
    for one in calm:
        await line.turn(calm=one, fault=one)
        found.append(time.now - began)
    return found


async def test_peace_waits_for_nothing() -> None:
    time = Time()
    assert await times(time, time.line(), *[False] * 200) == [0.0] * 200


async def test_who_has_seen_a_fault_waits_for_a_turn() -> None:
    time = Time()
    asked = await times(time, time.line(), *[True] * 100)
    assert all(sum(one <= other < one + 1.0 for other in asked) <= PER_SECOND for one in asked)
    assert asked[-1] < 99 / 12


async def test_a_thousand_that_follow_a_fault_wait_until_it_is_over_and_not_for_a_thousand_turns() -> None:
    """In that minute a change would go unnoticed."""
    time = Time()
    line = time.line()
    await line.turn(calm=True, fault=True)
    began, asked = time.now, []

    async def follow() -> None:
        await line.turn(calm=False, fault=False)
        asked.append(time.now - began)

    await asyncio.gather(*(follow() for _ in range(1000)))
    assert 5.0 < max(asked) < 6.5


async def test_what_comes_at_once_with_another_index_takes_turns_and_holds_up_nobody_else() -> None:
    """The output of a check that changes all the time: the index moves, and there is no news."""
    time = Time()
    line = time.line()
    spinning = []
    for _ in range(100):
        await line.turn(calm=True, fault=False)
        spinning.append(time.now)
        assert await times(time, line, *[False] * 2) == [0.0, 0.0]
    assert all(sum(one <= other < one + 1.0 for other in spinning) <= PER_SECOND for one in spinning)


async def test_the_turns_end_after_the_fault_however_many_polls_come_back() -> None:
    """Of a thousand long polls twenty come back each second: who only follows a fault does not prolong its turns."""
    time = Time()
    line = time.line()
    await line.turn(calm=True, fault=True)
    began, late = time.now, []
    for number in range(20 * 60):
        time.now = max(time.now, began + number / 20)
        await line.turn(calm=False, fault=False)
        late.append(time.now - (began + number / 20))
    assert max(late) > 0.0
    assert late[-1] == 0.0


async def test_what_was_asked_in_peace_counts_for_its_second() -> None:
    """Twelve polls wake at once and find nothing new: they do not ask twelve times more in the same second."""
    time = Time()
    asked = await times(time, time.line(), *[False] * 12, *[True] * 30)
    assert sum(one < 1.0 for one in asked) <= PER_SECOND


async def test_a_mass_wake_delays_nobody_for_more_than_half_a_second() -> None:
    time = Time()
    asked = await times(time, time.line(), *[False] * 500, *[True])
    assert 0.4 < asked[-1] <= 0.5


async def test_the_second_after_a_fault_is_calm_too() -> None:
    time = Time()
    line = time.line()
    await times(time, line, *[True] * 20)
    asked = await times(time, line, *[False] * 10)
    assert asked == sorted(set(asked)), "one after another"
    await time.sleep(17.0)
    assert await times(time, line, *[False] * 10) == [0.0] * 10


async def test_soon_after_a_fault_a_few_polls_take_turns_and_of_many_most_go_at_once() -> None:
    """The report, the path check and the session come then as well: with polls at will they were 22 in one second."""
    time = Time()
    line = time.line()
    await line.turn(calm=True, fault=True)
    await time.sleep(4.0)
    asked = await times(time, line, *[False] * 30)
    assert max(sum(one <= other < one + 1.0 for other in asked) for one in asked) <= 16

    mixed = await times(time, line, *[False, True] * 15)
    assert max(sum(one <= other < one + 1.0 for other in mixed) for one in mixed) <= 16

    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    line.sleep = note
    await time.sleep(2.0)
    await asyncio.gather(*(line.turn(calm=False, fault=False) for _ in range(100)))
    assert 6 <= len(slept) <= 8
    assert max(slept) < 0.55


async def answered(time: Time, line: Line, name: str) -> float:
    """This query is answered in its turn; returns when."""

    async def answer() -> None:
        """Say nothing."""

    await line.calm()
    await line.attempt(name, answer)
    return time.now


async def failed(line: Line, name: str) -> None:
    async def fail() -> None:
        raise ConsulUnreachable("away")

    with pytest.raises(ConsulUnreachable):
        await line.attempt(name, fail)


async def test_thousands_that_failed_catch_up_within_seconds_once_nothing_fails() -> None:
    time = Time()
    line = time.line()
    names = [f"health {number}" for number in range(4500)]
    for name in names:
        await failed(line, name)
    began = time.now
    asked = [await answered(time, line, name) - began for name in names]
    slow = [one for one in asked if one < 5]
    assert all(sum(one <= other < one + 1.0 for other in slow) <= PER_SECOND for one in slow)
    assert asked[-1] < 15
    assert line.connected


async def test_a_hundred_that_failed_keep_to_the_common_limit() -> None:
    time = Time()
    line = time.line()
    names = [f"health {number}" for number in range(98)]
    for name in names:
        await failed(line, name)
    asked = [await answered(time, line, name) for name in (*names, *names)]
    assert all(sum(one <= other < one + 1.0 for other in asked) <= PER_SECOND for one in asked)
    assert line.connected


async def test_one_failure_ends_the_catching_up() -> None:
    time = Time()
    line = time.line()
    for number in range(4500):
        await failed(line, f"health {number}")
    for number in range(300):
        await answered(time, line, f"health {number}")
    await failed(line, "health 300")
    again = partial(answered, time, line)
    asked = [await again(f"health {number}") for number in range(300, 360)]
    assert all(sum(one <= other < one + 1.0 for other in asked) <= PER_SECOND for one in asked)
