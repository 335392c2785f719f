"""What a release costs: requests a second beside an upstream written by hand, and from a key in Consul to served."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from grayctl.model.catalog import Catalog, Registration
from grayctl.model.release import Live
from grayctl.policy.resolve import Limits, resolve
from grayctl.settings import Settings
from tests.bench.fleet import apply
from tests.bench.load import CONNECTIONS, wrk
from tests.bench.machines import Backends, Grayctl, Stage, address, stage
from tests.bench.resources import cpu_seconds
from tests.bench.section import Option, Report, Section, quantile, table
from tests.releases.site import Instance, plan_of, served
from tests.support.background import in_background
from tests.support.ports import free_ports
from tests.support.process import wait_until

DELAY = 0.005  # seconds, of the slow backend
UPSTREAMS = (10, 1000, 3000)
_SATURATING = 64  # connections
_QUIET = 0.35  # seconds between two changes of a policy
_POLL, _LIMIT = 0.0005, 10.0

POLICY = """
service: shop
stable: v1
identity: [{header: X-User-ID}, {cookie: uid}, client_ip]
traffic: {v2: 10, v3: 5}
regions: {shanghai: [10.1.0.0/16, 10.2.0.0/16]}
routes:
  - name: testers
    match: {header: {X-Release-Version: [v2, v2-test]}}
    to: v2
  - name: vip-ios-shanghai
    match: {header: {X-User-Tags: {has: vip}}, device: ios, region: shanghai}
    traffic: {v2: 20}
  - name: beta
    match: [{identity: {in_list: beta-users}}, {client_ip: [10.9.0.0/16]}]
    to: v3
  - name: new-pages
    match: {path: {prefix: /pages}, cookie: {theme: dark}}
    to: v2
  - name: grown-ups
    when: header("X-Age") > 18 and header("X-City") in ["beijing", "shanghai"] and not cookie("opt_out") == "1"
    to: v3
"""
VERSIONS = ("v1", "v2", "v3")
LOCATIONS = ("gray", "headers", "plain")
# What an expert writes whatever the service; WebSocket and the version are the snippet's.
_HEADERS = """proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;"""
LISTED = tuple(f"beta-{number}" for number in range(10_000))
# Eight users of ten are nobody special: all five routes are asked, then the shares. The same for both contenders.
REQUEST = """local requests, at = {}, 0
init = function()
  for user = 1, 500 do
    local phone = user % 2 == 0
    requests[user] = wrk.format("GET", wrk.path, {
      ["Host"] = "shop.example.com",
      ["X-User-ID"] = user % 10 == 0 and "beta-" .. user or "user-" .. user,
      ["Cookie"] = "uid=" .. user .. "; theme=light",
      ["X-Age"] = user % 10 == 1 and "30" or "17",
      ["X-City"] = "beijing",
      ["User-Agent"] = phone
        and "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile"
        or "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/122.0.0.0 Safari/537.36",
    })
  end
end
request = function()
  at = at % 500 + 1
  return requests[at]
