"""What the benchmark runs: one agent, and for each contender an nginx of its own and the tool beside it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.support.consul import Consul
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports
from tests.support.process import start, stop, wait_until


class Backends:
    """Every address of 127.0.0.0/8 answers with itself on `port`: a registration needs no process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        folder.mkdir()
        folder.chmod(0o755)
        conf = folder / "nginx.conf"
        conf.write_text(
            f"""user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server {{ listen {self.port}; return 200 $server_addr; }}
}}
""",
            encoding="utf-8",
        )
        self._nginx = start([BINARY, "-c", conf, "-g", "daemon off;"], log=folder / "log", pdeathsig=signal.SIGTERM)
        wait_until(lambda: ask_at_once(self.port, 1) == {"127.0.0.1"}, "the backends answer")

    def close(self) -> None:
        stop(self._nginx)


def ask_at_once(port: int, connections: int) -> set[str]:
    """Who answers on so many new connections, all open before the first answer is read; empty when one fails."""
    with ExitStack() as stack:
        try:
            asked = []
            for _ in range(connections):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                asked.append(stack.enter_context(one.makefile("rb")))
            return {one.read().rpartition(b"\r\n\r\n")[2].decode() for one in asked}
        except OSError:
            return set()


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
