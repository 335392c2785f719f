"""A private Consul, nginx, grayctl, shop and traffic, all under one directory; ended with this process.

Every child is started through setpriv with a parent death signal and in a session of its own, so that none
outlives us, however we end, and Ctrl-C reaches us alone. Conditions are waited for; a child that ends unasked or
a condition that does not come is `Trouble`, with the end of the log that tells why.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
BASE_IN_EXAMPLES = "/srv/shop"
SCRUBBED = re.compile(r"(CONSUL|GRAYCTL)_|(https?|all)_proxy$", re.IGNORECASE)
# below the range of the tests (tests/support/ports.py), which may run beside it, and of outgoing connections
FIRST_PORT, LAST_PORT, PORTS = 9000, 12000, 40
FIRST_SHOP_PORT = 16
REQUESTS_AT_ONCE, PAUSE_BETWEEN = 4, 0.02
END_SECONDS = 5.0


class Trouble(Exception):  # noqa: N818 -- reads as what it is
    """The story cannot go on; the text says why and shows the log that tells more."""


@dataclass(frozen=True)
class Instance:
    """One running shop instance."""

    id: str
    version: str
    port: int
    child: "Child"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Child:
    """A process of ours."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def end(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), END_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@dataclass
class Traffic:
    """What the visitors of the shop saw."""

    requests: int = 0
    failed: int = 0
    last_failure: str = ""
    window: int = 500

    def __post_init__(self) -> None:
        # (when the request began, version, instance), the newest last
        self.answers: deque[tuple[float, str, str]] = deque(maxlen=self.window)
        self._visitors = itertools.count()

    def since(self, moment: float) -> list[tuple[str, str]]:
        """Version and instance of every answer to a request that began after `moment`."""
        return [(version, instance) for began, version, instance in self.answers if began > moment]

    async def visit(self, session: aiohttp.ClientSession, url: str) -> None:
        """Ask again and again, on a new connection each time."""
        while True:
            began = time.monotonic()
            self.requests += 1
            try:
                headers = {"Connection": "close", "X-User-ID": f"visitor-{next(self._visitors)}"}
                async with session.get(url, headers=headers) as response:
                    response.raise_for_status()
                    answer = await response.json()
                    self.answers.append((began, answer["version"], answer["instance"]))
            except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
                self.failed += 1
                self.last_failure = repr(error)
            await asyncio.sleep(PAUSE_BETWEEN)


def shares(answers: list[tuple[str, str]]) -> dict[str, float]:
    """version -> its share of the answers, 0-1."""
    return {version: count / len(answers) for version, count in sorted(Counter(one for one, _ in answers).items())}


