"""Services without a long poll: what says that they may have changed, and how often they are looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from grayctl.consul.decode import Check
from grayctl.consul.line import Sleep
from grayctl.model.catalog import Registration

T = TypeVar("T")

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
        everybody: who there is to look at.
        clock: monotonic seconds.
        sleep: waits that many.
    """

    def __init__(
        self,
        look: Callable[[T], Awaitable[bool]],
        everybody: Callable[[], Iterable[T]],
        *,
        clock: Callable[[], float],
        sleep: Sleep,
    ) -> None:
        self._look = look
        self._everybody = everybody
        self._clock = clock
        self._sleep = sleep
        self._suspects: dict[T, None] = {}
        self._failed: dict[T, None] = {}
        self._suspected, self._stirred = asyncio.Event(), asyncio.Event()

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
            await self._visit(suspects, 1)
            await self._sleep(self._clock() - began)  # half the time at most, however many suspects come

    async def _sweep(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            began = self._clock()
            await self._visit(tuple(self._everybody()), _SWEEPERS)
            await self._sleep(rest_after(self._clock() - began))

    async def _try_again(self) -> None:
        while True:
            await self._sleep(_AGAIN)
            failed, self._failed = self._failed, {}
            self.suspect(failed)

    async def _visit(self, some: Iterable[T], at_one_time: int) -> None:
        rest = iter(some)

        async def go_round() -> None:
            for one in rest:
                if not await self._look(one):
                    self._failed[one] = None

        async with asyncio.TaskGroup() as group:
            for _ in range(at_one_time):
                group.create_task(go_round())
