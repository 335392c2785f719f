"""Backends that say their version, and clients: of TCP, of gRPC, and of HTTP to the byte."""

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc


@contextlib.contextmanager
def threaded(handler: type[socketserver.BaseRequestHandler], port: int) -> Iterator[None]:
    """A server of HTTP or TCP, from threads of the test."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def speaker(version: str) -> type[socketserver.BaseRequestHandler]:
    """Says its version to whoever connects."""

    class Speaker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(version.encode())

    return Speaker


def hears(port: int, source: str = "127.0.0.1", *, first: bytes = b"") -> str:
    """What a connection from an address of this machine is told; it says `first` before."""
    with socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0)) as connection:
        connection.sendall(first)
        heard = b""
        while part := connection.recv(100):
            heard += part
        return heard.decode()


def grpc_server(version: str, port: int, *services: str) -> grpc.Server:
    """Each service answers `Greet` with this version, the request and the version that nginx says."""

    def greet(request: bytes, context: grpc.ServicerContext) -> bytes:
        told = dict(context.invocation_metadata())
        return f"{version} {request.decode()} {told.get('x-gray-version')}".encode()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    methods = {"Greet": grpc.unary_unary_rpc_method_handler(greet)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(one, methods) for one in services])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    return server


class Connection:
    """One keep-alive connection; answers have a Content-Length."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rb")

    def ask(self, raw: bytes) -> str:
        """Send these bytes; the body of the answer, whose status must be 200."""
        self._socket.sendall(raw)
        status = self._file.readline()
        length = 0
        while (line := self._file.readline()) not in {b"\r\n", b""}:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = self._file.read(length)
        assert b" 200 " in status, (status, raw)
        return body.decode()

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._socket.close()
