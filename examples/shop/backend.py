"""One instance of the shop: answers HTTP, and tells Consul that it is there. The standard library alone.

    python3 backend.py --version v2 --weight 5 --port 9001

It registers itself with its version, its weight and an HTTP check, and registers again where Consul lost it. On
SIGTERM it deregisters first and goes on answering for `--drain` seconds, so that every nginx has let go of it
before it ends: no request is lost.

    GET  /         which instance of which version answered, as JSON
    GET  /healthz  what Consul's check asks
    PUT  /weight   a new weight as text; takes effect without a restart
    PUT  /health   "passing" or "failing"; to see how an unhealthy instance leaves
"""

import argparse
import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

REGISTER_AGAIN_SECONDS = 5.0
CONSUL_TIMEOUT_SECONDS = 5.0


class Registration:
    """This instance's entry in Consul."""

    def __init__(self, options: argparse.Namespace, port: int) -> None:
        self.id = options.id or f"{options.name}-{options.version}-{port}"
        self.weight = options.weight
        self._in_path = quote(self.id, safe="")
        self._options = options
        self._port = port
        self._lock = threading.Lock()
        self._wanted = True

    def keep(self) -> None:
        """Register, and again whenever Consul does not know us any more: it came late, or lost its state."""
        while self._wanted:
            try:
                if not self._is_known():
                    self.put()
            except OSError as error:
                print(f"{self.id}: Consul does not answer, trying again: {error}", flush=True)
            time.sleep(REGISTER_AGAIN_SECONDS)

    def put(self) -> None:
        options = self._options
        body = {
            "ID": self.id,
            "Name": options.name,
            "Address": options.address,
            "Port": self._port,
            "Tags": ["grayctl.enable=true"],
            "Meta": {"version": options.version, "weight": str(self.weight)},
            "Check": {
                "CheckID": f"{self.id}:http",
                "Name": "GET /healthz",
                "HTTP": f"http://{options.address}:{self._port}/healthz",
                "Interval": "1s",
                "Timeout": "1s",
                # It listens already; and registering anew must not take it out until the next check.
                "Status": "passing",
                "DeregisterCriticalServiceAfter": "10m",
            },
        }
        with self._lock:
            if self._wanted:
                self._call("PUT", "/v1/agent/service/register", json.dumps(body).encode())

    def remove(self) -> None:
        with self._lock:
            self._wanted = False
            self._call("PUT", f"/v1/agent/service/deregister/{self._in_path}")

    def _is_known(self) -> bool:
        try:
            self._call("GET", f"/v1/agent/service/{self._in_path}")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # noqa: PLR2004 -- Not Found
                raise
            return False
        return True

    def _call(self, method: str, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(f"{self._options.consul}{path}", data=body, method=method)  # noqa: S310 -- http, as given
        if token := os.environ.get("CONSUL_HTTP_TOKEN"):
            request.add_header("X-Consul-Token", token)
        # Consul is near: a proxy of this environment is not for it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=CONSUL_TIMEOUT_SECONDS):
            pass


class Shop(ThreadingHTTPServer):
    """The HTTP server with what its answers need."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__((options.address, options.port), Handler)
        self.options = options
        self.healthy = True
        self.registration = Registration(options, self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Shop
    protocol_version = "HTTP/1.1"  # keep-alive, which nginx makes use of
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.split("?")[0] == "/healthz":
            self._answer(200 if self.server.healthy else 503, {"healthy": self.server.healthy})
            return
        options = self.server.options
        time.sleep(options.delay)
        status = 500 if random.random() < options.fail_rate else 200  # noqa: S311 -- no secret
        self._answer(
            status,
            {
                "service": options.name,
                "version": options.version,
                "instance": self.server.registration.id,
                "host": self.headers.get("Host", ""),
                "path": self.path,
            },
        )

    def do_PUT(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode().strip()
        if self.path == "/weight" and text.isdecimal():
            self.server.registration.weight = int(text)
            try:
                self.server.registration.put()
            except OSError as error:
                self._answer(502, {"error": f"Consul did not take the new weight: {error}"})
                return
            self._answer(200, {"weight": int(text)})
        elif self.path == "/health" and text in {"passing", "failing"}:
            self.server.healthy = text == "passing"
            self._answer(200, {"healthy": self.server.healthy})
        else:
            self._answer(400, {"error": "PUT /weight takes a number, PUT /health takes passing or failing"})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Say nothing about a request: nginx logs them."""


def consul_address() -> str:
    address = os.environ.get("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
    return address if "://" in address else f"http://{address}"


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a share is between 0 and 1")
    return value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="shop", help="the service's name in Consul (%(default)s)")
    parser.add_argument("--id", default="", help="the instance's id (NAME-VERSION-PORT)")
    parser.add_argument("--version", required=True, help="such as v1")
    parser.add_argument("--weight", type=int, default=10, help="its weight in nginx (%(default)s)")
    parser.add_argument("--address", default="127.0.0.1", help="where it listens and is reached (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (%(default)s)")
    parser.add_argument("--consul", default=consul_address(), help="the agent (%(default)s)")
    parser.add_argument(
        "--drain", type=float, default=2.0, help="seconds between deregistering and ending (%(default)s)"
    )
    parser.add_argument(
        "--fail-rate", type=share, default=0.0, help="share of requests answered 500, 0 to 1 (%(default)s)"
    )
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes longer (%(default)s)")
    return parser.parse_args()


def main() -> None:
    shop = Shop(arguments())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=shop.serve_forever, daemon=True).start()
    threading.Thread(target=shop.registration.keep, daemon=True).start()
    print(f"{shop.registration.id}: listening on {shop.options.address}:{shop.server_address[1]}", flush=True)
    ended.wait()
    try:
        shop.registration.remove()
    except OSError as error:
        print(f"{shop.registration.id}: could not deregister, Consul's check will notice: {error}", flush=True)
    time.sleep(shop.options.drain)
    shop.shutdown()


if __name__ == "__main__":
    main()
