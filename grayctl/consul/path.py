"""The path to Consul: found dead, found open again, or leading elsewhere, long before a long poll's wait ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grayctl.consul.line import Line
from grayctl.errors import ConsulDenied, ConsulError

T = TypeVar("T")
_EVERY, _CEILING = 3.0, 2.0
# A slow Consul is no dead one: after this long without an answer we ask once more beside, and wait for either.
_PATIENCE = 3.0
# A path that was dead for longer than this may have lost its connections without a word: ask again on new ones.
_SILENCE = 1.0


class PathCheck:
    """A cheap call every few seconds, on connections of its own.

    Args:
        line: its `path` is set while Consul answers at all.
        ask: the call: an index that only rises; a denial is an answer.
        reopened: called when what is being asked may never be answered: the path is open after a while in which it
            was not, so connections of before may be dead; or the index fell, so Consul has lost its state, and long
            polls that an agent carried over wait for an index that is far away.
    """

    def __init__(self, line: Line, ask: Callable[[], Awaitable[int]], reopened: Callable[[], None]) -> None:
        self._line = line
        self._ask = ask
        self._reopened = reopened
        self._index = 0
        self._silent_since: float | None = None

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self._silent_since = None
            index = await self._line.persist("path check", self._find, gated=False, ceiling=_CEILING)
            if self._silent_for() > _SILENCE or index < self._index:
                self._reopened()
            self._index = index
            await self._line.sleep(_EVERY)

    async def _find(self) -> int:
        asked = self._line.clock()
        try:
            index, overtaken = await first_of(self._answer, _PATIENCE)
        except ConsulError:
            self._note_silence(asked)
            self._line.path.clear()
            raise
        if overtaken:
            self._note_silence(asked)
        self._line.path.set()
        return index

    async def _answer(self) -> int:
        try:
            return await self._ask()
        except ConsulDenied:
            return self._index  # an answer: the path is alive

    def _note_silence(self, since: float) -> None:
        self._silent_since = since if self._silent_since is None else self._silent_since

    def _silent_for(self) -> float:
        return 0.0 if self._silent_since is None else self._line.clock() - self._silent_since


async def first_of(ask: Callable[[], Awaitable[T]], patience: float) -> tuple[T, bool]:
    """Ask, and again beside it after each `patience` seconds without an outcome; the first outcome counts.

    Returns:
        The answer, and whether an earlier question had none yet: a connection may be dead although others live.

    Raises:
        Exception: what the first `ask` that ended has raised.
    """
    asked: list[asyncio.Future[T]] = []
    try:
        while True:
            asked.append(asyncio.ensure_future(ask()))
            done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if done:
                newest = max(asked.index(one) for one in done)
                return asked[newest].result(), not all(one.done() for one in asked[:newest])
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
