"""A whole edge node: a real nginx, `grayctl run` beside it, backends that answer with their name."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from grayctl.cli.common import Control
from grayctl.errors import GrayctlError
from grayctl.settings import load
from tests.support.consul import Consul
from tests.support.nginx import Nginx
from tests.support.ports import free_ports
from tests.support.process import clean_env, start, stop, wait_until


class Backend:
    """Answers every request with its name, from a thread of the test."""

    def __init__(self, name: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # or every answer takes the 40 ms of a delayed ACK

            def do_GET(self) -> None:
                body = f"{name}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's signature
                """Say nothing."""

        self.name = name
        self.port = free_ports(1)[0]
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Edge:
    """One node. `settings` is TOML text that is added to what the fixture writes."""

    def __init__(self, folder: Path, nginx: Nginx, consul: Consul) -> None:
        self.folder = folder
        self.nginx = nginx
        self.consul = consul
        self.config = folder / "grayctl.toml"
        self.log = folder / "grayctl.log"
        self.metrics_port = free_ports(1)[0]
        self.consul_address = consul.address  # a proxy's, where something stands between
        self.under: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None
        self.backends: dict[str, Backend] = {}
        self.configure()

    def configure(
        self,
        *,
        watch: str = 'services = ["shop"]',
        consul: str = "",
        nginx: str = "",
        more: str = "",
        top: str = "",
    ) -> None:
        """Write the settings file."""
        self.config.write_text(
            f"""{top}
node = "edge-test"
state_dir = "{self.nginx.state_dir}"
[consul]
address = "{self.consul_address}"
prefix = "{self.folder.name}"
{consul}
[watch]
{watch}
[nginx]
conf = "{self.nginx.conf}"
binary = "{self.nginx.binary}"
marker = "127.0.0.1:{self.nginx.marker}"
refuse = "127.0.0.1:{self.nginx.refuse}"
{nginx}
[metrics]
listen = "127.0.0.1:{self.metrics_port}"
[control]
socket = "{self.folder}/control.sock"
{more}
""",
            encoding="utf-8",
        )

    # ------------------------------------------------------------ grayctl

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "grayctl", "--config", str(self.config), *arguments]

    def cli(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=clean_env(env)
        )

    def up(self) -> None:
        """Init, start nginx, start the daemon, wait until it is ready."""
        done = self.cli("init", "--service", "shop")
        assert done.returncode == 0, done.stderr
        self.nginx.start()
        self.run()
        wait_until(lambda: self.page("/readyz") == "ready\n", "grayctl is ready")

    def run(self, *, wait: bool = True) -> None:
        """Start the daemon, by `under` where that is given: a program that replaces itself by its arguments."""
        self.process = start([*self.under, *self.command("run")], log=self.log)
        if wait:
            wait_until(lambda: self.status() is not None, "the control socket answers")

    def hang_up(self) -> None:
        """SIGHUP: the daemon reads settings and templates again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def down(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon; returns its exit code."""
        assert self.process is not None
        code = stop(self.process, sig=sig, timeout=30)
        self.process = None
        return code

    def status(self) -> dict[str, Any] | None:
        """What `grayctl status --json` shows of the running daemon; None when none answers.

        Asked from here: the waiting for a condition would otherwise start a process every time it looks.
        """
        try:
            answer = msgspec.json.encode(Control(load(self.config)).status())
        except GrayctlError:
            return None
        report: dict[str, Any] = json.loads(answer)
        return report

    def generation(self) -> int:
        """The generation that the marker answers; -1 when it does not.

        Asked until it is the one that `current` names, for some seconds: just after a reload an old worker may answer.
        """
        give_up = time.monotonic() + 5
        while True:
            named = int((self.nginx.state_dir / "current").readlink().name)
            answer = self.nginx.answers()
            answered = int(answer.split()[0]) if answer else -1
            if answered == named or time.monotonic() > give_up:
                return answered
            time.sleep(0.02)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The daemon's log events of that name."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in found if one["event"] == name]

    def noticed(self, what: str) -> list[dict[str, Any]]:
        """The events of nginx that nobody announced, of one kind: see `grayctl.nginx.site.Noticed`."""
        return [one for one in self.events("nginx_noticed") if one["what"] == what]

    def page(self, path: str) -> str:
        """A page of the metrics listener."""
        return self.nginx.get(path, port=self.metrics_port)

    # ------------------------------------------------------------ instances

    def backend(self, name: str, *, version: str = "v1", weight: int = 1, health: str = "passing") -> Backend:
        """Start a backend and register it as an instance of `shop`."""
        backend = self.backends.get(name) or Backend(name)
        self.backends[name] = backend
        self.consul.register("shop", name, "127.0.0.1", backend.port, version=version, weight=weight, health=health)
        return backend

    def served(self, requests: int = 60) -> Counter[str]:
        """Who answers how often; "" is a failed request."""
        return Counter(self.nginx.get("/").strip() for _ in range(requests))

    def serves(self, *names: str) -> bool:
        """Whether exactly these answer now."""
        return set(self.served(4 * len(names) + 4)) == set(names)

    def close(self) -> None:
        if self.process is not None:
            stop(self.process, timeout=30)
        for name, backend in self.backends.items():
            self.consul.deregister(name)
            backend.close()


@pytest.fixture
def edge(tmp_path: Path, nginx: Nginx, consul: Consul) -> Iterator[Edge]:
    """A node that is configured and not started."""
    one = Edge(tmp_path, nginx, consul)
    try:
        yield one
    finally:
        one.close()
