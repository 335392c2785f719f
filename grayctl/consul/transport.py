"""How bytes reach Consul: python-consul2's HTTPClient over one pooled aiohttp session.

The library's own clients have no timeouts, drop client certificates, obey variables that override arguments and
open a connection for every request (FACTS, python-consul2), so only its endpoint classes are used.
"""

import asyncio
import ssl
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from grayctl.consul import faults
from grayctl.consul.token import Token
from grayctl.errors import ConsulError, SettingsError
from grayctl.settings import ConsulSettings

with warnings.catch_warnings():
    # Unmaintained: its regular expressions and six warn at import, which must not hurt a user under `-W error`.
    warnings.simplefilter("ignore")
    from consul import base

_Params = Iterable[tuple[str, object]] | None
# Consul adds up to a sixteenth of the wait; the rest is for a busy agent.
_WAIT_FACTOR, _WAIT_SLACK = 17 / 16, 5.0
_UNIX = "unix://"
# Whether the request that this task is sending has had its connection.
_CONNECTED: ContextVar[bool] = ContextVar("connected", default=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end and not judged yet."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    what: str


class Transport(base.HTTPClient):  # type: ignore[misc]  # -- python-consul2 ships no types
    """One pool of connections. The four methods are what the library's endpoint classes call.

    Each ignores the library's callback, which would decode with json (four times slower than msgspec, FACTS),
    turn the index into a string and a status into the library's own errors; it returns the raw `Answer`.

    Args:
        settings: where Consul is, and the timeouts.
        token: what goes into X-Consul-Token, and nowhere else.
        limit: the most connections at one time; more requests queue.
    """

    def __init__(self, settings: ConsulSettings, token: Token, *, limit: int) -> None:
        self._settings = settings
        self._token = token
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None
        self.address = shown_address(settings)
        self.base_uri = "http://localhost" if settings.address.startswith(_UNIX) else settings.address.rstrip("/")

    def open(self) -> None:
        """Make the session; inside the loop that will use it.

        Raises:
            SettingsError: a certificate or key cannot be loaded.
        """
        address = self._settings.address
        if address.startswith(_UNIX):
            connector: _Connections = _UnixConnections(
                path=address.removeprefix(_UNIX), limit=self._limit, keepalive_timeout=30.0
            )
        else:
            tls = tls_context(self._settings) if address.startswith("https:") else True
            connector = _TcpConnections(limit=self._limit, ssl=tls, keepalive_timeout=30.0)
        self._connections = connector
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,  # HTTP_PROXY would apply even to loopback
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections, at once."""
        if self._session is not None:
            await self._session.close()
            self.abort()
            await asyncio.sleep(0)  # the loop closes their sockets in its next round
            await asyncio.sleep(0)

    def abort(self) -> None:
        """End all connections, at once; the next request gets a new one."""
        self._connections.abort()

    def uri(self, path: str, params: _Params = None) -> str:
        """The library's, except that parts which the client has quoted already stay as they are."""
        query = f"?{urlencode(list(params))}" if params else ""
        return f"{self.base_uri}{quote(path, safe='/:%')}{query}"

    async def get(self, callback: object, path: str, params: _Params = None, headers: object = None) -> Answer:
        """Ask; a `wait` in the query stretches the read timeout."""
        del callback, headers
        return await self._request("GET", path, params)

    async def put(
        self, callback: object, path: str, params: _Params = None, data: object = "", headers: object = None
    ) -> Answer:
        """Write."""
        del callback, headers
        return await self._request("PUT", path, params, data)

    async def delete(
        self, callback: object, path: str, params: _Params = None, data: object = "", headers: object = None
    ) -> Answer:
        """Delete."""
        del callback, headers
        return await self._request("DELETE", path, params, data)

    async def post(
        self, callback: object, path: str, params: _Params = None, data: object = "", headers: object = None
    ) -> Answer:
        """Post."""
        del callback, headers
        return await self._request("POST", path, params, data)

    async def _request(self, method: str, path: str, params: _Params, data: object = None) -> Answer:
        """One request; after a 403 with an outdated token, one more with the new one (a 403 did nothing)."""
        query = list(params or ())
        token = self._token.current()
        answer = await self._send(method, path, query, data, token)
        if answer.status == 403 and self._token.refused(token):  # noqa: PLR2004 -- Forbidden
            answer = await self._send(method, path, query, data, self._token.current())
        return answer

    async def _send(self, method: str, path: str, query: list[tuple[str, object]], data: object, token: str) -> Answer:
        if self._session is None:
            raise RuntimeError("the transport is not open: use `async with ConsulClient(...)`")
        what = f"{method} {path}"
        headers = {"Accept-Encoding": "identity"} | ({"X-Consul-Token": token} if token else {})
        fault: ConsulError
        _CONNECTED.set(False)
        try:
            async with self._session.request(
                method,
                URL(self.uri(path, query), encoded=True),
                headers=headers,
                data=data or None,
                timeout=self._timeout(dict(query)),
                allow_redirects=False,  # a redirect would carry the token elsewhere
                server_hostname=self._settings.tls_server_name or None,
            ) as response:
                return Answer(response.status, response.headers, await response.read(), what)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            fault = faults.of_transport(error, self.address, what)
        raise fault  # outside the handler: the foreign error is no context either (see faults)

    def _timeout(self, query: Mapping[str, Any]) -> aiohttp.ClientTimeout:
        settings = self._settings
        read = float(settings.read_timeout)
        if "wait" in query:
            read = int(str(query["wait"]).removesuffix("ms")) / 1000 * _WAIT_FACTOR + _WAIT_SLACK
        return aiohttp.ClientTimeout(
            total=settings.connect_timeout + read + settings.read_timeout,  # a drip of bytes ends, too
            sock_connect=settings.connect_timeout,
            sock_read=read,
        )


class _Connections(aiohttp.BaseConnector):
    """A pool that asks once, and that can end all its connections at once."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **more: Any) -> Any:
        """A connection, new or pooled; the first one for this request only.

        When a connection breaks, aiohttp asks again on another one by itself. For a long poll that would carry the
        index over to an agent that may have lost its state, and hang there; a write would happen twice.
        """
        if _CONNECTED.get():
            raise aiohttp.ServerDisconnectedError
        connection = await super().connect(*arguments, **more)
        _CONNECTED.set(True)
        if connection.transport is not None:
            self._transports.add(connection.transport)
        return connection

    def abort(self) -> None:
        """End all transports without a goodbye: TLS says it in the background, for ever where nobody answers."""
        for transport in self._transports:
            if isinstance(transport, asyncio.Transport):
                transport.abort()


class _TcpConnections(_Connections, aiohttp.TCPConnector):
    """Over TCP, with or without TLS."""


class _UnixConnections(_Connections, aiohttp.UnixConnector):
    """Over a unix socket."""


class Endpoints:
    """What python-consul2's endpoint classes need to find on their client, and the classes themselves.

    Made without `consul.base.Consul.__init__`, which would let environment variables override the settings. It has
    no token: the transport adds that, in one place.
    """

    token = None
    consistency = "default"
    scheme = "http"

    def __init__(self, transport: Transport, datacenter: str) -> None:
        self.http = transport
        self.dc = datacenter or None
        make: Callable[[str], Any] = lambda name: getattr(base.Consul, name)(self)  # noqa: E731 -- untyped library
        self.acl, self.agent, self.catalog = make("ACL"), make("Agent"), make("Catalog")
        self.health, self.kv, self.session = make("Health"), make("KV"), make("Session")
        self.status, self.txn = make("Status"), make("Txn")


def shown_address(settings: ConsulSettings) -> str:
    """The address for messages: without a user and password, should the URL hold them."""
    parts = urlsplit(settings.address)
    return (
        settings.address.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else settings.address
    )


def tls_context(settings: ConsulSettings) -> ssl.SSLContext:
    """Verify the agent by `ca_file` (else the system's), present `cert_file` and `key_file` where given.

    Raises:
        SettingsError: naming the file.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise _unloadable("ca_file", settings.ca_file, error) from error
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
        except (OSError, ssl.SSLError) as error:
            both = " and ".join(filter(None, (settings.cert_file, settings.key_file)))
            raise _unloadable("cert_file", both, error) from error
    return context


def _unloadable(key: str, path: str, error: OSError) -> SettingsError:
    reason = getattr(error, "reason", "") or error.strerror or type(error).__name__
    return SettingsError(f"consul.{key}: cannot load {path}: {reason}. It must be readable and in PEM form")
