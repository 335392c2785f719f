"""A real nginx of one's own, generations for it without the renderer, and a prober that counts failed requests."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from grayctl.model.generation import GENERATION, FileSet, Manifest, Object
from grayctl.nginx.content import content_sha
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect
from grayctl.nginx.site import Site
from grayctl.render.fileset import Dialect
from grayctl.settings import Duration, NginxSettings, ReloadSettings
from tests.support.ports import free_block, free_ports
from tests.support.process import start, stop, wait_until

BINARY = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"


def _said() -> str:
    if shutil.which(BINARY) is None:
        return "nginx/0"  # every test of it fails, and says so
    return subprocess.run([BINARY, "-V"], capture_output=True, text=True, check=True).stderr


def _load_stream() -> str | None:
    module = MODULES / "ngx_stream_module.so"
    if _OPTIONS.get("with-stream") == "":
        return ""
    return f"load_module {module};" if module.exists() else None


_SAID = _said()
_OPTIONS = dict(re.findall(r"--([a-z0-9_-]+)(?:=(\S+))?", _SAID))
VERSION = tuple(map(int, re.findall(r"\d+", _SAID.partition("nginx/")[2].partition("\n")[0])[:3]))
"""Such as (1, 22, 1)."""
DIALECT = Dialect(http2_directive=VERSION >= (1, 25, 1))
MODULES = Path(_OPTIONS.get("modules-path", "/usr/local/nginx/modules"))
LOAD_STREAM = _load_stream()
"""What nginx.conf says first to have a stream: nothing where it is built in; None where there is no stream."""

LOCATIONS = """location = /version { return 200 "$gray_shop\\n"; }
        location / { proxy_pass http://$gray_shop; }"""


class Nginx:
    """An nginx with prefix, ports, logs and state directory of its own; nothing of it touches /etc/nginx.

    `/version` answers the value of `$gray_shop`, `/` proxies to it, unless `locations` says something else. It and
    the three `*_extra` texts go into their context of nginx.conf at the next `write_conf`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.conf = folder / "nginx.conf"
        self.pid_file = folder / "nginx.pid"
        self.error_log = folder / "error.log"
        self.web, self.marker, self.backend = free_ports(3)
        self.refuse = free_block(4)
        self.main_extra = self.http_extra = self.server_extra = ""
        self.locations = LOCATIONS
        self.connections = 256  # of a worker
        self.binary = BINARY
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "tmp").mkdir()
        self.write_conf()

    def write_conf(self, *, included: bool = True) -> None:
        """Write nginx.conf anew, as its owner would."""
        temporary = "\n".join(
            f"    {kind}_temp_path {self.folder}/tmp/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        include = f"include {self.state_dir}/current/http.conf;" if included else ""
        self.conf.write_text(
            f"""user root;
worker_processes 2;
daemon off;
pid {self.pid_file};
error_log {self.error_log} notice;
{self.main_extra}
events {{ worker_connections {self.connections}; }}
http {{
    access_log off;
{temporary}
    {self.http_extra}
    {include}
    server {{
        listen 127.0.0.1:{self.backend};
        return 200 "backend\\n";
    }}
    server {{
        listen 127.0.0.1:{self.web};
        {self.server_extra}
        {self.locations}
    }}
}}
""",
            encoding="utf-8",
        )

    # ------------------------------------------------------------ the process

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self.process = start([BINARY, "-c", self.conf], log=self.folder / "nginx.out", pdeathsig=signal.SIGTERM)
        wait_until(self._is_up, "nginx is up")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "nginx.out").read_text()
        return self.running_pid() == self.process.pid and self.get("/version", port=self.backend) == "backend\n"

    @property
    def pid(self) -> int:
        """The pid of the master that `start` started."""
        assert self.process is not None
        return self.process.pid

    def running_pid(self) -> int | None:
        """What the pid file says."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.pid_file.read_text())
        return None

    def stop(self) -> None:
        """SIGTERM: fast shutdown."""
        if self.process is not None:
            stop(self.process)
        self.process = None

    def kill(self, *, with_workers: bool = True) -> list[int]:
        """SIGKILL the master, as the OOM killer does; returns the pids of the workers."""
        assert self.process is not None
        workers = self.children()
        self.process.kill()
        self.process.wait()
        self.process = None
        if with_workers:
            _kill(workers)
            wait_until(lambda: not self._holders(), "the workers are gone")
        return workers

    def restart(self) -> None:
        """A new master on the same configuration."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """SIGHUP, as an administrator sends it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def children(self) -> list[int]:
        """The pids of the master's children."""
        return [int(one) for one in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def close(self) -> None:
        """Leave nothing behind: also workers whose master is dead are ended, known by the error log they hold."""
        self.stop()
        _kill(self._holders())
        wait_until(lambda: not self._holders(), "no process of this nginx is left")

    def _holders(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if "nginx" in (entry / "comm").read_text() and any(
                        str(one.readlink()).startswith(f"{self.folder}/error.log") for one in (entry / "fd").iterdir()
                    ):
                        found.append(int(entry.name))
        return found

    # ------------------------------------------------------------ asking it

    def get(self, path: str, *, port: int | None = None) -> str:
        """The body of a 200 on a connection of its own; empty when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.web, timeout=5)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()
        return body if answer.status == http.client.OK else ""

    def answers(self) -> str:
        """What the marker says, as `000042 <digest>`; empty when it says nothing."""
        return self.get("/generation", port=self.marker).strip()

    # ------------------------------------------------------------ grayctl's side

    def settings(self, *, check_timeout: float = 10.0) -> NginxSettings:
        """The [nginx] settings that lead to this one."""
        return NginxSettings(
            binary=self.binary,
            conf=str(self.conf),
            check_timeout=Duration(check_timeout),
            marker=f"127.0.0.1:{self.marker}",
            refuse=f"127.0.0.1:{self.refuse}",
        )

    def site(
        self,
        store: Store,
        *,
        confirm_timeout: float = 10.0,
        check_timeout: float = 10.0,
        keep: int = 20,
        on_step: Callable[[str], None] = lambda _: None,
        kind: type[Site] = Site,
    ) -> Site:
        """A Site over this nginx."""
        settings = self.settings(check_timeout=check_timeout)
        reload = ReloadSettings(confirm_timeout=Duration(confirm_timeout))
        return kind(settings, reload, store, inspect(settings, self.state_dir), keep=keep, on_step=on_step)

    def files(
        self,
        version: str = "v1",
        *,
        body: str = "",
        http: str = "",
        marker: str = GENERATION,
        more: Mapping[str, str] | None = None,
    ) -> FileSet:
        """A file set that serves the shop as `version`.

        Args:
            version: part of the upstream's name, so that `/version` tells generations apart.
            body: further text in the shop's object.
            http: further text in http.conf.
            marker: what the marker answers instead of its generation.
            more: service -> text of further objects.
        """
        shop = f"upstream {version}.shop.gray {{ server 127.0.0.1:{self.backend}; }}\n"
        shop += f'split_clients "" $gray_shop {{ * {version}.shop.gray; }}\n{body}'
        objects = {name: _object(name, text) for name, text in {"shop": shop, **(more or {})}.items()}
        includes = "".join(f"include {self.state_dir}/objects/{one.filename};\n" for one in objects.values())
        entry = (
            f"{includes}{http}\nserver {{\n    listen 127.0.0.1:{self.marker};\n"
            f'    location = /generation {{ return 200 "{marker}\\n"; }}\n}}\n'
        )
        stream = "# no stream\n"
        return FileSet(objects, entry, stream, content_sha(entry + stream))


def _object(service: str, content: str) -> Object:
    return Object(service, service, content_sha(content), content, f"# {service}\n", f"# pass {service}\n")


def current_object(state_dir: Path, slug: str = "shop") -> Path:
    """The file of a service that the current generation includes."""
    entry = (state_dir / "current" / "http.conf").read_text(encoding="utf-8")
    found = re.search(rf"objects/{slug}-\w+\.conf", entry)
    assert found is not None, f"the current generation includes no object of {slug}"
    return state_dir / found.group()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx that is configured and not started; nothing of it is left afterwards."""
    tmp_path.chmod(0o755)
    one = Nginx(tmp_path)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def store(nginx: Nginx) -> Iterator[Store]:
    """Its state directory, open and locked."""
    with Store(nginx.state_dir).opened() as opened:
        yield opened


@dataclass
class Prober:
    """Asks for a path every 20 ms, each time on a new connection, and remembers what came."""

    nginx: Nginx
    path: str = "/version"
    bodies: list[str] = field(default_factory=list)
    failed: int = 0
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="prober")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Ask nothing meanwhile; what was being asked has ended before the block begins."""
        with self._asking:
            yield

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            with self._asking:
                body = self.nginx.get(self.path)
            self.bodies.append(body)
            self.failed += not body


def write(store: Store, files: FileSet) -> Manifest:
    """A candidate on disk, whole and durable."""
    manifest = store.write(files, cause="a test", trace_id="t", created=1.0)
    store.complete(manifest)
    return manifest
