"""Services without a long poll: what says that they may have changed, and how often they are looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from grayctl.consul.decode import Check
from grayctl.consul.line import Sleep
from grayctl.model.catalog import Registration

T = TypeVar("T")

# In one go: fewer would cost more, and more would be many questions that a fault leaves without an answer.
_IN_ONE_GO = 8
# Together with the one that attends to the suspects they leave one short connection free, to confirm a loss.
_SWEEPERS = 2
_SWEEP_EVERY, _AGAIN = 1.0, 3.0
# A change must be served 5 s later at most, and nginx wants its share.
_FOUND = 4.0
_PAUSES = 3.0


def rest_after(took: float) -> float:
    """How long to rest after a sweep that took so many seconds, before the next one may begin.

    A second; where a sweep is expensive three times as long as it took, so that sweeps take a quarter of the time under
    churn, yet not so long that who changed just after his turn is found later than `_FOUND`: the rest of this
    sweep, the pause and the next sweep. However many services there are, sweeps never take more than half the time.
    """
    return max(_SWEEP_EVERY, took, min(_PAUSES * took, _FOUND - 2 * took))


def named_by(
    checks: Iterable[Check], nodes: Collection[str], known: Mapping[str, Collection[Registration]]
) -> frozenset[str]:
    """The services that `checks` belong to; for checks of a node, and for `nodes`, all `known` ones that are there."""
    found, lost = set(), set(nodes)
    for check in checks:
        if check.service_name:
            found.add(check.service_name)
        else:
            lost.add(check.node)
    if lost:
        found |= {name for name, there in known.items() if any(one.node in lost for one in there)}
    return frozenset(found)


class Lookout(Generic[T]):
    """Looks at suspects at once, and at everybody when it is not known who has changed.

    Args:
        look: at one; returns False when that failed, then it is looked at again.
        sift: which of a few are worth a look, asked in one go; cheaper than a look at each.
        everybody: who there is to look at.
        clock: monotonic seconds.
        sleep: waits that many.
    """

    def __init__(
        self,
        look: Callable[[T], Awaitable[bool]],
        sift: Callable[[Sequence[T]], Awaitable[Sequence[T]]],
        everybody: Callable[[], Iterable[T]],
        *,
        clock: Callable[[], float],
        sleep: Sleep,
    ) -> None:
        self._look = look
        self._sift = sift
        self._everybody = everybody
        self._clock = clock
        self._sleep = sleep
        self._suspects: dict[T, None] = {}
        self._failed: dict[T, None] = {}
        self._suspected, self._stirred, self._missed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def suspect(self, some: Iterable[T]) -> None:
        """These may have changed: look at them at once."""
        self._suspects |= dict.fromkeys(some)
        if self._suspects:
            self._suspected.set()

    def stir(self) -> None:
        """Somebody may have changed: look at everybody, at most once a second."""
        self._stirred.set()

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            for job in (self._attend(), self._sweep(), self._try_again()):
                group.create_task(job)

    async def _attend(self) -> None:
        while True:
            await self._suspected.wait()
            self._suspected.clear()
            suspects, self._suspects = self._suspects, {}
            began = self._clock()
            for one in suspects:
                await self._visit(one)
            await self._sleep(self._clock() - began)  # half the time at most, however many suspects come

    async def _sweep(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            began = self._clock()
            everybody = tuple(self._everybody())
            rest = iter([everybody[at : at + _IN_ONE_GO] for at in range(0, len(everybody), _IN_ONE_GO)])
            async with asyncio.TaskGroup() as group:
                for _ in range(_SWEEPERS):
                    group.create_task(self._go_through(rest))
            await self._sleep(rest_after(self._clock() - began))

    async def _try_again(self) -> None:
        while True:
            await self._missed.wait()
            self._missed.clear()
            await self._sleep(_AGAIN)
            failed, self._failed = self._failed, {}
            self.suspect(failed)

    async def _go_through(self, rest: Iterator[Sequence[T]]) -> None:
        for some in rest:
            for one in await self._sift(some):
                await self._visit(one)

    async def _visit(self, one: T) -> None:
        if not await self._look(one):
            self._failed[one] = None
            self._missed.set()