end
"""


class Turn(msgspec.Struct, frozen=True):
    """Requests a second, and microseconds of the worker's CPU for one: what other load on the machine moves least."""

    rate: float
    cost: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A policy beside an upstream written by hand, in one nginx with one worker, by turns.

    Attributes:
        upstreams: of other services, beside all.
        turns: of each location: `gray` has the policy, `plain` is written by hand, and `headers` is the same with all
            that the policy's snippet sends on, so that between it and `gray` is the decision alone.
        failed: requests without a good answer.
    """

    backend: str
    upstreams: int
    turns: dict[str, list[Turn]]
    failed: int

    @property
    def ratio(self) -> float:
        """Of requests a second to those by hand: the median over the turns; 1 means that a policy costs nothing."""
        pairs = zip(self.turns["gray"], self.turns["plain"], strict=True)
        return statistics.median(ours.rate / plain.rate for ours, plain in pairs)

    def ratio_of_cost(self, other: str) -> float:
        """Of requests for a second of the worker's CPU, to those of another location."""
        pairs = zip(self.turns["gray"], self.turns[other], strict=True)
        return statistics.median(theirs.cost / ours.cost for ours, theirs in pairs)


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from before the write to the first answer of the version that the policy now names."""

    name: str
    samples: list[float]


def run(turns: int, seconds: int) -> Iterator[Row]:
    """Each backend beside each number of upstreams."""
    with TemporaryDirectory(prefix="grayctl-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with ExitStack() as stack:
            backends = Backends(folder / "backends")
            stack.callback(backends.close)
            slow = free_ports(1)[0]
            stack.enter_context(in_background(_slow(slow)))
            for upstreams in UPSTREAMS:
                for backend, port, connections, main in (
                    ("5 ms", slow, CONNECTIONS, ""),
                    ("at once", backends.port, _SATURATING, ""),
                    ("at once, pcre_jit", backends.port, _SATURATING, "pcre_jit on;"),
                ):
                    here = folder / f"{upstreams} {backend}".replace(" ", "-").replace(",", "")
                    with _site(here, port, upstreams, main) as site:
                        taken, failed = _turns(here, site, connections, turns, seconds)
                        yield Row(backend=backend, upstreams=upstreams, turns=taken, failed=failed)


def _turns(
    folder: Path, site: tuple[int, int], connections: int, turns: int, seconds: int
) -> tuple[dict[str, list[Turn]], int]:
    """The turns of each location, and how many requests failed in all."""
    (edge, worker), failed = site, 0
    taken: dict[str, list[Turn]] = {path: [] for path in LOCATIONS}
    for turn in range(turns + 1):  # the first warms up
        for path in LOCATIONS if turn % 2 else reversed(LOCATIONS):
            before = cpu_seconds(worker)
            load = wrk(folder, f"http://127.0.0.1:{edge}/{path}", seconds, connections=connections, request=REQUEST)
            cost = (cpu_seconds(worker) - before) / load.requests * 1e6
            failed += load.failed
            if turn:
                taken[path].append(Turn(load.rate, cost))
    return taken, failed


@contextmanager
def _site(folder: Path, port: int, upstreams: int, main: str) -> Iterator[tuple[int, int]]:
    """An nginx with one worker; yields its port and the worker's pid. As in http.conf, releases come first."""
    folder.mkdir()
    (edge,) = free_ports(1)
    names = [f"{number:05}-service" for number in range(upstreams)]
    catalog = Catalog(
        services={name: (Registration(service=name, id=name, address="127.0.0.1", port=port),) for name in names}
    )
    others = resolve(catalog, {}, Settings(), Limits()).services.values()
    instances = [Instance(port, version, host=address(number)) for number, version in enumerate(VERSIONS, 1)]
    released = plan_of(POLICY, instances, {"beta-users": LISTED})
    plain = "".join(f"server {one.host}:{one.port};" for one in instances)
    user = f"""
    variables_hash_max_size {4 * (upstreams + 1000)};
    upstream plain {{ zone plain 64k; {plain} keepalive {32 * len(instances)}; }}
    server {{
        listen 127.0.0.1:{edge};
        location = /gray {{ include {folder}/shop.snippet; proxy_pass http://$gray_shop; }}
        location = /headers {{
            {_HEADERS}
            proxy_set_header Connection $gray_connection;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header X-Gray-Version v1;
            proxy_pass http://plain;
        }}
        location = /plain {{
            {_HEADERS}
            proxy_set_header Connection "";
            proxy_pass http://plain;
        }}
    }}
"""
    with served(folder, [released, *others], main=main, http=user, ports=[edge]):
        pid = folder / "pid"
        master = wait_until(lambda: pid.read_text() if pid.is_file() else "", "nginx has written its pid").strip()
        children = Path(f"/proc/{master}/task/{master}/children")
        yield edge, int(wait_until(children.read_text, "nginx has its worker"))


