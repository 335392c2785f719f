"""One fault from beginning to end: what held meanwhile, and how soon all was well again, as a row of a table.

A test of a fault is marked `@pytest.mark.fault(PART, FAULT)` and takes the `ordeal` fixture. Its row lands in
docs/reliability.md when the run is told to write it: UPDATE_RELIABILITY=1.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from tests.support.edge import Edge
from tests.support.nginx import BINARY, Nginx, Prober
from tests.support.process import wait_until

_COLD_EVERY = 0.25
# PROMISES.md's bounds are for a machine that does nothing else; a test run fills every core.
_PATIENCE = 3.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault came to.

    Attributes:
        requests, failed: what the prober asked every 20 ms, and what of it was no 200 from a healthy instance.
        cold: how often `nginx -t` passed on what was on disk while the fault lasted.
        recovered: seconds from the end of the fault until what changed meanwhile, and a change made after it, were
            served.
        within: what PROMISES.md allows, in seconds.
        grayctl: `lived`, or how it came back.
    """

    part: str
    fault: str
    requests: int
    failed: int
    cold: int
    recovered: float
    within: float
    grayctl: str


class ColdStarts:
    """Tests every quarter second whether an nginx that were to start now would take what is on disk."""

    def __init__(self, nginx: Nginx) -> None:
        self.passed = 0
        self.refused: list[str] = []
        self._looking = threading.RLock()
        # a pid file of its own: `nginx -t` truncates the one it is told about
        self._conf = nginx.folder / "cold.conf"
        self._nginx = nginx
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cold starts")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Test nothing meanwhile; a test under way has ended before the block begins."""
        with self._looking:
            yield

    def _run(self) -> None:
        while not self._stop.wait(_COLD_EVERY):
            self.look()

    def look(self) -> None:
        """Test now."""
        refusal = self.refusal()
        if refusal:
            self.refused.append(refusal)
        else:
            self.passed += 1

    def refusal(self) -> str:
        """What `nginx -t` says to what is on disk now, uncounted; empty when it passes."""
        with self._looking:  # or one test reads the file that another is writing
            text = self._nginx.conf.read_text(encoding="utf-8")
            self._conf.write_text(text.replace(str(self._nginx.pid_file), f"{self._nginx.folder}/cold.pid"))
            command = [BINARY, "-t", "-c", str(self._conf)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"


@dataclass
class Ordeal:
    """A node that serves two instances, and whatever a test does to it.

    Attributes:
        prober, cold: let them rest while nginx is down, or its owner's tree is broken, by the test's own doing.
        grayctl: what became of the daemon, for the row; None demands that it lived.
    """

    edge: Edge
    part: str
    fault: str
    rows: Path
    grayctl: str | None = None
    prober: Prober = field(init=False)
    cold: ColdStarts = field(init=False)

    def begin(self, *names: str) -> None:
        """Instances of these names, or two, and those that there are already, served."""
        for name in names or ("one", "two"):
            self.edge.backend(name)
        self.edge.up()
        wait_until(lambda: self.edge.serves(*self.edge.backends), "all instances are served")

    def change(self) -> None:
        """A new instance, registered while the fault lasts."""
        self.edge.backend("during")

    @property
    def under_way(self) -> bool:
        """Whether an activation is under way, as the journal says."""
        return (self.edge.nginx.state_dir / "pending.json").exists()

    def change_and_catch(self) -> None:
        """A change; return in the middle of its activation."""
        self.change()
        wait_until(lambda: self.under_way, "an activation is under way", interval=0.001)

    @contextlib.contextmanager
    def endured(self, within: float = 20.0) -> Iterator[None]:
        """The body brings the fault and takes it away; then what changed meanwhile, and after that a new instance,
        must be served `within` seconds.

        All the while nginx answers every request from an instance that is registered, and what is on disk would pass
        a cold start. At the end nginx is really started cold.
        """
        pid = self.edge.process.pid if self.edge.process else None
        with Prober(self.edge.nginx, "/") as self.prober, ColdStarts(self.edge.nginx) as self.cold:
            yield
            mended = time.monotonic()
            self._demand(within)
            self.edge.backend("after")
            self._demand(within)
            recovered = time.monotonic() - mended
            self.cold.look()
        self._judge(pid)
        self._start_cold()
        self._record(recovered, within)

    def _demand(self, within: float) -> None:
        everybody = tuple(self.edge.backends)
        wait_until(lambda: self.edge.serves(*everybody), f"{everybody} are served", seconds=within * _PATIENCE)

    def _judge(self, pid: int | None) -> None:
        wrong = {body.strip() for body in self.prober.bodies} - self.edge.backends.keys()
        assert self.prober.bodies, "the prober asked nothing"
        assert self.prober.failed == 0, f"{self.prober.failed} of {len(self.prober.bodies)} requests failed"
        assert not wrong, f"answers from nobody: {wrong}"
        assert not self.cold.refused, self.cold.refused[0]
        assert self.edge.process is not None
        assert self.edge.process.poll() is None, "grayctl has ended"
        if self.grayctl is None:
            assert self.edge.process.pid == pid, "grayctl did not live through it"

    def _start_cold(self) -> None:
        self.edge.nginx.restart()
        assert self.edge.serves(*self.edge.backends), "a cold start serves something else"

    def _record(self, recovered: float, within: float) -> None:
        row = Row(
            part=self.part,
            fault=self.fault,
            requests=len(self.prober.bodies),
            failed=self.prober.failed,
            cold=self.cold.passed,
            recovered=round(recovered, 1),
            within=within,
            grayctl=self.grayctl or "lived",
        )
        name = "".join(char if char.isalnum() else "-" for char in f"{self.part}-{self.fault}")
        (self.rows / f"{name}.json").write_bytes(msgspec.json.encode(row))


def fault(part: str, text: str, *values: object) -> object:
    """A row of its own for one set of parameters: `values`, or the row's own text."""
    return pytest.param(*values or (text,), marks=pytest.mark.fault(part, text), id=text)


@pytest.fixture
def ordeal(request: pytest.FixtureRequest, edge: Edge) -> Ordeal:
    """An Ordeal named by the test's `fault` mark; call `begin` when the edge is configured."""
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "a test of a fault is marked with its part and its fault"
    part, fault = mark.args
    return Ordeal(edge, part, fault, request.config.cache.mkdir("reliability"))
