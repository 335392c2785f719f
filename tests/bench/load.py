"""Asking nginx all the time, by wrk."""

import shutil
import subprocess
from pathlib import Path

import msgspec

_THREADS, CONNECTIONS = 2, 32
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
        lost: connections that failed, were closed or timed out under a request, or between two.
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


NO_LOAD = Load(0, 0, 0, 1, 0)


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
