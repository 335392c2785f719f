"""The state of our line to Consul: who may ask when, what failed, and one log event for each change of state."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from grayctl import log
from grayctl.errors import ConsulDenied, ConsulError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

# At most 20 requests a second in all under any fault. Evenly spaced, with room for the path check and the report.
_CALM_RATE = 15.0
# What was asked in peace just before a fault counts, too, and the second after one stays calm. The first is less, since
# a loss is confirmed calmly also in peace.
_BEFORE, _AFTER = 0.5, 1.0
# Once Consul has answered everything for so many seconds, the fault is over: then those that failed catch up within
# about ten seconds, however many they are. Up to a hundred that is the common limit.
_TRUST, _CATCH_UP = 5.0, 0.16
# For so many seconds after a fault all sorts of things are made up for, each a reason to ask: then a question takes its
# turn also in peace, where that comes soon.
_WARY, _SOON = 15.0, 0.5
_AT_ONE_TIME = 20
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 5.0


class Observer(Protocol):
    """Who counts requests: metrics, tests."""

    def answered(self, endpoint: str, seconds: float) -> None:
        """A request to `endpoint` (`health`, `kv`, ...) was answered after `seconds`."""

    def failed(self, error: Exception) -> None:
        """A request failed."""


class Line:
    """Shared by all queries. Names of queries start with their endpoint: `health shop-api`, `kv releases`.

    Attributes:
        since: wall clock of the last change of `connected`.
        last_error: the newest fault's message; empty when there was none yet.
        last_contact: monotonic time of the newest answer; None before the first.
        at_once: held by questions that Consul answers at once, so that a start with thousands is no storm.
        path: set while Consul answers at all; nobody retries while it is clear, except who looks for the path.
    """

    def __init__(self, observer: Observer, *, clock: Callable[[], float], sleep: Sleep) -> None:
        self.clock = clock
        self.sleep = sleep
        self.since = time.time()
        self.last_error = ""
        self.last_contact: float | None = None
        self.at_once = asyncio.Semaphore(_AT_ONE_TIME)
        self.path = asyncio.Event()
        self.path.set()
        self._observer = observer
        self._failing: set[str] = set()
        self._denied: set[str] = set()
        self._lost_at: float | None = None
        self._well_since: float | None = None
        self._most_failing = 0
        self._next_slot = self._calm_until = 0.0
        self._turn = asyncio.Lock()
        self._log = log.get("consul")

    @property
    def connected(self) -> bool:
        """Whether Consul has answered and no query is failing; a denial is an answer."""
        return self.last_contact is not None and not self._failing

    @property
    def failing(self) -> bool:
        """Whether a fault is on: then nobody asks outside the common limit, healthy queries included."""
        return bool(self._failing)

    @property
    def denied(self) -> tuple[str, ...]:
        """The queries that the token may not ask, sorted."""
        return tuple(sorted(self._denied))

    async def persist(
        self, name: str, call: Callable[[], Awaitable[T]], *, gated: bool = True, ceiling: float = _LONGEST_BACKOFF
    ) -> T:
        """Ask until there is an answer, however long that takes: exponential backoff with full jitter.

        Retries of everybody together stay below 20 a second. `gated` ones wait until the path is open.
        """

        async def back_off(seconds: float) -> None:
            await self.sleep(seconds)
            await self.calm(gated=gated)

        try:
            return await self.attempt(name, call)  # by far the most end here: nothing is made ready to try again
        except ConsulError:
            await back_off(random.uniform(0.0, _FIRST_BACKOFF))  # noqa: S311 -- spreads load, guards nothing
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ConsulError),
            wait=wait_random_exponential(multiplier=2 * _FIRST_BACKOFF, max=ceiling),
            sleep=back_off,
            reraise=True,
        )
        return await retrying(self.attempt, name, call)

    async def attempt(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Ask once, and keep the books.

        Raises:
            ConsulError: counted and told already.
        """
        asked = self.clock()
        try:
            value = await call()
        except ConsulError as error:
            self._failed(name, error)
            raise
        self._answered(name, self.clock() - asked)
        return value

    async def turn(self, *, calm: bool, fault: bool) -> None:
        """Before a long poll: `calm` waits for its turn; in peace one goes at once, and who waits then waits longer.

        Soon after a fault it takes the next turn where that comes within half a second, and else goes at once too.

        After a `fault` all wait for their turns, for a second more. Who has seen none follows them for some seconds: a
        thousand turns take a minute, in which a change would go unnoticed.
        """
        now = self.clock()
        if calm or now < self._calm_until:
            await self.calm(lasting=fault, following=not calm)
        elif self._calm_until and now < self._calm_until + _WARY and self._next_slot < now + _SOON:
            slot = max(self._next_slot, now)
            self._next_slot = slot + 1 / _CALM_RATE
            await self.sleep(slot - now)
        else:
            self._next_slot = min(max(self._next_slot, now) + 1 / _CALM_RATE, now + _BEFORE)

    async def calm(self, *, gated: bool = True, lasting: bool = True, following: bool = False) -> None:
        """Wait for this query's turn among all that have seen a fault.

        One that is not `lasting` does not prolong the turns, or long polls that come back more often than turns are
        given would never end them; one that is `following` waits no longer than until the fault is over for certain.
        """
        while True:
            if gated:
                await self.path.wait()
            async with self._turn:
                if following and self.clock() >= self._calm_until + _TRUST:
                    return
                # A loop that was held up must not let all who slept meanwhile go at once: one after another.
                if (early := self._next_slot - self.clock()) > 0:
                    self._next_slot += 1 / self._calm_rate(self.clock())  # taken: others may come while we sleep
                    await self.sleep(early)
                if gated and not self.path.is_set():
                    continue
                now = self.clock()
                self._next_slot = max(self._next_slot, now + 1 / self._calm_rate(now))
                if lasting:
                    self._calm_until = now + _AFTER
                return

    def _calm_rate(self, now: float) -> float:
        """Questions a second that are asked in turn."""
        over = self._failing and self._well_since is not None and now - self._well_since > _TRUST
        return max(_CALM_RATE, _CATCH_UP * self._most_failing) if over else _CALM_RATE

    def suffers(self, name: str) -> bool:
        """Whether the newest attempt of this query failed or was denied."""
        return name in self._failing or name in self._denied

    def note(self, error: ConsulError) -> None:
        """Count a fault of a question that another one will answer anyway."""
        self._observer.failed(error)
        self.last_error = str(error)
        self._well_since = None

    def forget(self, name: str) -> None:
        """A query is asked no more: what it suffered no longer counts."""
        self._denied.discard(name)
        if name in self._failing:
            self._failing.discard(name)
            self._note_regained()

    def _answered(self, name: str, seconds: float) -> None:
        if self.last_contact is None:
            self.since = time.time()
            self._log.info("consul_connected")
        self.last_contact = self.clock()
        self._well_since = self.last_contact if self._well_since is None else self._well_since
        self._observer.answered(name.partition(" ")[0], seconds)
        if name in self._denied:
            self._denied.discard(name)
            self._log.info("consul_granted", query=name)
        if name in self._failing:
            self._failing.discard(name)
            self._note_regained()

    def _failed(self, name: str, error: ConsulError) -> None:
        self.note(error)
        if isinstance(error, ConsulDenied):
            if name not in self._denied:
                self._denied.add(name)
                self._log.error("consul_denied", query=name, error=str(error), note="the last good state stands")
            return
        if not self._failing:
            self.since = time.time()
            self._lost_at = self.clock()
            self._log.warning("consul_lost", query=name, error=str(error), note="the last good state stands")
        self._failing.add(name)
        self._most_failing = max(self._most_failing, len(self._failing))

    def _note_regained(self) -> None:
        if not self._failing and self._lost_at is not None:
            self.since = time.time()
            self._log.info("consul_regained", after=round(self.clock() - self._lost_at, 3))
            self._lost_at = None
            self._most_failing = 0
