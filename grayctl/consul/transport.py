"""How bytes reach Consul: python-consul2's HTTPClient over a pool of connections (wire.py).

The library's own clients have no timeouts, drop client certificates, obey variables that override arguments and
open a connection for every request (FACTS, python-consul2), so only its endpoint classes are used.
"""

import asyncio
import base64
import ssl
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

from grayctl.consul import faults
from grayctl.consul.token import Token
from grayctl.consul.wire import Opener, Patience, Pool
from grayctl.errors import ConsulError, SettingsError
from grayctl.model.tokens import canonical_ip
from grayctl.settings import ConsulSettings

with warnings.catch_warnings():
    # Unmaintained: its regular expressions and six warn at import, which must not hurt a user under `-W error`.
    warnings.simplefilter("ignore")
    from consul import base

_Params = Iterable[tuple[str, object]] | None
# Consul adds up to a sixteenth of the wait; the rest is for a busy agent.
_WAIT_FACTOR, _WAIT_SLACK = 17 / 16, 5.0
_UNIX = "unix://"
_FORBIDDEN = 403
_SECOND_FAMILY = 0.25  # seconds after which an address of the other family is tried, too (RFC 8305)


class Answer(NamedTuple):
    """An HTTP answer, read to its end and not judged yet; names of headers are lower case."""

    status: int
    headers: Mapping[bytes, bytes]
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
        self._pool: Pool | None = None
        self.address = shown_address(settings)
        url = urlsplit("http://localhost" if settings.address.startswith(_UNIX) else settings.address)
        user, _, host = url.netloc.rpartition("@")
        self._path = url.path.rstrip("/")
        self._head = f" HTTP/1.1\r\nHost: {host}\r\nUser-Agent: grayctl\r\nAccept-Encoding: identity\r\n"
        if user:
            self._head += f"Authorization: Basic {base64.b64encode(unquote(user).encode()).decode()}\r\n"

    def open(self) -> None:
        """Make the pool; inside the loop that will use it.

        Raises:
            SettingsError: a certificate or key cannot be loaded.
        """
        self._pool = Pool(self._opener(), self._limit)

    def _opener(self) -> Opener:
        loop, address = asyncio.get_running_loop(), self._settings.address
        if address.startswith(_UNIX):
            return partial(loop.create_unix_connection, path=address.removeprefix(_UNIX))
        url = urlsplit(address)
        tls = url.scheme == "https"
        return partial(
            loop.create_connection,
            host=url.hostname,
            port=url.port or (443 if tls else 80),
            ssl=tls_context(self._settings) if tls else None,
            server_hostname=self._settings.tls_server_name or url.hostname if tls else None,
            # only a name has two families; and who gives up while they race leaves CPython's winner open as garbage
            happy_eyeballs_delay=None if canonical_ip(url.hostname or "") else _SECOND_FAMILY,
        )

    async def close(self) -> None:
        """Close all connections, at once."""
        if self._pool is not None:
            await self._pool.close()

    def abort(self) -> None:
        """End all connections, at once; the next request gets a new one."""
        if self._pool is not None:
            self._pool.abort()

    async def get(self, callback: object, path: str, params: _Params = None, headers: object = None) -> Answer:
        """Ask; a `wait` in the query stretches the read timeout."""
        del callback, headers
        return await self._request("GET", path, params)

    async def get_all(self, paths: Sequence[str], params: _Params = None) -> list[Answer]:
        """Ask for some paths over one connection, without waiting in between; the answers come in that order.

        The paths are quoted by who asks.
        """
        return await self._requests("GET", paths, params)

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
        # parts that the client has quoted already stay as they are
        return (await self._requests(method, [quote(path, safe="/:%")], params, data))[0]

    async def _requests(self, method: str, paths: Sequence[str], params: _Params, data: object = None) -> list[Answer]:
        """Some requests; after a 403 with an outdated token, once more with the new one (a 403 did nothing)."""
        query = list(params or ())
        token = self._token.current()
        answers = await self._send(method, paths, query, data, token)
        if any(one.status == _FORBIDDEN for one in answers) and self._token.refused(token):
            answers = await self._send(method, paths, query, data, self._token.current())
        return answers

    async def _send(
        self, method: str, paths: Sequence[str], query: list[tuple[str, object]], data: object, token: str
    ) -> list[Answer]:
        if self._pool is None:
            raise RuntimeError("the transport is not open: use `async with ConsulClient(...)`")
        body = data.encode() if isinstance(data, str) else data if isinstance(data, bytes) else b""
        length = "" if method == "GET" else f"Content-Length: {len(body)}\r\n"
        secret = f"X-Consul-Token: {token}\r\n" if token else ""
        rest = f"{_query(query)}{self._head}{secret}{length}\r\n"
        requests = [f"{method} {self._path}{path}{rest}".encode() + body for path in paths]
        fault: ConsulError
        try:
            raws = await self._pool.ask(requests, self._patience(query))
        except (OSError, ValueError) as error:
            fault = faults.of_transport(error, self.address, f"{method} {paths[0]}")
        else:
            return [Answer(*raw, f"{method} {path}") for raw, path in zip(raws, paths, strict=True)]
        raise fault  # outside the handler: the foreign error is no context either (see faults)

    def _patience(self, query: Iterable[tuple[str, object]]) -> Patience:
        settings = self._settings
        read = float(settings.read_timeout)
        for name, value in query:
            if name == "wait":
                read = int(str(value).removesuffix("ms")) / 1000 * _WAIT_FACTOR + _WAIT_SLACK
        return Patience(settings.connect_timeout, read, settings.read_timeout)  # a drip of bytes ends, too


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


def _query(query: Iterable[tuple[str, object]]) -> str:
    """As `urlencode`, which quotes what needs no quoting: an index and a wait, thousands of times a minute."""
    parts = []
    for name, value in query:
        text = str(value)
        parts.append(f"{name}={text if text.isascii() and text.isalnum() else quote_plus(text)}")
    return f"?{'&'.join(parts)}" if parts else ""


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