class _Slow(asyncio.Protocol):
    """Answers each request after 5 ms."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            asyncio.get_running_loop().call_later(DELAY, self._transport.write, _ANSWER)


_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def _slow(port: int) -> AsyncIterator[None]:
    server = await asyncio.get_running_loop().create_server(_Slow, "0.0.0.0", port, backlog=1024)
    async with server:
        yield


# ---------------------------------------------------------------- KV to served


def written(changes: int) -> list[Written]:
    """The stable version changes, by turns by hand and as `release apply` writes it."""
    with stage() as here:
        one = Grayctl(here.folder / "grayctl", here.consul)
        with closing(one):
            return _changes(one, here, changes)


def _changes(one: Grayctl, here: Stage, changes: int) -> list[Written]:
    (service,) = one.services
    for number in (1, 2):
        here.consul.register(service, f"i{number}", address(number), here.backends.port, version=f"v{number}")
    before = _apply(one, here, "v1", None)
    one.start()
    wait_until(partial(_answers, one, "v1"), "the policy is served")
    samples: dict[str, list[float]] = {"as release apply writes it": [], "by hand": []}
    version = "v1"
    for number in range(changes):
        for name, found in samples.items() if number % 2 else reversed(samples.items()):
            version = "v2" if version == "v1" else "v1"
            time.sleep(_QUIET)
            began = time.perf_counter()
            if name == "by hand":
                here.consul.put(_key(one, "releases"), _policy(one, version))
            else:
                before = _apply(one, here, version, before)
            while not _answers(one, version):
                assert time.perf_counter() - began < _LIMIT, f"{version} was not served within {_LIMIT:g} s"
                time.sleep(_POLL)
            found.append((time.perf_counter() - began) * 1000)
    return [Written(name=name, samples=found) for name, found in samples.items()]


def _answers(one: Grayctl, version: str) -> bool:
    return address(int(version[1:])) in one.ask(8)


def _policy(one: Grayctl, version: str) -> bytes:
    other = "v2" if version == "v1" else "v1"
    return (
        f"service: {one.services[0]}\nstable: {version}\n"
        f"routes: [{{name: testers, match: {{header: {{X-Version: {other}}}}}, to: {other}}}]\n"
    ).encode()


def _key(one: Grayctl, kind: str) -> str:
    return f"{one.folder.name}/{kind}/{one.services[0]}"


def _apply(one: Grayctl, here: Stage, version: str, before: Live | None) -> Live:
    return apply(here.consul, one.name, one.services[0], _policy(one, version), before)


# ---------------------------------------------------------------- what it came to


def report(turns: int, seconds: int, changes: int) -> Report:
    """What a policy costs a request, and from its key to served (`changes` 0: not that)."""
    rows = list(run(turns, seconds))
    head = (
        "backend",
        "other upstreams",
        "ratio",
        "ratio, CPU",
        "of the decision",
        "requests/s",
        "by hand",
        "CPU, us",
        "same headers",
        "by hand",
        "failed",
    )
    ways = written(changes) if changes else []
    said = [
        f"key to served, {one.name}: median {statistics.median(one.samples):.1f} ms, "
        f"p95 {quantile(one.samples, 0.95):.1f} ms, {len(one.samples)} changes"
        for one in ways
    ]
    return Report("\n".join((table(head, map(_cells, rows)), "", *said)), {"requests": rows, "written": ways})


def _cells(one: Row) -> tuple[object, ...]:
    rates = (statistics.median(turn.rate for turn in one.turns[path]) for path in ("gray", "plain"))
    costs = (statistics.median(turn.cost for turn in one.turns[path]) for path in LOCATIONS)
    ratios = one.ratio, one.ratio_of_cost("plain"), one.ratio_of_cost("headers")
    return one.backend, one.upstreams, *ratios, *rates, *costs, one.failed


SECTION = Section(
    "releases",
    "what a policy costs beside an upstream by hand; from its key in Consul to served",
    report,
    {
        "turns": Option(8, 2, "of each contender, in each row"),
        "seconds": Option(1, 1, "for each turn"),
        "changes": Option(20, 10, "of the policy, each way; 0: none"),
    },
)
