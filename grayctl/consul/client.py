"""The one adapter over python-consul2: typed, bounded, and with one kind of error.

Three transports: long polls have their own connections, or they would starve the short calls (FACTS), and so has the
check of the path. A read with `wait` is a long poll; everything else is a short call.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from grayctl.consul import decode, faults, transaction
from grayctl.consul.token import Token
from grayctl.consul.transaction import Operation
from grayctl.consul.transport import Answer, Endpoints, Transport, shown_address
from grayctl.errors import ConsulOverloaded, ConsulProtocolError, ConsulUnavailable, ConsulUnreachable
from grayctl.model.catalog import Entry, Registration
from grayctl.settings import ConsulSettings

T = TypeVar("T")
# Beside the long polls eight in all; the path check never queues behind reads that hang.
SHORT_CONNECTIONS, PATH_CONNECTIONS = 4, 4
_ATTEMPTS = 4
_RIGHTS = 64  # more in one question are refused by Consul; the first ones tell enough
_PASSING_FAULTS = (ConsulUnreachable, ConsulUnavailable, ConsulOverloaded)
# No service has this tag: Consul answers [] with the service's own index (FACTS: the cheap probe).
_NO_SUCH_TAG = "grayctl.no-such-tag"
# Nobody is called this: Consul answers [] with the index of the last service that ended, or of all there are.
_NO_SUCH_SERVICE = "grayctl.no-such-service"


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a read returned, and the index to wait on for the next; indexes of two endpoints never mix."""

    index: int
    value: T


class Again(Generic[T]):
    """A decoder that knows its last answer again: where the same bytes come once more, so does the same value."""

    __slots__ = ("_decoder", "_digest", "_value")

    def __init__(self, decoder: Callable[[bytes], T]) -> None:
        self._decoder = decoder
        self._digest: int | None = None

    def __call__(self, body: bytes) -> T:
        """Decode, or remember."""
        digest = hash(body)  # SipHash with this process's own key, 64 bits: a seventh of what BLAKE2 takes
        if digest != self._digest:
            self._value = self._decoder(body)
            self._digest = digest
        return self._value


@dataclass(frozen=True, slots=True)
class Right:
    """A right: `kind` is service, node, key or session; `name` the service, node, key or session's node."""

    kind: str
    name: str
    access: str = "read"


