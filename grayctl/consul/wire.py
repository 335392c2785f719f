"""HTTP/1.1 to one agent: a pool of connections that are kept alive, over TCP, TLS or a unix socket.

A thousand long polls wait at one time, and a sweep asks about each of thousands of services, so here a question costs a
future and a timer, and a connection its socket and a parser. httptools, the parser of Node.js, reads the answers.
Nothing is ever asked twice: for a long poll that would carry the index over to an agent that may have lost its state,
and hang there; a write would happen twice.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

_READ_AT_ONCE = 1 << 16
_ROUNDS = 10  # of the loop, in which it closes the sockets of what was aborted; two or three do
_MOMENT = 0.001  # seconds in which an agent answers a few questions
_CONTINUES = range(100, 200)  # an answer that only says that the answer will come

Opener = Callable[[Callable[[], "Connection"]], Awaitable[tuple[Any, "Connection"]]]


class CannotConnectError(OSError):
    """There is no connection; the text says why."""


class CutOffError(ConnectionError):
    """The connection ended before the answer did.

    Attributes:
        begun: whether a part of the answer had come.
    """

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class NoHTTPError(ValueError):
    """What came is no HTTP answer."""


class Raw(NamedTuple):
    """One answer; names of headers are lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Patience(NamedTuple):
    """Seconds for a connection, for the first byte of the answers, and from then on for their end."""

    connect: float
    first: float
    rest: float


class Connection(asyncio.BufferedProtocol):
    """One connection; it asks when told, and tells `ended` when it has ended.

    Args:
        buffer: what is read into; all connections share it, since whatever is read is parsed before anything else is.
        ended: called with it.
    """

    __slots__ = (
        "_answers",
        "_begun",
        "_body",
        "_buffer",
        "_ended",
        "_expected",
        "_fault",
        "_headers",
        "_loop",
        "_parser",
        "_timer",
        "_transport",
        "_until_end",
        "_waiting",
        "reusable",
    )

    def __init__(self, buffer: memoryview, ended: "Callable[[Connection], None]") -> None:
        self._buffer = buffer
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._answers: list[Raw] = []
        self._expected = 0
        self._waiting: asyncio.Future[list[Raw]] | None = None
        self._fault: Exception | None = None
        self._begun = self._until_end = False
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.reusable = True

    async def ask(self, requests: bytes, number: int, patience: Patience) -> list[Raw]:
        """Send `requests`, which are `number` of them, and return their answers in the same order.

        Raises:
            CutOffError, NoHTTPError, TimeoutError: there are not as many answers; the connection is of no use any more.
        """
        self._waiting = self._loop.create_future()
        self._expected = number
        if self._fault is None:
            self._transport.write(requests)
            if number > 1:  # each answer would wake us as it comes; a moment later they are there together
                self._transport.pause_reading()
                self._loop.call_later(_MOMENT, self._transport.resume_reading)
        self._timer = self._loop.call_later(patience.first, self._late, patience.rest)
        self._look()  # an agent with too many connections may have answered before it was asked
        try:
            return await self._waiting
        finally:
            self._timer.cancel()
            self._waiting = None

    def abort(self) -> None:
        """End it without a goodbye: TLS says it in the background, for ever where nobody answers."""
        self.reusable = False
        self._transport.abort()

    def _look(self) -> None:
        """Whether who waits need wait no longer."""
        if self._waiting is None or self._waiting.done():
            self.reusable = False  # nobody has asked for what came
        elif len(self._answers) >= self._expected:
            self.reusable = self.reusable and self._parser.should_keep_alive()
            self._waiting.set_result(self._answers)
            self._answers = []
        elif self._fault is not None:
            self._waiting.set_exception(self._fault)

    def _fail(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._look()
        self.abort()

    def _late(self, rest: float) -> None:
        if rest and (self._begun or self._answers):
            self._timer = self._loop.call_later(rest, self._late, 0.0)
        else:
            self._fail(TimeoutError())

    # ------------------------------------------------------------ what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read into."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade):
            self._fail(NoHTTPError())

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        if self._until_end and exc is None:
            self.on_message_complete()
        self._fail(CutOffError(begun=self._begun or bool(self._answers)))
        self._ended(self)
        del self._parser  # which refers back to it

    # ------------------------------------------------------------ what the parser calls

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """All of them: without a length the body lasts as long as the connection."""
        self._until_end = not self._headers.keys() & {b"content-length", b"transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._begun = self._until_end = False
        answer = Raw(self._parser.get_status_code(), self._headers, b"".join(self._body))
        self._headers, self._body = {}, []  # a connection that waits holds nothing of what came before
        if answer.status not in _CONTINUES:
            self._answers.append(answer)
            self._look()


class Pool:
    """Connections to one agent.

    Args:
        opener: makes a connection, such as the loop's `create_connection` with its arguments but the first.
        limit: the most at one time; who asks beyond that waits.
        keep: for how many seconds a connection stays open without a question.
    """

    def __init__(self, opener: Opener, limit: int, keep: float = 30.0) -> None:
        self._opener = opener
        self._keep = keep
        self._free = asyncio.Semaphore(limit)
        self._buffer = memoryview(bytearray(_READ_AT_ONCE))
        self._open: set[Connection] = set()
        self._parked: list[tuple[float, Connection]] = []  # since when; who came last stands last, and goes first
        self._tidying: asyncio.TimerHandle | None = None

    async def ask(self, requests: Sequence[bytes], patience: Patience) -> list[Raw]:
        """Send the requests over one connection, one straight after the other; returns their answers in that order.

        Raises:
            CannotConnectError, ssl.SSLError: there is no connection.
            CutOffError, NoHTTPError, TimeoutError: there are not as many answers.
        """
        async with self._free:
            connection = self._take() or await self._connect(patience.connect)
            try:
                answers = await connection.ask(b"".join(requests), len(requests), patience)
            except BaseException:  # cancelled too: the answer would come to who asks next
                connection.abort()
                raise
            if connection.reusable:
                self._park(connection)
            else:
                connection.abort()
            return answers

    def abort(self) -> None:
        """End all connections, at once; who waits for an answer gets CutOffError."""
        for connection in tuple(self._open):
            connection.abort()

    async def close(self) -> None:
        """The same, and for good."""
        if self._tidying is not None:
            self._tidying.cancel()
        self.abort()
        for _ in range(_ROUNDS):  # nothing tells when a socket is closed
            await asyncio.sleep(0)

    async def _connect(self, patience: float) -> Connection:
        try:
            async with asyncio.timeout(patience):
                _, connection = await self._opener(lambda: Connection(self._buffer, self._open.discard))
        except (TimeoutError, ssl.SSLError):
            raise
        except OSError as error:
            raise CannotConnectError(error.strerror or str(error)) from None
        self._open.add(connection)
        return connection

    def _take(self) -> Connection | None:
        while self._parked:
            _, connection = self._parked.pop()
            if connection.reusable:
                return connection
        return None

    def _park(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._parked.append((loop.time(), connection))
        if self._tidying is None:
            self._tidying = loop.call_later(self._keep, self._tidy)

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        while self._parked and (self._parked[0][0] <= loop.time() - self._keep or not self._parked[0][1].reusable):
            self._parked.pop(0)[1].abort()
        self._tidying = loop.call_at(self._parked[0][0] + self._keep, self._tidy) if self._parked else None
