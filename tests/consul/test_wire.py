"""The connections: answers come to who asked, nothing is asked twice, and no connection serves two askers' answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import pytest

from grayctl.consul.wire import CannotConnectError, CutOffError, NoHTTPError, Patience, Pool
from tests.support.ports import free_ports

PATIENCE = Patience(5, 5, 5)
SHORT = Patience(5, 0.1, 0.1)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\n\r\n"


def answer(body: bytes = b"[]", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"HTTP/1.1 " + b"\r\n".join([status, length, *headers, b"", body])


class Server:
    """Answers the n-th request of each connection with the n-th part of what the script holds for that connection.

    Attributes:
        connections: how many there were.
        asked: all that came.
        open: how many there are.
    """

    def __init__(self, scripts: Sequence[Sequence[bytes]], *, ends: bool, unasked: bytes = b"") -> None:
        self.connections = self.open = 0
        self.asked = b""
        self.port = 0
        self._scripts = scripts
        self._ends = ends
        self._unasked = unasked

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        self.open += 1
        writer.write(self._unasked)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for part in script:
                request = await reader.readuntil(b"\r\n\r\n")
                self.asked += request
                writer.write(part)
            if not self._ends:
                await reader.read()
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def serving(
    *scripts: Sequence[bytes], ends: bool = False, unasked: bytes = b"", limit: int = 2, keep: float = 30.0
) -> AsyncIterator[tuple[Server, Pool]]:
    found = Server(scripts, ends=ends, unasked=unasked)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    pool = Pool(partial(loop.create_connection, host="127.0.0.1", port=found.port), limit, keep)
    try:
        yield found, pool
    finally:
        await pool.close()
        server.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- what the other end saw is no event of ours
            await asyncio.sleep(0.005)


async def test_questions_one_after_another_take_one_connection() -> None:
    async with serving([answer(b"1"), answer(b"2")]) as (server, pool):
        assert [one.body for one in await pool.ask([ASK], PATIENCE)] == [b"1"]
        assert [one.body for one in await pool.ask([ASK], PATIENCE)] == [b"2"]
        assert server.connections == 1


async def test_questions_in_one_go_are_answered_in_order() -> None:
    async with serving([answer(b"1"), answer(b"2", status=b"403 Forbidden"), answer(b"3")]) as (server, pool):
        found = await pool.ask([b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(3)], PATIENCE)
        assert [(one.status, one.body) for one in found] == [(200, b"1"), (403, b"2"), (200, b"3")]
        assert server.connections == 1
        assert server.asked.index(b"/0") < server.asked.index(b"/1") < server.asked.index(b"/2")


async def test_never_more_connections_than_allowed() -> None:
    async with serving([answer()] * 20, limit=3) as (server, pool):
        await asyncio.gather(*(pool.ask([ASK], PATIENCE) for _ in range(20)))
        assert server.connections == 3


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abc"), id="after a hint that it will come"),
        pytest.param(answer(b"abc", b"x-consul-INDEX: 3"), id="plain"),
    ],
)
async def test_ways_to_answer(reply: bytes) -> None:
    async with serving([reply, answer(b"next")]) as (server, pool):
        assert (await pool.ask([ASK], PATIENCE))[0].body == b"abc"
        assert (await pool.ask([ASK], PATIENCE))[0].body == b"next"
        assert server.connections == 1


async def test_names_of_headers_are_lower_case() -> None:
    async with serving([answer(b"", b"X-Consul-INDEX: 3")]) as (_, pool):
        assert (await pool.ask([ASK], PATIENCE))[0].headers[b"x-consul-index"] == b"3"


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with serving([b"HTTP/1.0 503 Busy\r\n\r\nsorry"], ends=True) as (_, pool):
        assert [(one.status, one.body) for one in await pool.ask([ASK], PATIENCE)] == [(503, b"sorry")]


async def test_an_agent_with_too_many_connections_answers_before_it_is_asked() -> None:
    refusal = answer(b"too many", b"Connection: close", status=b"429 Too Many Requests")
    async with serving([], ends=True, unasked=refusal) as (_, pool):
        assert (await pool.ask([ASK], PATIENCE))[0].status == 429


@pytest.mark.parametrize(
    ("script", "ends"),
    [
        pytest.param([answer(b"1", b"Connection: close")], False, id="it says so"),
        pytest.param([answer(b"1")], True, id="it has ended"),
        pytest.param([answer(b"1") + answer(b"stray")], False, id="it said more than was asked"),
    ],
)
async def test_a_connection_of_no_more_use_is_not_asked_again(script: Sequence[bytes], *, ends: bool) -> None:
    async with serving(script, [answer(b"2")], ends=ends) as (server, pool):
        assert (await pool.ask([ASK], PATIENCE))[0].body == b"1"
        if ends:
            await until(lambda: not server.open)
            await asyncio.sleep(0.05)
        assert (await pool.ask([ASK], PATIENCE))[0].body == b"2"
        assert server.connections == 2


async def test_who_is_cancelled_leaves_no_answer_to_who_asks_next() -> None:
    async with serving([b""], [answer(b"2")], limit=1) as (server, pool):
        asking = asyncio.create_task(pool.ask([ASK], PATIENCE))
        await until(lambda: bool(server.asked))
        asking.cancel()
        assert (await pool.ask([ASK], PATIENCE))[0].body == b"2"
        assert server.connections == 2


@pytest.mark.parametrize(
    ("script", "begun"),
    [
        pytest.param([b""], False, id="without a word"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"], True, id="in the middle"),
        pytest.param([answer()], True, id="after the first of two"),
    ],
)
async def test_a_connection_that_ends_early_is_told_and_nothing_asked_again(
    script: Sequence[bytes], *, begun: bool
) -> None:
    async with serving(script, [answer()] * 2, ends=True) as (server, pool):
        with pytest.raises(CutOffError) as caught:
            await pool.ask([ASK, ASK] if script == [answer()] else [ASK], PATIENCE)
        assert caught.value.begun == begun
        assert server.connections == 1


async def test_what_is_no_http_is_told() -> None:
    async with serving([b"SSH-2.0-OpenSSH_9.2\r\n"]) as (_, pool):
        with pytest.raises(NoHTTPError):
            await pool.ask([ASK], PATIENCE)


@pytest.mark.parametrize(
    "part", [pytest.param(b"", id="silence"), pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="a part alone")]
)
async def test_patience_ends(part: bytes) -> None:
    async with serving([part], [answer()]) as (server, pool):
        with pytest.raises(TimeoutError):
            await pool.ask([ASK], SHORT)
        assert await pool.ask([ASK], PATIENCE)
        await until(lambda: server.open == 1)


async def test_all_connections_end_at_once() -> None:
    async with serving([b""], [b""], [answer()]) as (server, pool):
        asking = [asyncio.create_task(pool.ask([ASK], PATIENCE)) for _ in range(2)]
        await until(lambda: server.asked.count(b"GET") == 2)
        pool.abort()
        assert [type(one) for one in await asyncio.gather(*asking, return_exceptions=True)] == [CutOffError] * 2
        assert await pool.ask([ASK], PATIENCE)


async def test_a_connection_without_questions_is_given_up() -> None:
    async with serving([answer()] * 3, keep=0.05) as (server, pool):
        await pool.ask([ASK], PATIENCE)
        await until(lambda: not server.open)
        await pool.ask([ASK], PATIENCE)
        assert server.connections == 2


async def test_nobody_there() -> None:
    loop = asyncio.get_running_loop()
    pool = Pool(partial(loop.create_connection, host="127.0.0.1", port=free_ports(1)[0]), 1)
    with pytest.raises(CannotConnectError, match=r"Connect call failed|Connection refused"):
        await pool.ask([ASK], PATIENCE)
    await pool.close()
