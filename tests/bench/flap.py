"""An instance that flaps five times a second while nginx is under load: what it costs those who ask."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from tests.bench.machines import ConsulTemplate, Contender, Grayctl, Stage, address, stage
from tests.bench.section import Option, Report, Section, ratio, table
from tests.support.process import wait_until

PER_SECOND = 5
INSTANCES = 10
_THREADS, CONNECTIONS = 2, 32
_POLL = 0.001
_REPORT = """done = function(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format('{"requests":%d,"lost":%d,"refused":%d,"micros":%d,"p99":%d}',
    summary.requests, errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    summary.duration, latency:percentile(99)))
end
"""


class Load(msgspec.Struct, frozen=True):
    """What wrk saw.

    Attributes:
        requests: answered.
        lost: connections that failed, were reset or timed out under a request.
        refused: answers of 400 and above, which here are all of nginx's own making: 5xx.
        micros: how long it took.
        p99: microseconds.
    """

    requests: int
    lost: int
    refused: int
    micros: int
    p99: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.micros * 1e6

    @property
    def failed(self) -> int:
        """Requests that got no good answer."""
        return self.lost + self.refused


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under load.

    Attributes:
        flaps: changes of the instance's health meanwhile.
        reloads: of nginx meanwhile.
        late: seconds from a registration at the end of the flapping to the first answer of that instance.
    """

    name: str
    load: Load
    flaps: int
    reloads: int
    late: float


def run(seconds: int) -> list[Result]:
    """Put each contender under load, one after the other; the first row is grayctl in peace.

    Raises:
        AssertionError: wrk is missing or failed, or a contender does not serve what is registered.
    """
    with stage() as here:
        rows: list[tuple[Contender, int]] = [
            (Grayctl(here.folder / "at-rest", here.consul), 0),
            (Grayctl(here.folder / "grayctl", here.consul), PER_SECOND),
        ]
        if ConsulTemplate.binary() is not None:
            waiting = 'wait {\n  min = "200ms"\n  max = "2s"\n}'
            rows += [
                (ConsulTemplate(here.folder / "consul-template", here.consul), PER_SECOND),
                (ConsulTemplate(here.folder / "consul-template-wait", here.consul, wait=waiting), PER_SECOND),
            ]
        return [_measure(contender, here, seconds, rate) for contender, rate in rows]


def _measure(one: Contender, here: Stage, seconds: int, rate: int) -> Result:
    def register(number: int) -> None:
        here.consul.register(one.services[0], f"{one.name}-{number}", address(number), here.backends.port)

    def flap(count: int) -> None:
        here.consul.set_check(f"{one.name}-0", "critical" if count % 2 else "passing")

    for number in range(INSTANCES):
        register(number)
    with closing(one):
        one.start()
        everyone = {address(number) for number in range(INSTANCES)}
        wait_until(lambda: set().union(*(one.ask(8) for _ in range(4))) == everyone, f"{one.name} serves all")
        time.sleep(1)  # nginx comes to rest
        before = one.reloads()
        with _repeated(flap, rate) as flaps:
            load = wrk(here.folder, f"http://127.0.0.1:{one.nginx.web}/{one.services[0]}", seconds)
            reloads = one.reloads() - before
            flapped = len(flaps)
            began = time.monotonic()
            register(INSTANCES)
            wait_until(lambda: address(INSTANCES) in one.ask(8), f"{one.name} serves the newcomer", interval=_POLL)
            late = time.monotonic() - began
    return Result(name=one.name, load=load, flaps=flapped, reloads=reloads, late=late)


@contextmanager
def _repeated(act: Callable[[int], None], rate: int) -> Iterator[list[int]]:
    """Call `act(1)`, `act(2)`, ... from a thread, `rate` times a second; yields what was done so far."""
    done: list[int] = []
    over = threading.Event()
    began = time.monotonic()

    def repeat() -> None:
        while not over.wait(began + (len(done) + 1) / rate - time.monotonic()):
            act(len(done) + 1)
            done.append(len(done) + 1)

    thread = threading.Thread(target=repeat, name="flapper")
    if rate:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        if rate:
            thread.join()


def wrk(folder: Path, url: str, seconds: int, *, connections: int = CONNECTIONS, request: str = "") -> Load:
    """Ask for so long; `request` is Lua that makes the requests.

    Raises:
        AssertionError: wrk is missing or failed.
    """
    assert shutil.which("wrk"), "no wrk on PATH: install it (Debian's package is wrk)"
    script = folder / "report.lua"
    script.write_text(request + _REPORT, encoding="utf-8")
    command = ["wrk", f"-t{_THREADS}", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    assert done.returncode == 0, done.stdout + done.stderr
    return msgspec.json.decode(done.stderr, type=Load)


def report(seconds: int) -> Report:
    """Every contender's row, and the ratios to those that flapped as well."""
    rows = run(seconds)
    head = ("", "flaps", "reloads", "requests", "a second", "5xx", "lost", "p99 ms", "late s")
    ours, *peers = rows[1:]
    ratios = [_ratios(ours, peer) for peer in peers]
    said = table(("grayctl to", "reloads", "failed requests", "requests a second", "p99"), ratios)
    missing = "consul-template is missing: set CONSUL_TEMPLATE or put it on PATH"
    return Report(f"{said if ratios else missing}\n\n{table(head, map(_cells, rows))}", rows)


def _cells(one: Result) -> tuple[object, ...]:
    load = one.load
    said = (load.requests, load.rate, load.refused, load.lost, load.p99 / 1000)
    return one.name, one.flaps, one.reloads, *said, one.late


def _ratios(ours: Result, peer: Result) -> tuple[str, ...]:
    pairs = (
        (ours.reloads, peer.reloads),
        (ours.load.failed, peer.load.failed),
        (ours.load.rate, peer.load.rate),
        (ours.load.p99, peer.load.p99),
    )
    return peer.name, *(ratio(*pair) for pair in pairs)


SECTION = Section(
    "flap",
    "an instance flaps while nginx is under load, grayctl beside consul-template",
    report,
    {"seconds": Option(60, 15, "of load for each")},
)
