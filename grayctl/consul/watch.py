"""The watcher: everything watched, kept up to date by blocking queries, published whole or not at all."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from grayctl import log
from grayctl.consul.client import SHORT_CONNECTIONS, ConsulClient, Reply
from grayctl.consul.line import Line, Observer, Sleep
from grayctl.consul.names import Resolver
from grayctl.consul.path import PathCheck
from grayctl.consul.poll import Poll
from grayctl.consul.selection import (
    KV_NAMES,
    host_names,
    key_rights,
    kv_entries,
    kv_query,
    service_rights,
    wanted_services,
)
from grayctl.errors import ConsulError
from grayctl.model.catalog import Catalog, Entry, Registration
from grayctl.settings import Settings

_TRIGGERS = ("critical", "warning")
_SWEEP_EVERY, _SWEEP_AGAIN = 1.0, 3.0
_SIDE_READS = SHORT_CONNECTIONS - 1  # one is left for the confirmation of a loss
_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Wake:
    """One complete catalog, and what made it new.

    Attributes:
        changed: service names, and `kv:<name>` such as `kv:releases`.
        trace_id: goes with this change to the proof.
        at: monotonic seconds.
        cause: one line.
    """

    catalog: Catalog
    changed: frozenset[str]
    trace_id: str
    at: float
    cause: str


class WatchObserver(Observer, Protocol):
    """Who counts: `answered(endpoint, seconds)`, `failed(error)`, and each publication."""

    def published(self, wake: Wake) -> None:
        """A catalog was published."""


@dataclass(frozen=True, slots=True)
class WatchState:
    """How the watcher does.

    Attributes:
        connected: Consul answers, and no query fails.
        since: wall clock of the last change of `connected`.
        last_error: the newest fault's message; stays after it has passed.
        denied: queries that the token may not ask.
        long_polls: blocking queries held open.
        services_watched: services known, with and without a long poll.
        cold: those without.
        complete: a catalog has been published.
        last_contact: monotonic time of the newest answer; None before the first.
    """

    connected: bool
    since: float
    last_error: str
    denied: tuple[str, ...]
    long_polls: int
    services_watched: int
    cold: int
    complete: bool
    last_contact: float | None


class _Nobody:
    """Counts nothing."""

    def answered(self, endpoint: str, seconds: float) -> None:
        """Ignore."""

    def failed(self, error: Exception) -> None:
        """Ignore."""

    def published(self, wake: Wake) -> None:
        """Ignore."""


class Watcher:
    """Follows Consul and calls `publish` with each new complete catalog.

    The first comes when everything watched has answered once. No fault of Consul ends `run` or empties a catalog:
    what was published last stands until something else is known.

    Args:
        client: open.
        settings: what to watch.
        publish: called in the loop; must not block. An exception from it ends `run`.
        observer: counts requests.
        resolver: for host names in registrations.
        clock: monotonic seconds.
        sleep: waits that many.
    """

    def __init__(
        self,
        client: ConsulClient,
        settings: Settings,
        publish: Callable[[Wake], None],
        *,
        observer: WatchObserver | None = None,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client = client
        self._watch = settings.watch
        self._prefix = settings.consul.prefix
        self._publish = publish
        self._observer = observer or _Nobody()
        self._resolver = resolver or Resolver()
        self._line = Line(self._observer, clock=clock, sleep=sleep)
        self._path = PathCheck(self._line, client.glance, self._reopened)
        self._sleep = sleep
        self._log = log.get("consul")
        self._discovery = self._poll("catalog services", client.services, self._discovered, woke=self._stir)
        self._kv = {name: self._kv_poll(name) for name in KV_NAMES}
        self._triggers = {
            name: self._poll(f"state {name}", partial(client.state, name), lambda: None, woke=self._stir)
            for name in _TRIGGERS
        }
        self._services: dict[str, Poll[tuple[Registration, ...]]] = {}
        self._running: dict[Poll[Any], asyncio.Task[None]] = {}
        self._stirred = asyncio.Event()
        self._side = asyncio.Semaphore(_SIDE_READS)
        self._complete = False
        self._budget = settings.watch.max_long_polls - 1 - len(self._kv) - len(self._triggers)

    @property
    def state(self) -> WatchState:
        """How things stand now."""
        return WatchState(
            connected=self._line.connected,
            since=self._line.since,
            last_error=self._line.last_error,
            denied=self._line.denied,
            long_polls=len(self._running),
            services_watched=len(self._services),
            cold=len(self._cold()),
            complete=self._complete,
            last_contact=self._line.last_contact,
        )

    async def run(self) -> None:
        """Watch until cancelled; all queries end with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start(self._discovery)
            for poll in self._kv.values():
                self._start(poll)
            for job in (self._path.run(), self._sweep(), self._reread()):
                group.create_task(job)

    # ------------------------------------------------------------ queries

    def _poll(self, name: str, ask: Any, stored: Callable[[], None], **more: Any) -> Poll[Any]:
        return Poll(name, ask, self._line, self._watch.wait, stored=stored, lacks=self._client.lacks, **more)

    def _kv_poll(self, name: str) -> Poll[tuple[Entry, ...]]:
        async def ask(*, index: int | None = None, wait: float | None = None) -> Reply[tuple[Entry, ...]]:
            reply = await self._client.kv(kv_query(self._prefix, name), index=index, wait=wait)
            return Reply(reply.index, kv_entries(self._prefix, name, reply.value))

        changed = frozenset({f"kv:{name}"})
        prepare = self._before_unstaging if name == "staged" else None
        return self._poll(
            f"kv {name}", ask, lambda: self._tell(changed, f"{name} changed in KV"), rights=key_rights, prepare=prepare
        )

    async def _before_unstaging(self, entries: tuple[Entry, ...]) -> None:
        """What is staged no more may have become the release, in one transaction: the release is published first."""
        staged = {entry.key for entry in self._kv["staged"].memory.value or ()}
        if not staged <= {entry.key for entry in entries}:
            for name in ("releases", "live"):
                await self._kv[name].catch_up()

    def _service_poll(self, name: str) -> Poll[tuple[Registration, ...]]:
        return self._poll(
            f"health {name}",
            partial(self._client.health, name),
            lambda: self._heard(name),
            rights=partial(service_rights, name),
            prepare=lambda value: self._resolver.ensure(host_names(value)),
        )

    def _start(self, poll: Poll[Any]) -> None:
        self._running[poll] = self._group.create_task(poll.run(), name=poll.name)

    def _stop(self, poll: Poll[Any]) -> bool:
        task = self._running.pop(poll, None)
        if task is not None:
            task.cancel()
        return task is not None

    def _restart(self, poll: Poll[Any]) -> None:
        """Ask again from the beginning, on another connection."""
        if self._stop(poll):
            poll.memory.forget()
            self._start(poll)

    # ------------------------------------------------------------ services come and go

    def _discovered(self) -> None:
        """The list of services changed: adopt what is new, let go of what is gone."""
        listed = self._discovery.memory.value or {}
        for name in sorted(wanted_services(listed, self._watch) - self._services.keys()):
            poll = self._services[name] = self._service_poll(name)
            if self._hot() < self._budget:
                self._start(poll)
            else:
                self._go_cold()
        gone = frozenset(name for name in tuple(self._services) if self._let_go(name))
        self._tell(gone, "the list of services changed")

    def _heard(self, name: str) -> None:
        if name not in self._services:
            return  # let go while a look at it was under way
        self._let_go(name)
        self._tell(frozenset({name}), f"service {name} changed")

    def _let_go(self, name: str) -> bool:
        """Stop following a service that Consul lists no more and that was confirmed empty; returns whether it was one.

        A service that only lost its tag is followed on: its name is published, and nginx refers to it.
        """
        poll = self._services[name]
        listed = self._discovery.memory.value or {}
        if name in listed or name in self._watch.exact or not poll.memory.known or poll.memory.value:
            return False
        del self._services[name]
        self._line.forget(poll.name)
        if self._stop(poll) and (cold := self._cold()):
            self._start(self._services[cold[0]])
        return True

    def _hot(self) -> int:
        return sum(poll in self._running for poll in self._services.values())

    def _cold(self) -> list[str]:
        return [name for name, poll in self._services.items() if poll not in self._running]

    def _go_cold(self) -> None:
        """There are services without a long poll: the triggers tell when to look at them."""
        for trigger in self._triggers.values():
            if trigger not in self._running:
                self._start(trigger)
        self._stir()

    def _stir(self) -> None:
        self._stirred.set()

    # ------------------------------------------------------------ publishing

    def _tell(self, changed: frozenset[str], cause: str) -> None:
        if not self._complete:
            polls: list[Poll[Any]] = [self._discovery, *self._kv.values(), *self._services.values()]
            if not all(poll.memory.known for poll in polls):
                return
            self._complete = True
            changed, cause = frozenset({*self._services, *(f"kv:{name}" for name in self._kv)}), "first complete answer"
        elif not changed:
            return
        wake = Wake(self._catalog(), changed, secrets.token_hex(8), self._line.clock(), cause)
        self._log.debug("woke", cause=cause, changed=sorted(changed), trace_id=wake.trace_id)
        self._observer.published(wake)
        self._publish(wake)

    def _catalog(self) -> Catalog:
        known = {name: poll.memory.value or () for name, poll in self._services.items() if poll.memory.known}
        return Catalog(
            services=dict(sorted(known.items())),
            names=self._resolver.answers,
            kv={name: poll.memory.value or () for name, poll in self._kv.items()},
        )

    # ------------------------------------------------------------ beside the long polls

    def _reopened(self) -> None:
        """The path was dead for a while: what was asked on it may be dead still, and so may idle connections."""
        self._client.renew()
        for poll in self._followed():
            self._restart(poll)

    def _followed(self) -> list[Poll[Any]]:
        everything: list[Poll[Any]] = [
            self._discovery,
            *self._kv.values(),
            *self._triggers.values(),
            *self._services.values(),
        ]
        return [poll for poll in everything if poll in self._running]

    async def _sweep(self) -> None:
        """Look at the services without a long poll whenever a trigger woke, at most once a second."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._beside(partial(self._look, name) for name in self._cold())
            failed = any(self._line.suffers(self._services[name].name) for name in self._cold())
            await self._sleep(_SWEEP_AGAIN if failed else _SWEEP_EVERY)
            if failed:
                self._stir()

    async def _look(self, name: str, *, probe: bool = True) -> None:
        """Read one cold service, if its index has moved; one attempt, so that nobody holds up the others."""
        poll = self._services.get(name)
        if poll is None or poll in self._running:
            return
        try:
            await self._calm_beside(poll)
            ask = partial(self._client.probe, name)
            if (
                probe
                and poll.memory.index is not None
                and poll.memory.index == await self._line.attempt(poll.name, ask)
            ):
                return
            await self._calm_beside(poll)
            await poll.refresh()
        except ConsulError:
            return  # told by the line; the next sweep looks again

    async def _calm_beside(self, poll: Poll[Any]) -> None:
        if not self._line.connected or self._line.suffers(poll.name) or self._line.suffers(self._discovery.name):
            await self._line.calm()

    async def _reread(self) -> None:
        """The safety net: everything once more, every few minutes, should a wake ever have been lost."""
        while True:
            spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- spreads load, guards nothing
            await self._sleep(self._watch.full_reread * spread)
            await self._beside(partial(self._compare, poll) for poll in self._followed())
            await self._beside(partial(self._look, name, probe=False) for name in self._cold())
            await self._refresh_names()

    async def _compare(self, poll: Poll[Any]) -> None:
        try:
            await self._calm_beside(poll)
            if await poll.differs():
                self._restart(poll)
        except ConsulError as error:
            self._line.note(error)  # the long poll itself goes on, and so does the next re-read

    async def _refresh_names(self) -> None:
        by_service = {name: host_names(poll.memory.value or ()) for name, poll in self._services.items()}
        changed = await self._resolver.refresh(frozenset().union(*by_service.values()))
        affected = frozenset(name for name, names in by_service.items() if names & changed)
        if affected and self._complete:
            self._tell(affected, "host names resolved anew")

    async def _beside(self, jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Run `jobs` a few at a time, so that a confirmation finds a free short connection."""

        async def one(job: Callable[[], Awaitable[None]]) -> None:
            async with self._side:
                await job()

        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(one(job))
