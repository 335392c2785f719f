"""Stands between grayctl and a real Consul, and breaks answers as a test says, while both run.

A fault is an async function that takes an `Exchange` and gives the answer. What was under way when a fault is switched
on meets it at once; what a fault still holds when it ends is cut, except by `hang`, which never lets go.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tests.support.background import in_background, stop_accepting
from tests.support.traffic import Traffic

_INDEX = "X-Consul-Index"
_KEPT = (_INDEX, "Content-Type")


@dataclass
class Genuine:
    """What the real Consul answered."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@dataclass
class Exchange:
    """One request of grayctl's, and the way to the real Consul."""

    request: web.Request
    body: bytes
    behind: str
    session: aiohttp.ClientSession

    @property
    def index(self) -> int | None:
        """The index that this blocking query waits on; None when it is none."""
        found = self.request.query.get("index")
        return int(found) if found else None

    async def genuine(self, *, at_once: bool = False) -> Genuine:
        """Ask the real Consul; `at_once` makes a plain read of a blocking query."""
        query = [(key, value) for key, value in self.request.query.items() if key not in {"index", "wait"}]
        async with self.session.request(
            self.request.method,
            f"{self.behind}{self.request.path}",
            params=query if at_once else self.request.query,
            headers={key: value for key, value in self.request.headers.items() if key.startswith("X-")},
            data=self.body or None,
        ) as answer:
            kept = CIMultiDict((key, answer.headers[key]) for key in _KEPT if key in answer.headers)
            return Genuine(answer.status, kept, await answer.read())

    def close(self, words: bytes = b"") -> web.Response:
        """Say `words` as they are, perhaps nothing, and close the connection; the answer is for the library alone."""
        transport = self.request.transport
        if transport is not None:
            transport.write(words)
            transport.close()
        return web.Response()


Fault = Callable[[Exchange], Awaitable[web.StreamResponse]]


class FaultProxy(Traffic):
    """Passes everything on until a fault is switched on. Its methods may be called from any thread.

    Attributes:
        address: for `consul.address`.
        bitten: requests that met a fault.
    """

    def __init__(self, behind: str) -> None:
        super().__init__()
        self.address = ""
        self.bitten = 0
        self._behind = behind
        self._fault: Fault | None = None
        self._only = ""
        self._switched = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def bring(self, fault: Fault, only: str = "") -> None:
        """From now on `fault` answers what begins with the path `only`."""
        self._switch(fault, only)

    def heal(self) -> None:
        """From now on everything is passed on again."""
        self._switch(None, "")

    def _switch(self, fault: Fault | None, only: str) -> None:
        async def switch() -> None:
            self._fault, self._only = fault, only
            self._switched.set()
            self._switched = asyncio.Event()

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(switch(), self._loop).result()

    # ------------------------------------------------------------ on its own loop

    async def run(self, session: aiohttp.ClientSession) -> web.AppRunner:
        """Listen."""
        self._loop = asyncio.get_running_loop()

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests.append((time.monotonic(), request.path_qs))
            return await self._answer(Exchange(request, await request.read(), self._behind, session))

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await runner.setup()
        self.listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, self.listening).start()
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        return runner

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        while True:
            switched = asyncio.ensure_future(self._switched.wait())
            fault = self._fault if exchange.request.path.startswith(self._only) else None
            self.bitten += fault is not None
            job = asyncio.ensure_future(fault(exchange) if fault else _pass(exchange))
            waited = {job} if fault is hang else {job, switched}
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                switched.cancel()
                if not job.done():
                    job.cancel()
            if job.done() and not job.cancelled():
                return job.result()
            if fault is not None:
                return exchange.close()


async def _pass(exchange: Exchange) -> web.StreamResponse:
    try:
        return (await exchange.genuine()).response()
    except aiohttp.ClientError:
        return exchange.close()  # nobody behind: the client sees the connection closed


# ---------------------------------------------------------------- faults


async def hang(_: Exchange) -> web.StreamResponse:
    """Never answer; the connection stays open, also after the fault has ended."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def drop(exchange: Exchange) -> web.StreamResponse:
    """Close the connection without a word."""
    return exchange.close()


def late(seconds: float) -> Fault:
    """Each answer comes that much later."""

    async def fault(exchange: Exchange) -> web.StreamResponse:
        genuine = await exchange.genuine()
        await asyncio.sleep(seconds)
        return genuine.response()

    return fault


async def truncate(exchange: Exchange) -> web.StreamResponse:
    """Half of what was announced, then the connection is closed."""
    genuine = await exchange.genuine(at_once=True)
    return exchange.close(_raw(genuine, len(genuine.body), genuine.body[: len(genuine.body) // 2]))


async def announce_half(exchange: Exchange) -> web.StreamResponse:
    """All of the answer under a Content-Length of half of it."""
    genuine = await exchange.genuine(at_once=True)
    return exchange.close(_raw(genuine, len(genuine.body) // 2, genuine.body))


async def halve(exchange: Exchange) -> web.StreamResponse:
    """Half of the JSON, as a whole and valid HTTP answer."""
    genuine = await exchange.genuine(at_once=True)
    genuine.body = genuine.body[: len(genuine.body) // 2]
    return genuine.response()


def say(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Fault:
    """The same answer to everything, at once."""

    async def fault(_: Exchange) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return fault


async def empty(exchange: Exchange) -> web.StreamResponse:
    """Nothing is there, politely, with an index that fits: no service, instance, key. Then wait as Consul does."""
    request = exchange.request
    genuine = await exchange.genuine(at_once=True)
    if _INDEX not in genuine.headers:
        return genuine.response()  # the path check
    index = int(genuine.headers[_INDEX]) + 1
    if exchange.index is not None and exchange.index >= index:
        await asyncio.Event().wait()
    if request.path.startswith("/v1/kv/"):
        return web.Response(status=404, headers={_INDEX: str(index)})
    body = b"{}" if request.path == "/v1/catalog/services" else b"[]"
    return web.Response(body=body, headers={_INDEX: str(index), "Content-Type": "application/json"})


def with_index(change: Callable[[int | None, int], object | None]) -> Fault:
    """A true answer, at once, under `change(index waited on, true index)`; None leaves the header out."""

    async def fault(exchange: Exchange) -> web.StreamResponse:
        genuine = await exchange.genuine(at_once=True)
        if _INDEX in genuine.headers:
            index = change(exchange.index, int(genuine.headers.pop(_INDEX)))
            if index is not None:
                genuine.headers[_INDEX] = str(index)
        return genuine.response()

    return fault


def _raw(genuine: Genuine, announced: int, body: bytes) -> bytes:
    headers = "".join(f"{key}: {value}\r\n" for key, value in genuine.headers.items())
    return f"HTTP/1.1 {genuine.status} OK\r\n{headers}Content-Length: {announced}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def _serving(behind: str) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(behind)
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as session:
        runner = await proxy.run(session)
        try:
            yield proxy
        finally:
            await stop_accepting(proxy.listening.fileno())
            await runner.cleanup()


def fault_proxy(behind: str) -> AbstractContextManager[FaultProxy]:
    """A fault proxy on a port of its own, in a thread, before the agent at the address `behind`."""
    return in_background(_serving(behind))
