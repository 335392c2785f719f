"""The watcher: everything watched, kept up to date by blocking queries, published whole or not at all."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from grayctl import log
from grayctl.consul import decode
from grayctl.consul.client import Again, ConsulClient, Reply
from grayctl.consul.cold import Lookout, named_by
from grayctl.consul.decode import Check
from grayctl.consul.line import Line, Sleep
from grayctl.consul.names import Resolver
from grayctl.consul.path import PathCheck
from grayctl.consul.places import Places
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
from grayctl.consul.wake import Nobody, Wake, WatchObserver, WatchState
from grayctl.errors import ConsulError
from grayctl.model.catalog import Catalog, Entry, Registration
from grayctl.model.identity import Renewed, renewed
from grayctl.policy.live import is_half
from grayctl.settings import Settings

Service = Poll[tuple[Registration, ...]]

_STATES = ("critical", "warning")
_TRIGGERS = len(_STATES) + 1
_PAIR = ("releases", "live")
_PAIR_WITHIN = 0.01  # seconds; the two answers that tell of one transaction mostly come within a millisecond
_FIRST_WAIT, _RETURNS = 2.0, 45.0  # seconds; long polls that come back in one second
_SPREAD, _SPREAD_SCARCE = 0.5, 0.75
_JITTER = 0.1
_READ_TOGETHER = 8  # by the safety net: one after another, but without a pause, which would cost more than the answers


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
        self._observer = observer or Nobody()
        self._resolver = resolver or Resolver()
        self._line = Line(self._observer, clock=clock, sleep=sleep)
        self._path = PathCheck(self._line, client.glance, self._reopened)
        self._sleep = sleep
        self._log = log.get("consul")
        self._discovery = self._poll("catalog services", client.services, self._discovered, woke=self._stir)
        self._kv = {name: self._kv_poll(name) for name in KV_NAMES}
        self._triggers = [self._state_poll(name) for name in _STATES] + [self._nodes_poll()]
        self._services: dict[str, Service] = {}
        self._listed: dict[str, tuple[str, ...]] = {}  # what was discovered last
        self._running: dict[Poll[Any], asyncio.Task[None]] = {}
        self._places: Places[Service] = Places(settings.watch.max_long_polls - 1 - len(self._kv) - _TRIGGERS)
        self._lookout = Lookout(self._look, self._sift, lambda: self._places.cold, clock=clock, sleep=sleep)
        self._began = clock()
        self._awaited: list[Poll[Any]] = [self._discovery, *self._kv.values()]
        self._complete = False
        self._untold: frozenset[str] = frozenset()
        self._published: Mapping[str, tuple[Registration, ...]] = Renewed()

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
            cold=len(self._places.cold),
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
            for job in (self._path.run(), self._lookout.run(), self._reread()):
                group.create_task(job)

    # ------------------------------------------------------------ queries

    def _poll(self, name: str, ask: Any, stored: Callable[[], None], **more: Any) -> Poll[Any]:
        more = {"wait": self._wait, "lacks": self._client.lacks} | more
        return Poll(name, ask, self._line, stored=stored, **more)

    def _wait(self, *, scarce: bool = False) -> float:
        """How long Consul may hold a long poll: no longer than the watcher is old.

        What is abandoned keeps its connection at the agent until its wait ends (FACTS). So a daemon that crashes
        again and again never has more than one earlier life's connections there beside its own. Where polls are
        so many that short waits would be a storm, the agent's limit is another, too.
        """
        age = self._line.clock() - self._began
        young = max(_FIRST_WAIT, len(self._running) / _RETURNS, age)
        longest = min(self._watch.wait, self._watch.full_reread)
        if young < longest:  # short ones come back often: not all in one second, as what is asked together would
            return young * random.uniform(_SPREAD, 1.0)  # noqa: S311 -- spreads load, guards nothing
        return longest * random.uniform(_SPREAD_SCARCE, 1.0) if scarce else longest  # noqa: S311 -- the same

    def _service_wait(self) -> float:
        """Spread where places are scarce, so that there is always one that comes back soon and may give way."""
        return self._wait(scarce=bool(self._places.cold))

    def _kv_poll(self, name: str) -> Poll[tuple[Entry, ...]]:
        async def ask(*, index: int | None = None, wait: float | None = None) -> Reply[tuple[Entry, ...]]:
            reply = await self._client.kv(kv_query(self._prefix, name), index=index, wait=wait)
            return Reply(reply.index, kv_entries(self._prefix, name, reply.value))

        prepare = self._before_unstaging if name == "staged" else None
        return self._poll(f"kv {name}", ask, lambda: self._told(name), rights=key_rights, prepare=prepare)

    def _told(self, name: str) -> None:
        """Publish what a KV name holds now; half of a pair, which changes nothing that is served, waits for the other.

        Else the one that Consul answers first is converged alone, and the other comes into force that much later.
        """
        self._untold |= {f"kv:{name}"}
        if name in _PAIR and self._complete and is_half(*(self._kv[one].memory.value or () for one in _PAIR)):
            self._group.create_task(self._tell_soon(f"{name} changed in KV"))
        else:
            self._tell(frozenset(), f"{name} changed in KV")

    async def _tell_soon(self, cause: str) -> None:
        await self._sleep(_PAIR_WITHIN)
        self._tell(frozenset(), cause)

    async def _before_unstaging(self, entries: tuple[Entry, ...]) -> None:
        """What is staged no more may have become the release, in one transaction: the release is published first.

        At first nobody knows what was staged.
        """
        memory = self._kv["staged"].memory
        staged = {entry.key for entry in memory.value or ()}
        if not memory.known or not staged <= {entry.key for entry in entries}:
            for name in _PAIR:
                await self._kv[name].catch_up()

    def _service_poll(self, name: str) -> Service:
        poll: Service = self._poll(
            f"health {name}",
            partial(self._client.health, name, decoder=Again(decode.health)),
            lambda: self._heard(poll, name),
            rights=partial(service_rights, name),
            prepare=lambda value: self._resolver.ensure(host_names(value)),
            wait=self._service_wait,
            stays=lambda: self._stays(poll),
        )
        return poll

    def _state_poll(self, name: str) -> Poll[tuple[Check, ...]]:
        """A check that changed names its service; one whose output alone changed is no news."""

        async def compare(now: tuple[Check, ...]) -> None:
            self._suspect(frozenset(now) ^ frozenset(poll.memory.value or ()), (), known=poll.memory.known)

        poll: Poll[tuple[Check, ...]] = self._poll(
            f"state {name}", partial(self._client.state, name), lambda: None, prepare=compare
        )
        return poll

    def _nodes_poll(self) -> Poll[dict[str, str]]:
        """A node's address is told here alone: the states wake for it, too, but show no difference."""

        async def compare(now: dict[str, str]) -> None:
            moved = {node for node, _ in now.items() ^ (poll.memory.value or {}).items()}
            self._suspect((), moved, known=poll.memory.known)

        poll: Poll[dict[str, str]] = self._poll("catalog nodes", self._client.nodes, lambda: None, prepare=compare)
        return poll

    def _suspect(self, checks: Iterable[Check], nodes: Collection[str], *, known: bool) -> None:
        """Look at the services that these belong to; at all of them while it is not known what was before."""
        if known and self._complete:
            names = named_by(checks, nodes, self._published)
            self._lookout.suspect(self._services[name] for name in names & self._services.keys())
        else:
            self._stir()

    def _start(self, poll: Poll[Any]) -> None:
        self._running[poll] = self._group.create_task(poll.run(), name=poll.name)

    def _restart(self, poll: Poll[Any]) -> None:
        """Ask again from the beginning, on another connection."""
        self._running.pop(poll).cancel()
        poll.memory.forget()
        self._start(poll)

    # ------------------------------------------------------------ services come and go

    def _discovered(self) -> None:
        """The list of services changed: adopt what is new, let go of what is gone. All others are only compared."""
        listed = self._discovery.memory.value or {}
        changed = {name for name, _ in listed.items() ^ self._listed.items()}
        there = {name: listed[name] for name in changed & listed.keys()}
        self._listed = listed
        for name in sorted(wanted_services(there, self._watch) - self._services.keys()):
            self._adopt(name)
        gone = frozenset(name for name in changed & self._services.keys() if self._let_go(name))
        self._tell(gone, "the list of services changed")

    def _adopt(self, name: str) -> None:
        poll = self._services[name] = self._service_poll(name)
        if self._complete:
            self._places.changed(poll)
        else:
            self._awaited.append(poll)
        if self._places.enter(poll):
            self._start(poll)
            return
        for trigger in self._triggers:
            if trigger not in self._running:
                self._start(trigger)
        self._stir()

    def _heard(self, poll: Service, name: str) -> None:
        if self._services.get(name) is not poll:
            return  # let go while a question about it was under way
        if self._complete:
            self._places.changed(poll)
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
        self._places.leave(poll)
        return True

    def _stays(self, poll: Service) -> bool:
        """A long poll of a service has come back: whether it asks again, or who asks in its place."""
        heir = self._places.came_back(poll, lambda other: other.refreshing)
        if heir is poll:
            return True
        del self._running[poll]
        if heir is not None:
            self._start(heir)
        if poll in self._places.cold:
            self._lookout.suspect([poll])  # a trigger may have passed it over while it still had a place
        return False

    def _stir(self) -> None:
        if self._places.cold:
            self._lookout.stir()

    # ------------------------------------------------------------ publishing

    def _tell(self, changed: frozenset[str], cause: str) -> None:
        changed, self._untold = changed | self._untold, frozenset()
        if not self._complete:
            while self._awaited and self._awaited[-1].memory.known:
                self._awaited.pop()
            if self._awaited:
                return
            self._complete = True
            changed, cause = frozenset({*self._services, *(f"kv:{name}" for name in self._kv)}), "first complete answer"
        elif not changed:
            return
        wake = Wake(self._catalog(changed), changed, secrets.token_hex(8), self._line.clock(), cause)
        self._log.debug("woke", cause=cause, changed=sorted(changed), trace_id=wake.trace_id)
        self._observer.published(wake)
        self._publish(wake)

    def _catalog(self, changed: frozenset[str]) -> Catalog:
        found = ((name, self._services.get(name)) for name in changed)
        made = {name: poll.memory.value or () for name, poll in found if poll is not None and poll.memory.known}
        self._published = renewed(self._published, changed, made)
        return Catalog(
            services=self._published,
            names=self._resolver.answers,
            kv={name: poll.memory.value or () for name, poll in self._kv.items()},
        )

    # ------------------------------------------------------------ beside the long polls

    def _reopened(self) -> None:
        """The path was dead for a while: what was asked on it may be dead still, and so may idle connections."""
        self._began = self._line.clock()  # what is left behind there counts as an earlier life's
        self._client.renew()
        for poll in tuple(self._running):
            self._restart(poll)

    async def _sift(self, polls: Sequence[Service]) -> list[Service]:
        """Those of a few services whose index has moved, or of which that cannot be said.

        They are asked together and without a turn; so it is done in peace alone.
        """
        asked = [poll for poll in polls if poll.memory.index is not None and not self._line.suffers(poll.name)]
        if not asked or not self._peaceful():
            return list(polls)
        try:
            indexes = await self._client.probe([_subject(poll) for poll in asked])
        except ConsulError:
            return list(polls)  # who asks alone next tells of it, and waits for his turn
        for _ in indexes:
            self._observer.answered("health", 0.0)
        same = {poll for poll, index in zip(asked, indexes, strict=True) if poll.memory.index == index}
        return [poll for poll in polls if poll not in same]

    async def _look(self, poll: Service) -> bool:
        """Read one cold service; one attempt, so that nobody holds up the others.

        Returns:
            False when it failed; the line has told of it already.
        """
        if poll in self._places.cold and (self._line.suffers(poll.name) or not self._peaceful()):
            await self._line.calm()
        if poll in self._places.cold:
            try:
                await poll.refresh()
            except ConsulError:
                return False
        return True

    def _peaceful(self) -> bool:
        return self._line.connected and not self._line.suffers(self._discovery.name)

    async def _reread(self) -> None:
        """The safety net: every few minutes all cold services once more, should a wake ever have been lost.

        A few at a time, spread over the time, so that it is no storm however many there are. Long polls need
        none: each comes back with everything when its wait is over, and one that does not is given up.
        """
        while True:
            cold = tuple(self._places.cold)
            goes = [cold[at : at + _READ_TOGETHER] for at in range(0, len(cold), _READ_TOGETHER)] or [()]
            for some in goes:
                pause = self._watch.full_reread / len(goes)
                await self._sleep(pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 -- spreads load, guards nothing
                for poll in some:
                    await self._look(poll)
            await self._refresh_names()

    async def _refresh_names(self) -> None:
        by_service = {name: host_names(poll.memory.value or ()) for name, poll in self._services.items()}
        changed = await self._resolver.refresh(frozenset().union(*by_service.values()))
        affected = frozenset(name for name, names in by_service.items() if names & changed)
        if affected and self._complete:
            self._tell(affected, "host names resolved anew")


def _subject(poll: Service) -> str:
    return poll.name.partition(" ")[2]
