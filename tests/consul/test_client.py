"""The client: typed answers from a real agent, one kind of error from a scripted one, and no secret anywhere."""

import asyncio
import gc
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from grayctl.consul import decode
from grayctl.consul.client import Again, ConsulClient, Right, bounded
from grayctl.errors import (
    ConsulDenied,
    ConsulError,
    ConsulOverloaded,
    ConsulProtocolError,
    ConsulTooLarge,
    ConsulUnavailable,
    ConsulUnreachable,
)
from grayctl.settings import ConsulSettings, Duration, Secret
from tests.support.consul import Consul, MakeConsul
from tests.support.ports import free_ports
from tests.support.relay import relay_to
from tests.support.scripted import Scripted, answer, instance, script, scripted

TOKEN = "b1gs3cret-0000-token"


def settings(address: str, **more: object) -> ConsulSettings:
    return ConsulSettings(address=address, **more)  # type: ignore[arg-type]  # -- any field, by name


# ---------------------------------------------------------------- a real agent


async def test_reads_from_a_real_agent(consul: Consul, unique: str) -> None:
    consul.register(unique, f"{unique}-1", "10.0.0.1", 80, tags=["a"], weight=3)
    consul.put(f"{unique}/b", b"\x00\xff")
    consul.put(f"{unique}/a", b"")
    async with ConsulClient(settings(consul.address, datacenter="dc1"), connections=4) as client:
        assert (await client.services()).value[unique] == ("a",)
        health = await client.health(unique)
        assert [one.id for one in health.value] == [f"{unique}-1"]
        assert await client.probe([unique]) == (health.index,)
        entries = await client.kv(f"{unique}/")
        assert [(entry.key, entry.value) for entry in entries.value] == [
            (f"{unique}/a", b""),
            (f"{unique}/b", b"\x00\xff"),
        ]
        assert all(entry.modify_index > 0 for entry in entries.value)
        consul.set_check(f"{unique}-1", "critical")
        assert unique in {check.service_name for check in (await client.state("critical")).value}
        assert await client.glance()
        assert (await client.agent_self())["Config"]["NodeName"] == consul.node


async def test_nothing_is_empty_with_an_index(consul: Consul, unique: str) -> None:
    async with ConsulClient(settings(consul.address), connections=4) as client:
        for reply in (await client.kv(f"{unique}/"), await client.health(unique)):
            assert reply.value == ()
            assert reply.index >= 1


@pytest.mark.parametrize("name", ["with space", "a?b=c", "a#b", "a%2Fb", "ü", "a&b"])
async def test_names_are_quoted_once(consul: Consul, unique: str, name: str) -> None:
    """What stands in a name never becomes a path, a query or a second quoting."""
    service = f"{unique}{name}"
    consul.register(service, unique, "10.0.0.1", 80)
    async with ConsulClient(settings(consul.address), connections=4) as client:
        assert [one.service for one in (await client.health(service)).value] == [service]
        assert await client.put(f"{service}/x", b"1", cas=0)
        assert [entry.key for entry in (await client.kv(f"{service}/")).value] == [f"{service}/x"]


async def test_a_long_poll_wakes_and_returns_when_its_wait_is_over(consul: Consul, unique: str) -> None:
    async with ConsulClient(settings(consul.address), connections=4) as client:
        first = await client.kv(unique)
        same = await client.kv(unique, index=first.index, wait=0.2)
        assert same == first
        asking = asyncio.create_task(client.kv(unique, index=first.index, wait=30.0))
        consul.put(unique, "x")
        woken = await asyncio.wait_for(asking, 20)
        assert woken.index > first.index
        assert [entry.value for entry in woken.value] == [b"x"]


async def test_check_and_set_loses_no_write(consul: Consul, unique: str) -> None:
    async with ConsulClient(settings(consul.address), connections=4) as client:
        assert await client.put(unique, b"mine", cas=0)
        assert not await client.put(unique, b"also mine", cas=0)
        (entry,) = (await client.kv(unique)).value
        assert not await client.delete(unique, cas=entry.modify_index + 1)
        assert await client.put(unique, b"newer", cas=entry.modify_index)
        assert not await client.delete(unique, cas=entry.modify_index)
        assert consul.get(unique) == b"newer"


