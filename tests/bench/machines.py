"""What the benchmark runs: one agent, and for each contender an nginx of its own and the tool beside it."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
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
VERSIONS = ("v1", "v2")
_SHARED = "shared"
_WEIGHT = "{{ if ne .Weights.Passing 1 }} weight={{ .Weights.Passing }}{{ end }}"
_INSTANCE = f"    server {{{{ .Address }}}}:{{{{ .Port }}}}{_WEIGHT};\n"


def server_line(address: str, port: int, weight: int) -> str:
    """An instance in an upstream, as all contenders write it: what nginx takes by default is left out."""
    return f"server {address}:{port}{f' weight={weight}' if weight != 1 else ''};"


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
    request = f"GET {path} HTTP/1.0\r\nHost: bench\r\n\r\n".encode()
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

    ending = signal.SIGTERM

    def __init__(self, folder: Path, consul: Consul, *services: str) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.consul = consul
        self.name = folder.name
        self.services = services or (f"bench-{self.name}",)
        self.located = len(self.services)
        self.agent = consul.address  # or what stands before it
        self.process: subprocess.Popen[bytes] | None = None
        self.nginx = Nginx(folder)

    def start(self) -> None:
        """Start nginx and the tool."""
        self.prepare()
        self.launch()

    def prepare(self) -> None:
        """Start nginx as it is before the tool has ever run."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start the tool."""
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
        """End the tool and nginx."""
        if self.process is not None:
            stop(self.process, sig=self.ending)
        self.nginx.close()

    def _start_nginx(self, passes: Sequence[str], *, include: str = "") -> None:
        """Proxy each service, with keep-alive; what stands in its location stands in the services' order."""
        self.nginx.locations = "location = /worker { return 200 $pid; }\n        " + "\n        ".join(
            f"location = /{service} {{ {text} }}"
            for service, text in list(zip(self.services, passes, strict=True))[: self.located]
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
        self.edge.consul_address = self.agent
        self.edge.configure(watch=f"services = {json.dumps([*self.services, *globs])}\n{watch}", top=top)

    def prepare(self) -> None:
        done = self.edge.cli("init")
        assert done.returncode == 0, done.stderr
        folder = self.nginx.state_dir / "snippets" / "pass"
        self._start_nginx([f"include {folder}/{service}.conf;" for service in self.services])

    def launch(self) -> None:
        self.edge.run(wait=False)
        self.process = self.edge.process

    def configured(self, service: str) -> str:
        store = Store(self.nginx.state_dir)
        manifest = store.current()
        assert manifest is not None
        return (store.objects_dir / manifest.objects[service]).read_text(encoding="utf-8")

    def close(self) -> None:
        self.edge.close()
        super().close()


class Upstreams(Contender):
    """A contender that keeps one file of upstreams, `output`, as somebody writes it by hand.

    Args:
        released: the service with two versions; clients go to the second by the share that a key has.

    Attributes:
        zone: the size of each upstream's; empty for one that they share.
    """

    def __init__(self, folder: Path, consul: Consul, *services: str, released: str = "") -> None:
        super().__init__(folder, consul, *services)
        self.released = released
        self.zone = "256k"
        self.output = self.folder / "upstream.conf"

    def prepare(self) -> None:
        self.output.write_text(self.text(lambda *_: "    server 127.0.0.1:9;\n", "10"), encoding="utf-8")
        targets = [_variable(one) if one == self.released else one for one in self.services]
        self._start_nginx([f"proxy_pass http://{one};" for one in targets], include=f"include {self.output};")

    def text(self, servers: Callable[[str, str], str], share: str) -> str:
        """The file; `servers` gives the lines of a service, of one version where that is not empty."""
        shared = "" if self.zone else f"upstream {_SHARED} {{ zone {_SHARED} 64m; server 127.0.0.1:9; }}\n"
        return shared + "".join(
            f"# {one}\n"
            + (self._split(one, servers, share) if one == self.released else self._upstream(one, servers(one, "")))
            for one in self.services
        )

    def _upstream(self, name: str, servers: str) -> str:
        zone = f"{name} {self.zone}" if self.zone else _SHARED
        return f"upstream {name} {{\n    zone {zone};\n{servers}    keepalive 32;\n}}\n"

    def _split(self, service: str, servers: Callable[[str, str], str], share: str) -> str:
        old, new = (f"{service}-{version}" for version in VERSIONS)
        both = "".join(self._upstream(f"{service}-{version}", servers(service, version)) for version in VERSIONS)
        return f'{both}split_clients "$remote_addr" {_variable(service)} {{ {share}% {new}; * {old}; }}\n'

    def configured(self, service: str) -> str:
        text = self.output.read_text(encoding="utf-8")
        return text.partition(f"# {service}\n")[2].partition("\n# ")[0]


def _variable(service: str) -> str:
    return f"$to_{service.replace('-', '_')}"


class ConsulTemplate(Upstreams):
    """consul-template, which reloads nginx by `nginx -s reload`, as its documentation has it.

    Args:
        checked: run `nginx -t` before, as experienced users do.
        wait: further HCL.
        key: whose value is the released service's share.
    """

    ending = signal.SIGINT  # it takes no SIGTERM

    def __init__(
        self,
        folder: Path,
        consul: Consul,
        *services: str,
        checked: bool = True,
        wait: str = "",
        released: str = "",
        key: str = "",
    ) -> None:
        super().__init__(folder, consul, *services, released=released)
        self._checked = checked
        self._wait = wait
        self._key = key

    @staticmethod
    def binary() -> str | None:
        """CONSUL_TEMPLATE, else what is on PATH; None when there is none."""
        return os.environ.get("CONSUL_TEMPLATE") or shutil.which("consul-template")

    def launch(self) -> None:
        template, config = (self.folder / f"upstream.{kind}" for kind in ("ctmpl", "hcl"))
        template.write_text(self.text(_range, f'{{{{ key "{self._key}" }}}}'), encoding="utf-8")
        reload = [BINARY, "-s", "reload", "-c", str(self.nginx.conf)]
        check = f"{BINARY} -t -q -c {self.nginx.conf} && "
        command = ["sh", "-c", check + " ".join(reload)] if self._checked else reload
        config.write_text(
            f"""consul {{ address = "{self.agent.removeprefix("http://")}" }}
{self._wait}
template {{
  source = "{template}"
  destination = "{self.output}"
  command = {json.dumps(command)}
}}
""",
            encoding="utf-8",
        )
        self.process = start([self.binary() or "consul-template", "-config", config], log=self.folder / "tool.log")


def _range(service: str, version: str) -> str:
    one = f'{{{{ if eq .ServiceMeta.version "{version}" }}}}{_INSTANCE}{{{{ end }}}}' if version else _INSTANCE
    return f'{{{{ range service "{service}" }}}}{one}{{{{ end }}}}'
