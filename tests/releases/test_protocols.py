"""What a release decides for TCP, gRPC, WebSocket, HTTP/2 and kept connections, each with a client of its own kind."""

import asyncio
import contextlib
import http.client
import http.server
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import grpc
import h2.connection
import h2.events
import pytest
from aiohttp import web

from grayctl.policy.explain import explain
from grayctl.policy.request import Request
from tests.releases.clients import grpc_server, hears, speaker, threaded
from tests.releases.site import Instance, plan_of, served
from tests.support.nginx import LOAD_STREAM
from tests.support.ports import free_ports

VERSIONS = ("v1", "v2")
HTTP = """
service: shop
stable: v1
routes: [{name: testers, match: {header: {X-Version: v2}}, to: v2}]
"""


# ---------------------------------------------------------------- TCP


@pytest.mark.skipif(LOAD_STREAM is None, reason="this nginx has no stream: on Debian it is libnginx-mod-stream")
def test_tcp_is_split_by_the_clients_address_and_its_networks_decide(tmp_path: Path) -> None:
    one, two, edge = free_ports(3)
    policy = """
service: queue
protocol: tcp
stable: v1
traffic: {v2: 40}
routes: [{name: office, match: {client_ip: 127.8.0.0/16}, to: v2}]
"""
    plan = plan_of(policy, [Instance(one, "v1"), Instance(two, "v2")])
    listen = f"server {{ listen 127.0.0.1:{edge}; include {tmp_path}/queue.pass; }}"
    seen: Counter[str] = Counter()
    with (
        threaded(speaker("v1"), one),
        threaded(speaker("v2"), two),
        served(tmp_path, [plan], stream=listen, ports=[edge]),
    ):
        for number in range(1, 60):
            source = f"127.0.1.{number}"
            heard = hears(edge, source)
            told = explain("queue", "queue", plan.tables, Request(address=source))
            assert heard == told.version == hears(edge, source), "an address keeps its version"
            seen[heard] += 1
        assert {hears(edge, f"127.8.0.{number}") for number in range(1, 9)} == {"v2"}
    assert seen.keys() == {"v1", "v2"}


@pytest.mark.skipif(LOAD_STREAM is None, reason="this nginx has no stream: on Debian it is libnginx-mod-stream")
def test_tcp_of_which_nothing_is_decided_goes_to_an_upstream_by_its_name(tmp_path: Path) -> None:
    one, edge = free_ports(2)
    plan = plan_of("service: queue\nprotocol: tcp\nstable: v1\n", [Instance(one, "v1")])
    listen = f"server {{ listen 127.0.0.1:{edge}; include {tmp_path}/queue.pass; }}"
    with threaded(speaker("v1"), one), served(tmp_path, [plan], stream=listen, ports=[edge]):
        assert (tmp_path / "queue.pass").read_text(encoding="utf-8").strip() == "proxy_pass queue.v1.gray;"
        assert hears(edge, "127.0.0.1") == "v1"


@pytest.mark.skipif(LOAD_STREAM is None, reason="this nginx has no stream: on Debian it is libnginx-mod-stream")
def test_tcp_without_any_instance_is_closed(tmp_path: Path) -> None:
    (edge,) = free_ports(1)
    plan = plan_of("service: queue\nprotocol: tcp\nstable: v1\n", [])
    listen = f"server {{ listen 127.0.0.1:{edge}; include {tmp_path}/queue.pass; }}"
    with served(tmp_path, [plan], stream=listen, ports=[edge]):
        assert hears(edge, "127.0.0.1") == ""


# ---------------------------------------------------------------- gRPC


def test_grpc_calls_on_one_channel_go_where_each_ones_metadata_says(tmp_path: Path) -> None:
    one, two, edge = free_ports(3)
    policy = HTTP.replace("stable: v1", "stable: v1\nprotocol: grpc\nexplicit: {header: X-Pin, unknown: reject}")
    plan = plan_of(policy, [Instance(one, "v1"), Instance(two, "v2")])
    location = f"include {tmp_path}/shop.pass;"
    listen = f"server {{ listen 127.0.0.1:{edge} http2; location / {{ {location} }} }}"
    servers = [grpc_server("v1", one, "Greeter"), grpc_server("v2", two, "Greeter")]
    try:
        with (
            served(tmp_path, [plan], http=listen, ports=[edge]),
            grpc.insecure_channel(f"127.0.0.1:{edge}") as channel,
        ):
            call = channel.unary_unary("/Greeter/Greet")
            assert call(b"hello", timeout=5) == b"v1 hello v1"
            assert call(b"hello", timeout=5, metadata=[("x-version", "v2")]) == b"v2 hello v2"
            assert call(b"hello", timeout=5, metadata=[("x-pin", "v2")]) == b"v2 hello v2"
    finally:
        for server in servers:
            server.stop(None).wait()