async def test_long_polls_do_not_starve_short_calls(consul: Consul, unique: str) -> None:
    """With every long connection taken, a short call is answered at once."""
    async with ConsulClient(settings(consul.address), connections=3) as client:
        index = (await client.kv(unique)).index
        polls = [asyncio.create_task(client.kv(unique, index=index, wait=60.0)) for _ in range(9)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(client.glance(), 10)
        assert not any(poll.done() for poll in polls)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_connections_are_pooled_and_bounded(consul: Consul, unique: str) -> None:
    async with relay_to(consul.http_port) as relay:
        async with ConsulClient(settings(relay.address), connections=5) as client:
            await asyncio.gather(*(client.kv(unique) for _ in range(100)))
            assert len(relay.requests) == 100
            assert 1 <= relay.open <= 8
            index = (await client.kv(unique)).index
            await asyncio.gather(*(client.kv(unique, index=index, wait=0.1) for _ in range(30)))
            assert relay.open <= 8 + 5
        for _ in range(200):
            if not relay.open:
                break
            await asyncio.sleep(0.05)
        assert relay.open == 0, "closing the client leaves no connection behind"


async def test_a_unix_socket(make_consul: MakeConsul) -> None:
    path = f"/tmp/grayctl-{os.getpid()}-{free_ports(1)[0]}.sock"
    try:
        agent = make_consul(config={"addresses": {"http": f"127.0.0.1 unix://{path}"}})
        agent.put("a", "b")
        async with ConsulClient(settings(f"unix://{path}"), connections=2) as client:
            assert [entry.value for entry in (await client.kv("a")).value] == [b"b"]
    finally:
        Path(path).unlink(missing_ok=True)  # noqa: ASYNC240 -- one unlink at the end of a test


# ---------------------------------------------------------------- a scripted one


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, "bad request", ConsulProtocolError),
        (401, "ACL support disabled", ConsulDenied),
        (403, "ACL not found", ConsulDenied),
        (404, "", ConsulProtocolError),
        (413, "too large", ConsulTooLarge),
        (429, "slow down", ConsulOverloaded),
        (500, "No cluster leader", ConsulUnavailable),
        (503, "", ConsulUnavailable),
        (302, "", ConsulProtocolError),
        (200, "[", ConsulProtocolError),
        (200, "<html>", ConsulProtocolError),
        (200, '{"a": 1}', ConsulProtocolError),
    ],
)
async def test_each_status_is_one_error(status: int, body: str, error: type[ConsulError]) -> None:
    async with scripted() as fake:
        fake.handlers["/v1/health/service/shop"] = script(
            web.Response(status=status, text=body, headers={"X-Consul-Index": "1", "Location": "/elsewhere"})
        )
        async with ConsulClient(settings(fake.address), connections=2) as client:
            with pytest.raises(error) as caught:
                await client.health("shop")
        message = str(caught.value)
        assert fake.address in message
        assert "/v1/health/service/shop" in message
        assert body in message or status == 200
        assert [path for path, _ in fake.asked] == ["/v1/health/service/shop"], "no redirect is followed"


@pytest.mark.parametrize("index", ["0", "-1", "x", "", "1.5", "٣"])
async def test_a_senseless_index_is_an_error(index: str) -> None:
    async with scripted() as fake:
        fake.handlers["/v1/kv/a/"] = script(answer([], index))
        async with ConsulClient(settings(fake.address), connections=2) as client:
            with pytest.raises(ConsulProtocolError, match="X-Consul-Index"):
                await client.kv("a/")


async def test_a_missing_index_is_an_error() -> None:
    async with scripted() as fake:
        fake.handlers["/v1/kv/a/"] = script(web.Response(status=404))
        async with ConsulClient(settings(fake.address), connections=2) as client:
            with pytest.raises(ConsulProtocolError, match="X-Consul-Index is missing"):
                await client.kv("a/")


