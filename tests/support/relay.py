"""A TCP relay before an agent: counts requests, and turns into a black hole on demand."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator

from tests.support.background import stop_accepting
from tests.support.traffic import Traffic

_REQUEST = re.compile(rb"(?:GET|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class Relay(Traffic):
    """Relays every connection to `port`.

    Attributes:
        dead: connections made while this is true, and those that exist, swallow everything and answer nothing.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.address = ""
        self.open = 0
        self.dead = False
        self._doomed: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._unsent: list[asyncio.StreamWriter] = []  # closed with something left that the other end did not take
        self._closing = asyncio.Event()

    def blackhole(self) -> None:
        """From now on everything is swallowed, and the connections of now stay dead for ever."""
        self.dead = True
        self._doomed |= self._clients

    def heal(self) -> None:
        """New connections work; the dead ones stay dead, as after a firewall lost its state."""
        self.dead = False

    async def close(self) -> None:
        """End all connections, at once; one whose other end takes nothing any more would never end by itself."""
        self._closing.set()
        while self._clients:
            for client in self._clients:
                client.transport.abort()
            await asyncio.sleep(0.01)
        for writer in self._unsent:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self._clients.add(answer)
        self.open += 1
        if self.dead:
            self._doomed.add(answer)
        server: asyncio.StreamWriter | None = None
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
            jobs = {
                asyncio.create_task(self._up(client, server, answer)),
                asyncio.create_task(self._down(upstream, answer)),
            }
            _, pending = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in pending:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        except OSError:
            pass  # nobody behind: the client sees the connection closed
        finally:
            self.open -= 1
            self._clients.discard(answer)
            for writer in filter(None, (server, answer)):
                if writer.transport.get_write_buffer_size():
                    self._unsent.append(writer)
                writer.close()

    async def _up(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, answer: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(65536):
            self.requests += [(time.monotonic(), path.decode()) for path in _REQUEST.findall(data)]
            if answer not in self._doomed:
                server.write(data)
                await server.drain()

    async def _down(self, upstream: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(65536):
            if answer not in self._doomed:
                answer.write(data)
                await answer.drain()
        if answer in self._doomed:
            await self._closing.wait()  # a dead path does not tell that the other end has gone


@contextlib.asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """A relay on a port of its own before 127.0.0.1:`port`."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        await stop_accepting(*(one.fileno() for one in server.sockets))
        server.close()
        await relay.close()
