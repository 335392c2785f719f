"""What the benchmark runs: one agent, and for each contender an nginx of its own and the tool beside it."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.support.consul import Consul
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports
from tests.support.process import start, stop, wait_until


class Backends:
    """Every address of 127.0.0.0/8 answers with itself, so that a registration needs no process of its own."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # or every answer takes the 40 ms of a delayed ACK

            def do_GET(self) -> None:
                body = str(self.connection.getsockname()[0]).encode()
                self.send_response(http.client.OK)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's signature
                """Say nothing."""

        self.port = free_ports(1)[0]
        self._server = ThreadingHTTPServer(("0.0.0.0", self.port), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Contender:
    """An nginx and the tool that keeps its upstream; `service` is the one it watches."""

    name = ""

    def __init__(self, folder: Path, consul: Consul) -> None:
        self.folder = folder
        self.consul = consul
        self.service = f"bench-{self.name}"
        self.web = free_ports(1)[0]
        self.conf = folder / "nginx.conf"
        self._children: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        folder.chmod(0o755)

    def write_conf(self, include: str, target: str) -> None:
        self.conf.write_text(
            f"""user root;
worker_processes 2;
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {include}
    server {{
        listen 127.0.0.1:{self.web};
        location / {{ proxy_pass http://{target}; }}
    }}
}}
""",
            encoding="utf-8",
        )

    def launch(self, argv: Sequence[str | Path], sig: signal.Signals = signal.SIGKILL) -> None:
        self._children.append(start(argv, log=self.folder / "log", pdeathsig=sig))

    def start(self) -> None:
        """Start nginx and the tool."""
        raise NotImplementedError

    def launch_nginx(self) -> None:
        self.launch([BINARY, "-c", self.conf, "-g", "daemon off;"], signal.SIGTERM)
        wait_until((self.folder / "nginx.pid").exists, f"the nginx of {self.name} is up")

    def answer(self) -> str:
        """Who answers now, on a new connection; empty when nobody does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=5)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def close(self) -> None:
        for child in reversed(self._children):
            stop(child)


class Grayctl(Contender):
    """`grayctl run`."""

    name = "grayctl"

    def start(self) -> None:
        marker, metrics = free_ports(2)
        config = self.folder / "grayctl.toml"
        config.write_text(
            f"""state_dir = "{self.folder}/state"
[consul]
address = "{self.consul.address}"
[watch]
services = ["{self.service}"]
[nginx]
binary = "{BINARY}"
conf = "{self.conf}"
marker = "127.0.0.1:{marker}"
refuse = "127.0.0.1:{free_block(4)}"
[metrics]
listen = "127.0.0.1:{metrics}"
[control]
socket = "{self.folder}/control.sock"
""",
            encoding="utf-8",
        )
        self.write_conf(f"include {self.folder}/state/current/http.conf;", f"$gray_{self.service.replace('-', '_')}")
        command = [sys.executable, "-m", "grayctl", "--config", str(config)]
        subprocess.run([*command, "init"], check=True, capture_output=True)
        self.launch_nginx()
        self.launch([*command, "run"])


class ConsulTemplate(Contender):
    """consul-template as experienced users run it: `nginx -t && nginx -s reload`."""

    name = "consul-template"

    @staticmethod
    def binary() -> str | None:
        """CONSUL_TEMPLATE, else what is on PATH; None when there is none."""
        return os.environ.get("CONSUL_TEMPLATE") or shutil.which("consul-template")

    def start(self) -> None:
        template, output = self.folder / "upstream.ctmpl", self.folder / "upstream.conf"
        template.write_text(
            f"""upstream bench {{
    zone bench 64k;
{{{{ range service "{self.service}" }}}}    server {{{{ .Address }}}}:{{{{ .Port }}}} max_fails=1 fail_timeout=10s;
{{{{ end }}}}    keepalive 32;
}}
""",
            encoding="utf-8",
        )
        output.write_text("upstream bench { server 127.0.0.1:9; }\n", encoding="utf-8")
        self.write_conf(f"include {output};", "bench")
        self.launch_nginx()
        reload = f"{BINARY} -t -q -c {self.conf} && {BINARY} -s reload -c {self.conf}"
        (self.folder / "ct.hcl").write_text(
            f"""consul {{ address = "{self.consul.address.removeprefix("http://")}" }}
template {{
  source = "{template}"
  destination = "{output}"
  command = ["sh", "-c", "{reload}"]
}}
""",
            encoding="utf-8",
        )
        self.launch([self.binary() or "consul-template", "-config", self.folder / "ct.hcl"])