async def raw_server(reply: bytes) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", ConsulUnreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Consul-Index: 3\r\n\r\n[", ConsulUnreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Consul-Index: 3\r\n\r\n5\r\n[", ConsulUnreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ConsulProtocolError),
        (b"\x15\x03\x01\x00\x02\x02\x46", ConsulProtocolError),
    ],
)
async def test_what_is_no_whole_http_answer_is_an_error(reply: bytes, error: type[ConsulError]) -> None:
    server, address = await raw_server(reply)
    async with server, ConsulClient(settings(address), connections=2) as client:
        with pytest.raises(error):
            await client.health("shop")


async def test_nobody_there() -> None:
    async with ConsulClient(settings(f"http://127.0.0.1:{free_ports(1)[0]}"), connections=2) as client:
        with pytest.raises(ConsulUnreachable, match="cannot connect"):
            await client.glance()


async def test_an_agent_that_hangs_is_left_after_the_read_timeout() -> None:
    async with scripted() as fake:
        fake.handlers["/v1/health/service/grayctl.no-such-service"] = script()
        async with ConsulClient(settings(fake.address, read_timeout=Duration(0.2)), connections=2) as client:
            with pytest.raises(ConsulUnreachable, match="no answer in time"):
                await asyncio.wait_for(client.glance(), 20)


async def test_a_token_travels_in_the_header_and_nowhere_else() -> None:
    async with scripted() as fake:
        async with ConsulClient(
            settings(fake.address, token=Secret(TOKEN), datacenter="east"), connections=2
        ) as client:
            await client.services()
            await client.kv("a", index=None, wait=1.0)
            await client.glance()
            await client.probe(["shop"])
            assert TOKEN not in repr(client) + repr(client.settings) + str(vars(client))
        assert all(headers["X-Consul-Token"] == TOKEN for headers in fake.headers)
        assert all(headers["Accept-Encoding"] == "identity" for headers in fake.headers)
        assert TOKEN not in str(fake.asked)
        assert fake.queries("/v1/catalog/services") == [{"dc": "east"}]
        assert fake.queries("/v1/health/service/shop")[0]["dc"] == "east"


async def failures(fake: Scripted, address: str, **more: object) -> list[BaseException]:
    """Every kind of failure that a token could leak through."""
    echo = f"token {TOKEN} is not known"
    responses = [web.Response(status=status, text=echo) for status in (400, 401, 403, 403, 429, 500)]
    responses += [answer([TOKEN], 1), answer([], TOKEN), web.Response(status=301, headers={"Location": f"/{TOKEN}"})]
    caught: list[BaseException] = []
    for response in responses:
        fake.handlers["/v1/health/service/shop"] = script(response)
        async with ConsulClient(settings(address, token=Secret(TOKEN), **more), connections=2) as client:
            try:
                await client.health("shop")
            except ConsulError as error:
                caught.append(error)
    assert len(caught) == len(responses)
    return caught


async def test_no_failure_shows_the_token() -> None:
    """Neither the message, nor the traceback; no foreign error is chained."""
    async with scripted() as fake:
        with structlog.testing.capture_logs() as logs:
            caught = await failures(fake, fake.address)
        server, address = await raw_server(b"garbage\r\n\r\n")
        async with server, ConsulClient(settings(address, token=Secret(TOKEN)), connections=2) as client:
            with pytest.raises(ConsulError) as wrong:
                await client.health("shop")
        for error in [*caught, wrong.value]:
            assert TOKEN not in str(error) + repr(error)
            assert error.__cause__ is None
            assert error.__context__ is None
            assert TOKEN not in "".join(traceback.format_exception(error))
        assert TOKEN not in str(logs)


async def test_a_user_in_the_address_is_not_shown() -> None:
    port = free_ports(1)[0]
    async with ConsulClient(settings(f"http://me:pa55@127.0.0.1:{port}"), connections=2) as client:
        with pytest.raises(ConsulUnreachable) as caught:
            await client.glance()
    assert "pa55" not in str(caught.value)
    assert f"http://127.0.0.1:{port}" in str(caught.value)