class ConsulClient:
    """A connection to Consul; use it as `async with ConsulClient(settings, connections=90) as client`.

    Reads take `index` and `wait` (seconds): with `wait` they are long polls, held by Consul until something
    changes after `index`. Every method raises `grayctl.errors.ConsulError` and nothing else; an index that is
    missing, below 1 or no number is a ConsulProtocolError.

    Args:
        settings: where Consul is, and who we are there.
        connections: the most long polls at one time.

    Raises:
        SettingsError: on entering, when the token or a certificate cannot be read.
    """

    def __init__(self, settings: ConsulSettings, *, connections: int) -> None:
        self.settings = settings
        self.address = shown_address(settings)
        self._connections = connections
        self._datacenter = [("dc", settings.datacenter)] if settings.datacenter else []
        self._transports: list[Transport] = []
        # any registration's change brings this list again, mostly byte for byte: thousands are decoded once
        self._listed = Again(decode.services)

    async def __aenter__(self) -> Self:
        self._token = Token(self.settings)
        self._long = self._endpoints(self._connections)
        self._short = self._endpoints(SHORT_CONNECTIONS)
        self._path = self._endpoints(PATH_CONNECTIONS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports:
            await transport.close()

    def renew(self) -> None:
        """End all connections but the path check's; what was asked on them fails, what comes gets new ones."""
        self._long.http.abort()
        self._short.http.abort()

    def _endpoints(self, limit: int) -> Endpoints:
        transport = Transport(self.settings, self._token, limit=limit)
        transport.open()
        self._transports.append(transport)
        return Endpoints(transport, self.settings.datacenter)

    # ------------------------------------------------------------ reads

    async def services(
        self, *, index: int | None = None, wait: float | None = None
    ) -> Reply[dict[str, tuple[str, ...]]]:
        """All services, with their tags."""
        answer = await self._to(wait).catalog.services(index=index, wait=_go(wait))
        return self._reply(answer, self._listed)

    async def health(
        self,
        service: str,
        *,
        index: int | None = None,
        wait: float | None = None,
        decoder: Callable[[bytes], tuple[Registration, ...]] = decode.health,
    ) -> Reply[tuple[Registration, ...]]:
        """The registrations of one service, healthy or not, sorted; empty when there is no such service.

        Who asks again and again brings a `decoder` of his own, an `Again`.
        """
        answer = await self._to(wait).health.service(quote(service, safe=""), index=index, wait=_go(wait))
        return self._reply(answer, decoder)

    async def probe(self, services: Sequence[str]) -> tuple[int | None, ...]:
        """The index that `health` would have now, for each of a few services; None where the answer does not say.

        They are asked in one go over one connection, a tenth of what as many single questions cost.
        """
        paths = [f"/v1/health/service/{quote(service, safe='')}" for service in services]
        answers = await self._short.http.get_all(paths, [("tag", _NO_SUCH_TAG), *self._datacenter])
        return tuple(_index_alone(answer) for answer in answers)

    async def state(
        self, name: str, *, index: int | None = None, wait: float | None = None
    ) -> Reply[tuple[decode.Check, ...]]:
        """All checks in state `critical`, `warning`, `passing` or `any`, sorted."""
        answer = await self._to(wait).health.state(name, index=index, wait=_go(wait))
        return self._reply(answer, decode.checks)

    async def nodes(self, *, index: int | None = None, wait: float | None = None) -> Reply[dict[str, str]]:
        """All nodes, with their addresses."""
        answer = await self._to(wait).catalog.nodes(index=index, wait=_go(wait))
        return self._reply(answer, decode.nodes)

    async def kv(self, prefix: str, *, index: int | None = None, wait: float | None = None) -> Reply[tuple[Entry, ...]]:
        """All entries below `prefix`, sorted by key; none is an empty tuple, with its index."""
        endpoints = self._to(wait)
        answer = await endpoints.kv.get(quote(prefix, safe="/"), index=index, wait=_go(wait), recurse=True)
        if answer.status == faults.NOT_FOUND:
            return Reply(faults.index_of(answer.headers, self.address, answer.what), ())
        return self._reply(answer, decode.entries)

    async def entry(self, key: str) -> Entry | None:
        """One key; None when there is no such key."""
        answer = await self._short.kv.get(quote(key, safe="/"))
        if answer.status == faults.NOT_FOUND:
            return None
        return next(iter(self._decoded(answer, decode.entries)), None)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """The names of all keys below `prefix`, sorted."""
        answer = await self._short.kv.get(quote(prefix, safe="/"), keys=True)
        if answer.status == faults.NOT_FOUND:
            return ()
        return self._decoded(answer, lambda body: tuple(sorted(msgspec.json.decode(body, type=list[str]))))

    async def accessor(self) -> str:
        """The accessor of our own token, which names us without being a secret; empty without ACLs or a token."""
        if not self._token.current():
            return ""
        answer = await self._short.acl.self()
        if answer.status == faults.ACLS_OFF:
            return ""
        return self._decoded(answer, decode.accessor)

    async def agent_self(self) -> dict[str, Any]:
        """The agent's own configuration and membership."""
        return self._decoded(
            await self._short.agent.self(), lambda body: msgspec.json.decode(body, type=dict[str, Any])
        )

    async def glance(self) -> int:
        """An index that falls when the servers lose their state; the cheapest call that goes as far as the leader."""
        answer = await self._path.health.service(_NO_SUCH_SERVICE)
        return self._reply(answer, decode.health).index

    async def clock(self) -> float | None:
        """What time the agent has, in seconds since the epoch, to the second; None when it does not say."""
        said = (await self._short.status.leader()).headers.get(b"date", b"").decode("latin-1")
        try:
            return parsedate_to_datetime(said).timestamp()
        except ValueError:
            return None

    async def lacks(self, rights: Sequence[Right]) -> tuple[Right, ...]:
        """Those of `rights` that the token does not have; empty also where Consul cannot tell (no ACLs, too old).

        Under a deny policy Consul answers 200 and `[]` to a token that may not read (FACTS): this tells that from
        a service that is gone. It is the call that Consul's own UI makes; python-consul2 has no method for it.
        """
        asked = [{"Resource": right.kind, "Access": right.access, "Segment": right.name} for right in rights[:_RIGHTS]]
        body = msgspec.json.encode(asked)
        answer = await self._short.http.post(None, "/v1/internal/acl/authorize", self._datacenter, body)
        if answer.status in {401, faults.NOT_FOUND, 405}:  # ACLs are off; a Consul that does not know the call
            return ()
        allowed = self._decoded(answer, lambda body: msgspec.json.decode(body, type=list[dict[str, Any]]))
        return tuple(right for right, one in zip(rights, allowed, strict=False) if one.get("Allow") is False)

    # ------------------------------------------------------------ writes (see grayctl.consul.store)

    async def put(self, key: str, value: bytes, *, cas: int) -> bool:
        """Write `key` if its ModifyIndex is still `cas` (0: if it does not exist); False when it is not."""
        return self._decoded(await self._short.kv.put(quote(key, safe="/"), value, cas=cas), _true)

    async def delete(self, key: str, *, cas: int) -> bool:
        """Delete `key` if its ModifyIndex is still `cas`; False when it is not."""
        return self._decoded(await self._short.kv.delete(quote(key, safe="/"), cas=cas), _true)

    async def acquire(self, key: str, value: bytes, *, session: str) -> bool:
        """Write `key` and hold it by `session`; False when another session holds it."""
        return self._decoded(await self._short.kv.put(quote(key, safe="/"), value, acquire=session), _true)

    async def transact(self, operations: Sequence[Operation]) -> tuple[str, ...]:
        """Do all of it or nothing, by the functions of `grayctl.consul.transaction`.

        Returns:
            The keys whose check did not hold; without any, it is done.

        Raises:
            ConsulTooLarge: it is more than one transaction holds; Consul was not asked.
        """
        # not by python-consul2's Txn, which sends it to the agent's own datacenter whatever the settings say
        answer = await self._short.http.put(None, "/v1/txn", self._datacenter, transaction.body(operations))
        if answer.status != faults.CONFLICT:
            self._decoded(answer, lambda body: body)
            return ()
        return self._decoded(answer._replace(status=faults.OK), lambda body: transaction.stale(operations, body))

    async def create_session(self, name: str, *, ttl: int) -> str:
        """A session that ends unless it is renewed within `ttl` seconds; keys it held stay, held by nobody."""
        answer = await self._short.session.create(name=name, checks=[], lock_delay=0, ttl=ttl)
        return self._decoded(answer, lambda body: msgspec.json.decode(body, type=dict[str, str])["ID"])

    async def renew_session(self, session: str) -> bool:
        """Prolong a session; False when there is no such session any more."""
        answer = await self._short.session.renew(session)
        if answer.status == faults.NOT_FOUND:
            return False
        self._decoded(answer, lambda body: msgspec.json.decode(body, type=list[dict[str, Any]]))
        return True

    async def destroy_session(self, session: str) -> None:
        """End a session."""
        self._decoded(await self._short.session.destroy(session), _true)

    # ------------------------------------------------------------ the way of every answer

    def _to(self, wait: float | None) -> Endpoints:
        return self._short if wait is None else self._long

    def _reply(self, answer: Answer, decoder: Callable[[bytes], T]) -> Reply[T]:
        value = self._decoded(answer, decoder)
        return Reply(faults.index_of(answer.headers, self.address, answer.what), value)

    def _decoded(self, answer: Answer, decoder: Callable[[bytes], T]) -> T:
        if answer.status != faults.OK:
            body = self._token.scrub(answer.body.decode(errors="replace"))
            raise faults.of_status(answer.status, body, self.address, answer.what)
        try:
            return decoder(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = self._token.scrub(str(error))
        raise ConsulProtocolError(f"Consul at {self.address}: {answer.what}: the answer cannot be understood: {reason}")


async def bounded(call: Callable[[], Awaitable[T]]) -> T:
    """Ask up to four times, as a command does that must end; for reads alone, since a write may have happened.

    Raises:
        ConsulError: the last one; a denial or a senseless answer at once.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(_PASSING_FAULTS),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )

    async def attempt() -> T:
        return await call()

    return await retrying(attempt)


def _go(wait: float | None) -> str | None:
    """Seconds as Go writes a duration."""
    return None if wait is None else f"{max(1, round(wait * 1000))}ms"


def _index_alone(answer: Answer) -> int | None:
    text = answer.headers.get(b"x-consul-index", b"")
    return int(text) if answer.status == faults.OK and text.isdigit() else None


def _true(body: bytes) -> bool:
    return msgspec.json.decode(body, type=bool)
