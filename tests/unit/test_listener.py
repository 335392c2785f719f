"""The HTTP server of the daemon's two faces, asked over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from grayctl import listener
from grayctl.listener import Answer, Listener, Refused, Request

Ask = Callable[..., Awaitable[bytes]]


async def echo(request: Request) -> Answer:
    return Answer(request.body or b"nothing", content_type="text/odd")


async def refuses(_: Request) -> Answer:
    raise Refused(403, "not you\n")


async def fails(_: Request) -> Answer:
    raise ValueError("a defect")


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Ask]:
    """Sends these pieces on one connection, and returns all that comes until its end."""
    routes = {("GET", "/echo"): echo, ("POST", "/echo"): echo, ("GET", "/no"): refuses, ("GET", "/fails"): fails}
    one = Listener(routes)
    await one.on_unix(str(tmp_path / "s"))

    async def ask(*pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    yield ask
    await one.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_request_is_answered_and_the_connection_ends(ask: Ask) -> None:
    answer = await ask(b"GET /echo?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/odd\r\nContent-Length: 7\r\nConnection: close\r\n\r\nnothing"
    )


async def test_a_request_may_come_in_any_pieces(ask: Ask) -> None:
    text = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    assert (await ask(*(bytes([one]) for one in text))).endswith(b"\r\n\r\nbody")
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
    assert (await ask(chunked)).endswith(b"\r\n\r\nbody")


async def test_head_says_how_long_the_answer_would_be(ask: Ask) -> None:
    answer = await ask(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 7\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_only_the_first_request_of_a_connection_is_answered(ask: Ask) -> None:
    assert (await ask(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" * 3)).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET /fails HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"\x16\x03\x01 TLS?\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    ],
)
async def test_what_cannot_be_answered_is_told(ask: Ask, request_text: bytes, expected: int) -> None:
    assert status(await ask(request_text)) == expected


async def test_after_anything_the_next_one_is_answered(ask: Ask) -> None:
    for nonsense in (b"", b"\r\n", b"GET", b"\x00" * 100, b"GET /fails HTTP/1.1\r\n\r\n"):
        task = asyncio.ensure_future(ask(nonsense))
        assert status(await ask(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")) == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_request_that_does_not_come_is_not_waited_for(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PATIENCE", 0.05)
    assert await ask(b"GET /echo HTTP/1.1\r\n") == b""


async def test_a_request_that_is_too_large_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LARGEST", 1000)
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert status(await ask(head % 900 + 900 * b"x")) == 200
    assert status(await ask(head % 5000 + 1000 * b"x")) == 413


async def test_what_is_under_way_is_answered_when_the_listener_closes(tmp_path: Path) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Answer:
        begun.set()
        await goes_on.wait()
        return Answer(b"done")

    one = Listener({("POST", "/slow"): slow})
    await one.on_unix(str(tmp_path / "s"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await begun.wait()
    closing = asyncio.ensure_future(one.close())
    await asyncio.sleep(0)
    with pytest.raises(OSError):  # noqa: PT011 -- refused or reset, as the moment has it
        await asyncio.open_unix_connection(str(tmp_path / "s"))
    assert not closing.done()
    goes_on.set()
    assert (await reader.read()).endswith(b"done")
    await closing
    writer.close()
    await writer.wait_closed()