def test_grpc_of_which_nothing_is_decided_goes_to_an_upstream_by_its_name(tmp_path: Path) -> None:
    one, edge = free_ports(2)
    plan = plan_of("service: shop\nstable: v1\nprotocol: grpc\n", [Instance(one, "v1")])
    listen = f"server {{ listen 127.0.0.1:{edge} http2; location / {{ include {tmp_path}/shop.pass; }} }}"
    server = grpc_server("v1", one, "Greeter")
    try:
        with (
            served(tmp_path, [plan], http=listen, ports=[edge]),
            grpc.insecure_channel(f"127.0.0.1:{edge}") as channel,
        ):
            assert "grpc_pass grpc://shop.v1.gray;" in (tmp_path / "shop.pass").read_text(encoding="utf-8")
            assert channel.unary_unary("/Greeter/Greet")(b"hello", timeout=5) == b"v1 hello v1"
    finally:
        server.stop(None).wait()


# ---------------------------------------------------------------- WebSocket


async def _websocket_backend(version: str, port: int) -> web.AppRunner:
    async def talk(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(f"{version} {message.data}")
        return answer

    app = web.Application()
    app.router.add_get("/ws", talk)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def test_a_websocket_stays_with_the_version_that_its_handshake_got(tmp_path: Path) -> None:
    one, two, edge = free_ports(3)
    plan = plan_of(HTTP, [Instance(one, "v1"), Instance(two, "v2")])
    location = f"include {tmp_path}/shop.pass;"
    listen = f"server {{ listen 127.0.0.1:{edge}; location / {{ {location} }} }}"
    runners = [await _websocket_backend("v1", one), await _websocket_backend("v2", two)]
    try:
        with served(tmp_path, [plan], http=listen, ports=[edge]):
            async with aiohttp.ClientSession() as session:
                for headers, version in (({}, "v1"), ({"X-Version": "v2"}, "v2")):
                    async with session.ws_connect(f"http://127.0.0.1:{edge}/ws", headers=headers) as socket_:
                        for word in ("a", "b", "c"):
                            await socket_.send_str(word)
                            assert await asyncio.wait_for(socket_.receive_str(), 5) == f"{version} {word}"
    finally:
        for runner in runners:
            await runner.cleanup()


# ---------------------------------------------------------------- HTTP/2 and kept connections


class _Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    version = ""
    connections: set[tuple[str, int]]

    def do_GET(self) -> None:
        self.connections.add(self.client_address)
        body = f"{self.version} {self.headers.get('X-Gray-Version')} {self.headers.get('Host')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's signature
        """Say nothing."""


def _web(version: str) -> type[_Web]:
    return type("Web", (_Web,), {"version": version, "connections": set()})


@contextlib.contextmanager
def _shop(folder: Path, *, http2: bool) -> Iterator[tuple[int, list[type[_Web]]]]:
    one, two, edge = free_ports(3)
    plan = plan_of(HTTP, [Instance(one, "v1"), Instance(two, "v2")])
    location = f"include {folder}/shop.pass;"
    listen = f"server {{ listen 127.0.0.1:{edge}{' http2' if http2 else ''}; location / {{ {location} }} }}"
    backends = [_web("v1"), _web("v2")]
    with (
        threaded(backends[0], one),
        threaded(backends[1], two),
        served(folder, [plan], http=listen, ports=[edge]),
    ):
        yield edge, backends


def test_requests_on_one_http2_connection_are_decided_one_by_one(tmp_path: Path) -> None:
    with _shop(tmp_path, http2=True) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=5) as tcp:
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        for version in ("v1", "v2", "v1"):
            stream = connection.get_next_available_stream_id()
            pairs = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "shop.example")]
            connection.send_headers(stream, [*pairs, ("x-version", version)], end_stream=True)
            tcp.sendall(connection.data_to_send())
            assert _answer(connection, tcp, stream) == f"{version} {version} shop.example"


def _answer(connection: h2.connection.H2Connection, tcp: socket.socket, stream: int) -> str:
    body = b""
    while True:
        for event in connection.receive_data(tcp.recv(65536)):
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                body += event.data
            if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                return body.decode()
        tcp.sendall(connection.data_to_send())


def test_one_kept_connection_reaches_both_versions_over_connections_that_are_kept(tmp_path: Path) -> None:
    with _shop(tmp_path, http2=False) as (port, backends):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for version in ("v1", "v2") * 10:
            client.request("GET", "/", headers={"X-Version": version, "Host": "shop.example"})
            assert client.getresponse().read().decode() == f"{version} {version} shop.example"
        client.close()
        assert [len(one.connections) for one in backends] == [1, 1], "nginx keeps its connections to the instances"
