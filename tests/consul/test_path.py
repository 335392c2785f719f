"""The path check: what it takes for a dead path, what for an open one, and when everybody asks anew."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from grayctl.consul.line import Line
from grayctl.consul.path import PathCheck, first_of
from grayctl.errors import ConsulDenied, ConsulUnreachable
from tests.support.process import eventually
from tests.support.watching import Recorder

PATIENCE = 0.05


def answering(*answers: Any) -> Callable[[], Awaitable[int]]:
    """Each call gets the next answer: a number, an error, or None, which never comes; the last one again and again."""
    remaining = list(answers)

    async def ask() -> int:
        found = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if found is None:
            await asyncio.Event().wait()
        if isinstance(found, Exception):
            raise found
        return int(found)

    return ask


class Checked:
    """A path check under test, which waits for nothing between two questions."""

    def __init__(self, *answers: Any) -> None:
        self.now = 0.0
        self.rounds = 0
        self.reopened: list[int] = []
        self.line = Line(Recorder(), clock=lambda: self.now, sleep=self._sleep)
        self.check = PathCheck(self.line, answering(*answers), lambda: self.reopened.append(self.rounds))

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rounds += 1
        await asyncio.sleep(0)

    async def run(self, rounds: int) -> None:
        """Run until there were so many pauses."""
        task = asyncio.create_task(self.check.run())
        try:
            await eventually(lambda: self.rounds >= rounds, "the rounds", interval=0.0)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_peace_reopens_nothing() -> None:
    checked = Checked(5, 5, 7, 9)
    await checked.run(10)
    assert not checked.reopened
    assert checked.line.path.is_set()


async def test_a_path_that_was_dead_for_a_while_is_reopened_once() -> None:
    checked = Checked(5, *[ConsulUnreachable("away")] * 9, 5)
    await checked.run(40)
    assert len(checked.reopened) == 1
    assert checked.line.path.is_set()


async def test_nobody_retries_while_the_path_is_dead() -> None:
    checked = Checked(ConsulUnreachable("away"))
    await checked.run(5)
    assert not checked.line.path.is_set()
    waiting = asyncio.create_task(checked.line.calm())
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_denial_is_an_answer() -> None:
    checked = Checked(5, ConsulDenied("no"), 5, ConsulDenied("no"))
    await checked.run(6)
    assert not checked.reopened
    assert checked.line.path.is_set()


async def test_an_index_that_falls_means_that_the_state_was_lost() -> None:
    """An agent that carries a long poll over to servers without their data would hold it for its whole wait."""
    checked = Checked(500, 3, 4)
    await checked.run(6)
    assert checked.reopened == [1]


async def test_a_slow_answer_is_no_dead_path() -> None:
    async def slow() -> int:
        await asyncio.sleep(PATIENCE * 2.5)
        return 1

    assert await first_of(slow, PATIENCE) == (1, False)


async def test_a_connection_that_died_alone_is_overtaken() -> None:
    began = time.monotonic()
    assert await first_of(answering(None, None, 1), PATIENCE) == (1, True)
    assert time.monotonic() - began >= 2 * PATIENCE
    assert len(asyncio.all_tasks()) == 1, "nobody is left asking"


async def test_the_first_outcome_counts_also_when_it_is_an_error() -> None:
    with pytest.raises(ConsulUnreachable):
        await first_of(answering(None, ConsulUnreachable("away")), PATIENCE)
