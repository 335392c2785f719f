"""What the benchmark runs: one agent, and for each contender an nginx of its own and the tool beside it."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from grayctl.nginx.generations import Store
from tests.support.consul import Consul
from tests.support.edge import Edge
from tests.support.nginx import BINARY, Nginx
from tests.support.ports import free_ports
from tests.support.process import start, stop, wait_until

if TYPE_CHECKING:
    import subprocess

WORKERS = 2
_SERVER = "server {{ .Address }}:{{ .Port }} weight={{ .Weights.Passing }} max_fails=1 fail_timeout=10s"


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


def address(number: int) -> str:
    """One of 16 million addresses that `Backends` answers for."""
    return f"127.{number // 62500}.{1 + number // 250 % 250}.{1 + number % 250}"


def ask_at_once(port: int, connections: int, path: str = "/") -> set[str]:
    """Who answers on so many new connections, all open before the first answer is read; empty when one fails."""
    request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
    with ExitStack() as stack:
        try:
            asked = []
            for _ in range(connections):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                one.sendall(request)
                asked.append(stack.enter_context(one.makefile("rb")))
            answers = [one.read().partition(b"\r\n\r\n") for one in asked]
        except OSError:
            return set()
    served = all(head.split(None, 2)[1:2] == [b"200"] for head, _, _ in answers)
    return {body.decode() for _, _, body in answers} if served else set()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a benchmark takes place."""

    folder: Path
    consul: Consul
    backends: Backends


@contextmanager
def stage(limits: Mapping[str, int] | None = None) -> Iterator[Stage]:
    """A directory that goes afterwards, an agent (with `limits`) and backends; contenders are closed before it ends."""
    with TemporaryDirectory(prefix="grayctl-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        consul = Consul(folder / "consul", config={"limits": limits} if limits else None)
        stack.callback(consul.stop)
        backends = Backends(folder / "backends")
        stack.callback(backends.close)
        yield Stage(folder, consul, backends)


class Contender:
    """An nginx and the tool that keeps its upstreams; `/<service>` is proxied, for the first `located` services."""

    def __init__(self, folder: Path, consul: Consul, *services: str) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.consul = consul
        self.name = folder.name
        self.services = services or (f"bench-{self.name}",)
        self.located = len(self.services)
        self.nginx = Nginx(folder)

    def start(self) -> None:
        """Start nginx and the tool."""
        raise NotImplementedError

    def ask(self, connections: int, service: str = "") -> set[str]:
        """Who answers for a service (the first when none is named); empty when a request fails."""
        return ask_at_once(self.nginx.web, connections, f"/{service or self.services[0]}")

    def nginx_workers(self) -> set[str]:
        """The pids of nginx's workers; `/worker` answers with its own."""
        return set(Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children").read_text(encoding="ascii").split())

    def configured(self, service: str) -> str:
        """What the tool has written for a service that nginx shall serve now."""
        raise NotImplementedError

    def reloads(self) -> int:
        """How often nginx was told to read its configuration again; by its own log."""
        return self.nginx.error_log.read_text(encoding="utf-8").count("signal 1 (SIGHUP) received")

    def close(self) -> None:
        self.nginx.close()

    def _start_nginx(self, targets: Sequence[str], *, include: str = "") -> None:
        """Proxy each service, with keep-alive, to its target; the targets stand in the services' order."""
        self.nginx.locations = "location = /worker { return 200 $pid; }\n        " + "\n        ".join(
            f"location = /{service} {{ proxy_pass http://{target}; }}"
            for service, target in list(zip(self.services, targets, strict=True))[: self.located]
        )
        self.nginx.http_extra = f'proxy_http_version 1.1; proxy_set_header Connection "";\n    {include}'
        self.nginx.write_conf(included=not include)
        self.nginx.start()


class Grayctl(Contender):
    """`grayctl run`. Further settings, as TOML: `top` at the file's head, `watch` in that section."""

    def __init__(self, folder: Path, consul: Consul, *services: str) -> None:
        super().__init__(folder, consul, *services)
        self.edge = Edge(folder, self.nginx, consul)
        self.configure()

    def configure(self, *globs: str, top: str = "", watch: str = "") -> None:
        """Write the settings: the services and `globs` are watched."""
        self.edge.configure(watch=f"services = {json.dumps([*self.services, *globs])}\n{watch}", top=top)

    def start(self) -> None:
        done = self.edge.cli("init")
        assert done.returncode == 0, done.stderr
        self._start_nginx([f"$gray_{service.replace('-', '_')}" for service in self.services])
        self.edge.run(wait=False)

    def configured(self, service: str) -> str:
        store = Store(self.nginx.state_dir)
        manifest = store.current()
        assert manifest is not None
        return (store.objects_dir / manifest.objects[service]).read_text(encoding="utf-8")

    def close(self) -> None:
        self.edge.close()
        super().close()


class ConsulTemplate(Contender):
    """consul-template as experienced users run it: `nginx -t && nginx -s reload`; `wait` is HCL."""

    def __init__(self, folder: Path, consul: Consul, *services: str, wait: str = "") -> None:
        super().__init__(folder, consul, *services)
        self._wait = wait
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def binary() -> str | None:
        """CONSUL_TEMPLATE, else what is on PATH; None when there is none."""
        return os.environ.get("CONSUL_TEMPLATE") or shutil.which("consul-template")

    def start(self) -> None:
        template, output, config = (self.folder / f"upstream.{kind}" for kind in ("ctmpl", "conf", "hcl"))
        template.write_text("".join(_template(service) for service in self.services), encoding="utf-8")
        first = "".join(f"upstream {service} {{ server 127.0.0.1:9; }}\n" for service in self.services)
        output.write_text(first, encoding="utf-8")
        self._start_nginx(self.services, include=f"include {output};")
        reload = f"{BINARY} -t -q -c {self.nginx.conf} && {BINARY} -s reload -c {self.nginx.conf}"
        config.write_text(
            f"""consul {{ address = "{self.consul.address.removeprefix("http://")}" }}
{self._wait}
template {{
  source = "{template}"
  destination = "{output}"
  command = ["sh", "-c", "{reload}"]
}}
""",
            encoding="utf-8",
        )
        self._process = start([self.binary() or "consul-template", "-config", config], log=self.folder / "tool.log")

    def configured(self, service: str) -> str:
        text = (self.folder / "upstream.conf").read_text(encoding="utf-8")
        return text.partition(f"upstream {service} {{")[2].partition("}")[0]

    def close(self) -> None:
        if self._process is not None:
            stop(self._process)
        super().close()


def _template(service: str) -> str:
    return f"""upstream {service} {{
    zone {service} 256k;
{{{{ range service "{service}" }}}}    {_SERVER};
{{{{ end }}}}    keepalive 32;
}}
"""