async def test_a_proxy_of_the_environment_is_not_obeyed(consul: Consul, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "CONSUL_HTTP_ADDR"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "other")
    async with ConsulClient(settings(consul.address), connections=2) as client:
        assert await client.glance()


async def test_bounded_tries_again_and_ends() -> None:
    async with scripted() as fake, ConsulClient(settings(fake.address), connections=2) as client:
        fake.handlers["/v1/kv/a/"] = script(web.Response(status=500), web.Response(status=429), answer([], 7))
        assert (await bounded(lambda: client.kv("a/"))).index == 7
        fake.handlers["/v1/kv/b/"] = script(*[web.Response(status=500) for _ in range(9)])
        with pytest.raises(ConsulUnavailable):
            await bounded(lambda: client.kv("b/"))
        assert len(fake.queries("/v1/kv/b/")) == 4
        fake.handlers["/v1/kv/c/"] = script(*[web.Response(status=403) for _ in range(9)])
        with pytest.raises(ConsulDenied):
            await bounded(lambda: client.kv("c/"))
        assert len(fake.queries("/v1/kv/c/")) == 1


@pytest.mark.parametrize("status", [401, 404, 405])
async def test_rights_are_unknown_where_consul_cannot_tell(status: int) -> None:
    async with scripted() as fake, ConsulClient(settings(fake.address), connections=2) as client:
        fake.handlers["/v1/internal/acl/authorize"] = script(web.Response(status=status))
        assert await client.lacks([Right("service", "shop")]) == ()


async def test_a_probe_tells_who_does_not_say() -> None:
    async with scripted() as fake, ConsulClient(settings(fake.address), connections=2) as client:
        for number in range(5):
            fake.handlers[f"/v1/health/service/shop-{number}"] = script(answer([], number + 7))
        fake.handlers["/v1/health/service/shop-1"] = script(web.Response(status=403))
        fake.handlers["/v1/health/service/shop-3"] = script(answer([], "x"))
        assert await client.probe([f"shop-{number}" for number in range(5)]) == (7, None, 9, None, 11)


async def test_what_comes_again_byte_for_byte_is_not_decoded_again() -> None:
    async with scripted() as fake, ConsulClient(settings(fake.address), connections=2) as client:
        value, other = answer([instance("shop")], 42), answer([instance("shop", 2)], 44)
        broken = web.Response(body=b"[", headers={"X-Consul-Index": "43"})
        answers = [value, answer([instance("shop")], 43), broken, answer([instance("shop")], 43), other]
        fake.handlers["/v1/health/service/shop"] = script(*answers)
        decoder = Again(decode.health)
        first = await client.health("shop", decoder=decoder)
        again = await client.health("shop", decoder=decoder)
        assert again.value is first.value
        assert again.index == 43
        with pytest.raises(ConsulProtocolError):
            await client.health("shop", decoder=decoder)
        assert (await client.health("shop", decoder=decoder)).value is first.value
        assert (await client.health("shop", decoder=decoder)).value[0].id == "shop-2"


async def test_a_health_answer_is_decoded_whatever_the_library_would_do() -> None:
    """The index is a number, and an instance is typed: python-consul2's callback is not used."""
    async with scripted() as fake, ConsulClient(settings(fake.address), connections=2) as client:
        fake.handlers["/v1/health/service/shop"] = script(answer([instance("shop")], 42))
        reply = await client.health("shop")
        assert reply.index == 42
        assert reply.value[0].address == "10.0.0.1"


def test_importing_us_is_silent_under_w_error() -> None:
    """python-consul2 warns at import; a user who runs with -W error is not to suffer from it."""
    code = "import warnings, grayctl.consul.client; assert warnings.filters[0][0] == 'error'"
    done = subprocess.run(
        [sys.executable, "-B", "-X", "pycache_prefix=/nonexistent", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


async def test_who_gives_up_while_it_connects_leaves_no_connection_open(consul: Consul) -> None:
    """A socket that only the garbage collector closes is a warning, and warnings are errors."""
    async with ConsulClient(settings(consul.address), connections=4) as client:
        for turns in range(200):
            asked = asyncio.create_task(client.glance())
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
    gc.collect()