class Lab:
    """Everything that runs. Made by `opened`."""

    def __init__(self, base: Path, ports: int, session: aiohttp.ClientSession, control: aiohttp.ClientSession) -> None:
        self.base = base
        self.edge = ports
        self.marker, self.refuse, self.metrics = ports + 1, ports + 2, ports + 6
        self.consul_port, self.taken_port = ports + 7, ports + 11
        self.url = f"http://127.0.0.1:{self.edge}/"
        self.consul_url = f"http://127.0.0.1:{self.consul_port}"
        self.settings_file = base / "grayctl.toml"
        self.templates = base / "templates"
        self.traffic = Traffic()
        self.session = session
        self._control = control
        self._shop_ports = iter(range(ports + FIRST_SHOP_PORT, ports + PORTS))
        self._children: list[Child] = []
        self._visitors: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------ what runs

    async def start_consul(self) -> None:
        port = self.consul_port
        ports = f"ports {{ http = {port} server = {port + 1} serf_lan = {port + 2} serf_wan = -1 dns = -1 grpc = -1 "
        if await self._consul_version() >= (1, 14):
            ports += "grpc_tls = -1 "
        consul = await self._start(
            "consul", "consul", "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-hcl", ports + "}"
        )
        await self.until(self._consul_leads, "Consul has a leader", consul)

    async def start_nginx(self) -> None:
        """Init first, so that what nginx.conf includes is there."""
        self._copy("nginx.conf", {"127.0.0.1:8080": f"127.0.0.1:{self.edge}"})
        self._copy(
            "grayctl.toml",
            {
                BASE_IN_EXAMPLES: str(self.base),
                "127.0.0.1:8500": f"127.0.0.1:{self.consul_port}",
                "127.0.0.1:8409": f"127.0.0.1:{self.marker}",
                "127.0.0.1:8410": f"127.0.0.1:{self.refuse}",
                "127.0.0.1:8408": f"127.0.0.1:{self.metrics}",
            },
        )
        self.templates.mkdir()
        code, said = await self.grayctl("init")
        if code != 0:
            raise Trouble(f"grayctl init ended with {code}:\n{said}")
        conf = str(self.base / "nginx.conf")
        nginx = await self._start("nginx", "nginx", "-p", str(self.base), "-c", conf, "-g", "daemon off;")
        await self.until(lambda: self.answers(self.url), "nginx answers", nginx)

    async def start_grayctl(self) -> None:
        grayctl = await self._start("grayctl", *_grayctl("run"))
        await self.until(
            lambda: self.answers(f"http://127.0.0.1:{self.metrics}/readyz", 200), "grayctl is ready", grayctl
        )

    async def start_instance(self, version: str, weight: int) -> Instance:
        port = next(self._shop_ports)
        name = f"shop-{version}-{port}"
        child = await self._start(
            name,
            *(sys.executable, str(HERE / "shop" / "backend.py"), "--consul", self.consul_url),
            *("--version", version, "--weight", str(weight), "--port", str(port), "--id", name),
        )
        return Instance(name, version, port, child)

    async def end_instance(self, instance: Instance) -> None:
        """As a deployment does it: SIGTERM, and the instance takes leave by itself."""
        self._children.remove(instance.child)
        await instance.child.end()

    def start_traffic(self) -> None:
        for _ in range(REQUESTS_AT_ONCE):
            self._visitors.append(asyncio.create_task(self.traffic.visit(self.session, self.url)))

    # ------------------------------------------------------------ asking

    async def status(self) -> dict[str, Any]:
        """What `grayctl status --json` prints, from the daemon's control socket; empty while it does not answer."""
        try:
            async with self._control.get("http://grayctl/status") as response:
                answer: dict[str, Any] = await response.json()
                return answer
        except (aiohttp.ClientError, TimeoutError):
            return {}

    async def answers(self, url: str, status: int = 0) -> bool:
        """Whether the URL answers, with `status` where that is given."""
        try:
            async with self.session.get(url) as response:
                return status in {0, response.status}
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def visit(self, headers: dict[str, str]) -> str:
        """The version that answers one request."""
        async with self.session.get(self.url, headers=headers) as response:
            response.raise_for_status()
            return str((await response.json())["version"])

    async def put(self, url: str, text: str) -> None:
        async with self.session.put(url, data=text) as response:
            response.raise_for_status()

    async def grayctl(self, *arguments: str) -> tuple[int, str]:
        """Run a grayctl command: its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *_grayctl(*arguments),
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode(errors="replace").strip()

    async def until(
        self, condition: Callable[[], Awaitable[T]], what: str, child: Child | None = None, seconds: float = 60.0
    ) -> T:
        """The first truthy answer of `condition`.

        Raises:
            Trouble: when it does not come within `seconds`, or a child ends meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not (answer := await condition()):
            self.demand_alive()
            if time.monotonic() > deadline:
                blamed = [child] if child else [one for one in self._children if one.name == "grayctl"]
                raise Trouble("\n".join([f"waited {seconds:g} s in vain until {what}", *map(_tail, blamed)]))
            await asyncio.sleep(0.05)
        return answer

    def demand_alive(self) -> None:
        """Raises Trouble when a child has ended that nobody ended."""
        for child in self._children:
            if child.process.returncode is not None:
                raise Trouble(f"{child.name} ended by itself ({child.process.returncode})\n{_tail(child)}")

    async def close(self) -> None:
        """End everything; Consul last, so that the instances can take leave."""
        for visitor in self._visitors:
            visitor.cancel()
        await asyncio.gather(*self._visitors, return_exceptions=True)
        last = [child for child in self._children if child.name == "consul"]
        await asyncio.gather(*(child.end() for child in self._children if child not in last))
        await asyncio.gather(*(child.end() for child in last))

    # ------------------------------------------------------------ how

    async def _start(self, name: str, *argv: str) -> Child:
        log = self.base / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "TERM", "--", *argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(),
                cwd=self.base,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not SCRUBBED.match(key)}
        return inherited | {"GRAYCTL_CONFIG": str(self.settings_file)}

    def _copy(self, name: str, changes: dict[str, str]) -> None:
        """Copy an example into the base with other addresses; an address that is not in it is a defect of ours."""
        text = (HERE / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            if old not in text:
                raise Trouble(f"{HERE / name} does not say {old} any more: mend examples/lab.py")
            text = text.replace(old, new)
        (self.base / name).write_text(text, encoding="utf-8")

    async def _consul_version(self) -> tuple[int, ...]:
        process = await asyncio.create_subprocess_exec("consul", "version", stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        found = re.search(rb"v(\d+)\.(\d+)", said)
        return tuple(map(int, found.groups())) if found else (0,)

    async def _consul_leads(self) -> bool:
        try:
            async with self.session.get(f"{self.consul_url}/v1/catalog/nodes") as response:
                return response.status == 200 and bool(await response.json())  # noqa: PLR2004 -- OK
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
            return False


@contextlib.asynccontextmanager
async def opened(base: Path) -> AsyncIterator[Lab]:
    """A lab in `base` that is ended, whatever happens inside."""
    timeout = aiohttp.ClientTimeout(total=10)
    with _port_block() as ports:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.UnixConnector(str(base / "control.sock"))
            ) as control,
        ):
            lab = Lab(base, ports, session, control)
            try:
                yield lab
            finally:
                await lab.close()


@contextlib.contextmanager
def _port_block() -> Iterator[int]:
    """The first of `PORTS` free ports. An abstract socket reserves them against another lab and goes with us."""
    blocks = range(FIRST_PORT, LAST_PORT - PORTS + 1, PORTS)
    for first in random.sample(blocks, k=len(blocks)):
        with socket.socket(socket.AF_UNIX) as reservation:
            try:
                reservation.bind(f"\0grayctl-lab-{first}")
            except OSError:
                continue
            if all(_is_free(port) for port in range(first, first + PORTS)):
                yield first
                return
    raise Trouble(f"found no {PORTS} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:  # as the servers do: a connection in TIME_WAIT takes no port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def _grayctl(*arguments: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("grayctl")), *arguments)


def _tail(child: Child) -> str:
    lines = child.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    return "\n".join([f"the end of what {child.name} said:", *lines])
