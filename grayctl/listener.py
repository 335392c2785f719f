"""A small HTTP/1.1 server for loopback and a unix socket: one request a connection, read by httptools' parser."""

import asyncio
import http
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from grayctl import log

_LARGEST = 1 << 20  # bytes of a request, all told
_PATIENCE = 10.0  # seconds for a request to come
_FINISHING = 60.0  # seconds for what is under way when the listener closes: an activation and the proof of a rollback
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; `connection` is the socket it came over."""

    body: bytes
    connection: socket.socket


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    body: bytes
    status: int = 200
    content_type: str = _PLAIN


class Refused(Exception):  # noqa: N818 -- an answer rather than an error
    """A handler answers with this status and text instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Handler = Callable[[Request], Awaitable[Answer]]
Routes = Mapping[tuple[str, str], Handler]
"""(method, path) -> who answers; whoever answers GET answers HEAD."""


class Listener:
    """Answers by `routes` until it is closed. Make it on the loop that it listens on."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self._connections: set[_Connection] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._log = log.get("serve")

    async def on_tcp(self, host: str, port: int) -> None:
        """Listen on a port.

        Raises:
            OSError: it is taken, or not ours.
        """
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), host, port)

    async def on_unix(self, path: str) -> None:
        """Listen on a unix socket, which nobody else listens on.

        Raises:
            OSError: it cannot be made.
        """
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), path)

    async def close(self) -> None:
        """Listen no more; what is under way is answered."""
        if self._server is not None:
            self._server.close()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=_FINISHING)
            for one in late:
                one.cancel()
        for connection in self._connections:
            connection.end()
        await asyncio.sleep(0)  # the loop closes their sockets in its next round
        await asyncio.sleep(0)

    # ------------------------------------------------------------ for its connections

    def came(self, connection: "_Connection") -> None:
        """A connection is there."""
        self._connections.add(connection)

    def went(self, connection: "_Connection") -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def start(self, connection: "_Connection", method: str, path: str, request: Request) -> None:
        """Answer, in a task of its own."""

        async def answer() -> None:
            connection.say(await self._answer(method, path, request), headers_only=method == "HEAD")

        task = asyncio.create_task(answer())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, method: str, path: str, request: Request) -> Answer:
        handler = self.routes.get(("GET" if method == "HEAD" else method, path))
        if handler is None:
            return _refusal(404)
        try:
            return await handler(request)
        except Refused as refused:
            return Answer(str(refused).encode(), refused.status)
        except Exception:  # noqa: BLE001 -- a defect of one handler is told, and the daemon lives
            self._log.exception("request_failed", method=method, path=path)
            return _refusal(500)


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the end."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = HttpRequestParser(self)
        self._url = self._body = b""
        self._size = 0
        self._asked = False

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, transport.abort)
        self._listener.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._timer.cancel()
        self._listener.went(self)

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        try:
            with suppress(HttpParserUpgrade):  # whoever offers another protocol is answered in this one
                self._parser.feed_data(data)
        except HttpParserError:
            self._refuse(400)
        if self._size > _LARGEST:
            self._refuse(413)

    def _ask(self) -> None:
        try:
            path = parse_url(self._url).path.decode("ascii")
        except (HttpParserError, UnicodeDecodeError, AttributeError):
            self._refuse(400)
            return
        self._asked = True
        self._timer.cancel()
        request = Request(self._body, self._transport.get_extra_info("socket"))
        self._listener.start(self, self._parser.get_method().decode("ascii"), path, request)

    def _refuse(self, status: int) -> None:
        if not self._asked:
            self._asked = True
            self.say(_refusal(status))

    def say(self, answer: Answer, *, headers_only: bool = False) -> None:
        """Answer, and end the connection."""
        if self._transport.is_closing():  # nobody waits for it any more
            return
        head = (
            f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode("ascii") + (b"" if headers_only else answer.body))
        self._transport.close()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)  # nobody takes the answer

    def end(self) -> None:
        """End it, when what was said is sent."""
        self._transport.close()

    # ------------------------------------------------------------ what the parser tells

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._asked:  # one request a connection
            self._ask()


def _refusal(status: int) -> Answer:
    return Answer(f"{http.HTTPStatus(status).phrase}\n".encode(), status)
