"""One blocking query, kept going for ever: ask, judge, confirm a loss, publish, move the index on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from grayctl.consul.blocking import Memory, Verdict
from grayctl.consul.client import Reply, Right
from grayctl.consul.line import Line
from grayctl.errors import ConsulDenied, ConsulError

T = TypeVar("T")


class Ask(Protocol[T]):
    """A read: at once without `wait`, a long poll with it."""

    def __call__(self, *, index: int | None = None, wait: float | None = None) -> Awaitable[Reply[T]]:
        """Ask Consul."""


class Poll(Generic[T]):
    """A query and its memory.

    Args:
        name: endpoint and subject, such as `health shop-api`.
        ask: how to read it.
        line: shared by all queries.
        wait: how long Consul may hold the next long poll, in seconds.
        stored: called when a new value stands in `memory`; it publishes.
        woke: called when the index moved, news or not.
        rights: what the token must be allowed to read for an empty answer to mean that a value is gone.
        lacks: which of those rights it lacks.
        prepare: awaited before a new value is stored, such as resolving the names in it.
        stays: asked after each answer; when it says no, `run` ends.
    """

    def __init__(
        self,
        name: str,
        ask: Ask[T],
        line: Line,
        wait: Callable[[], float],
        *,
        stored: Callable[[], None],
        woke: Callable[[], None] = lambda: None,
        rights: Callable[[T], Sequence[Right]] = lambda _: (),
        lacks: Callable[[Sequence[Right]], Awaitable[Sequence[Right]]] | None = None,
        prepare: Callable[[T], Awaitable[None]] | None = None,
        stays: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.memory: Memory[T] = Memory()
        self._ask = ask
        self._line = line
        self._wait = wait
        self._stored = stored
        self._woke = woke
        self._rights = rights
        self._lacks = lacks
        self._prepare = prepare
        self._stays = stays
        self._refreshing = 0
        self._one_at_a_time = asyncio.Lock()

    @property
    def refreshing(self) -> bool:
        """Whether `refresh` is under way; the long poll must not begin meanwhile."""
        return self._refreshing > 0

    async def run(self) -> None:
        """Follow the query until cancelled, or until it shall not stay. No fault of Consul ends this."""
        calm = early = False
        while True:
            fault = early or self.memory.suspect or self._line.failing
            await self._line.turn(calm=calm or fault, fault=fault)
            reply, verdict = await self._line.persist(self.name, lambda: self._read(self._wait()))
            await self._settle(reply, verdict)
            if not self._stays():
                return
            if verdict.pause:
                await self._line.sleep(verdict.pause)
            calm, early = verdict.calm, verdict.early

    async def refresh(self) -> None:
        """Read once, at once, and publish what is new: how services without a long poll are followed.

        Raises:
            ConsulError: told by the line already; what was published stands.
        """
        self._refreshing += 1
        try:
            async with self._one_at_a_time:  # or an older answer could be settled after a newer one
                self.memory.index = None
                await self._settle(*await self._line.attempt(self.name, lambda: self._read(None)))
        finally:
            self._refreshing -= 1

    async def catch_up(self) -> None:
        """Read once beside the long poll, and publish what is newer; the index stays the long poll's.

        Waits until Consul answers; a loss is left to the long poll, which confirms it.
        """
        reply = await self._line.persist(self.name, self._ask)
        memory = self.memory
        newer = memory.index is None or reply.index > memory.index
        if newer and memory.is_news(reply.value) and not memory.is_loss(reply.value):
            memory.store(reply.value)
            self._stored()

    async def _settle(self, reply: Reply[T], verdict: Verdict) -> None:
        """What follows from an answer: publish what is new, and only then move the index on."""
        memory = self.memory
        if verdict.drop:
            memory.forget()
        else:
            if memory.is_news(reply.value):
                if self._prepare is not None:
                    await self._prepare(reply.value)
                memory.store(reply.value)
                self._stored()
            memory.settle(reply.index)
        if verdict.woke:
            self._woke()

    async def _read(self, wait: float | None) -> tuple[Reply[T], Verdict]:
        memory = self.memory
        if memory.index is None:  # answered at once: thousands of them must wait here, not at the agent
            async with self._line.at_once:
                return await self._judged(wait)
        return await self._judged(wait)

    async def _judged(self, wait: float | None) -> tuple[Reply[T], Verdict]:
        memory = self.memory
        asked = self._line.clock()
        try:
            reply = await self._ask(index=memory.index, wait=wait)
            verdict = memory.judge(reply, elapsed=self._line.clock() - asked, wait=wait or 0.0)
            if not verdict.drop and memory.is_loss(reply.value):
                reply = await self._confirmed()
        except ConsulError:
            memory.forget()
            raise
        return reply, verdict

    async def _confirmed(self) -> Reply[T]:
        """A second answer, over another connection, to a question that was answered "nothing" all of a sudden.

        Raises:
            ConsulDenied: nothing again, and the token may not read what was there: empty is not gone.
        """
        await self._line.calm()
        reply = await self._ask()
        if not reply.value and self.memory.value is not None and self._lacks is not None:
            lacking = await self._lacks(self._rights(self.memory.value))
            if lacking:
                named = ", ".join(f"{right.kind} {right.name!r}" for right in lacking[:3])
                raise ConsulDenied(
                    f"Consul: {self.name}: the answer is empty because the token may not read {named}. "
                    "Give the token's policies that right, or put the right token into consul.token_file"
                )
        return reply
