"""What grayctl, its nginx and its state directory take, at one moment: read from /proc and the disk."""

import contextlib
import os
import re
import time
from pathlib import Path

import msgspec

from grayctl.model.generation import Manifest
from grayctl.nginx.process import Master, start_time, workers
from tests.bench.machines import Grayctl

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_ESTABLISHED = "01"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One moment. Sizes in bytes; times in seconds, the processor's since the process began.

    Attributes:
        at: since the run began.
        anonymous: the part of `rss` that no file backs: what a leak would fill.
        cpu: of grayctl's own; `cpu_children` is that of the children it has waited for, `nginx -t` above all.
        children: of grayctl, but for the `nginx -t` that waits for the next check.
        zombies: those that have ended and were not waited for.
        connections: established, from grayctl to Consul.
        leaving: workers of nginx that are shutting down; `workers` counts the others.
        pending: journal files.
        leftovers: files of grayctl's that are named for being temporary.
        reloads: proven, since grayctl began.
        series: lines of /metrics with a value.
        logged: what grayctl has written to its log, since it began.
        unanswered: services that did not answer 200 when each was asked once.
    """

    at: float
    rss: int
    anonymous: int
    cpu: float
    cpu_children: float
    descriptors: int
    threads: int
    children: int
    zombies: int
    connections: int
    nginx_rss: int
    workers: int
    leaving: int
    generations: int
    objects: int
    snippet_sets: int
    pending: int
    leftovers: int
    state_bytes: int
    reloads: int
    series: int
    logged: int
    unanswered: int


def sample(one: Grayctl, began: float) -> Sample:
    """Look once; `began` is monotonic."""
    assert one.edge.process is not None
    assert one.nginx.process is not None
    pid, master = one.edge.process.pid, Master(one.nginx.process.pid, start_time(one.nginx.process.pid) or 0)
    metrics = one.edge.page("/metrics")
    stat = _stat(pid)
    children = {child: state for child, state in _children(pid).items() if not _waits(child)}
    serving = workers(master)
    leaving = sum(worker.leaving for worker in serving)
    return Sample(
        at=time.monotonic() - began,
        rss=_field(pid, "status", "VmRSS"),
        anonymous=_field(pid, "status", "RssAnon"),
        cpu=(int(stat[11]) + int(stat[12])) / _TICK,
        cpu_children=(int(stat[13]) + int(stat[14])) / _TICK,
        descriptors=len(_listed(_PROC / f"{pid}/fd")),
        threads=int(stat[17]),
        children=len(children),
        zombies=sum(state == "Z" for state in children.values()),
        connections=_connections(pid, one.edge.consul.http_port),
        nginx_rss=_field(master.pid, "status", "VmRSS"),
        workers=len(serving) - leaving,
        leaving=leaving,
        unanswered=sum(not one.ask(1, service) for service in one.services),
        reloads=_counter(metrics, "grayctl_reloads_total"),
        series=sum(not line.startswith("#") for line in metrics.splitlines()),
        logged=one.edge.log.stat().st_size,
        **_on_disk(one.nginx.state_dir),
    )


def _waits(pid: int) -> bool:
    """Whether this is the next check's nginx."""
    try:
        return b"/next-check" in (_PROC / f"{pid}/cmdline").read_bytes()
    except OSError:
        return False


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """The processor time that a process has taken itself, and its ended `children` for it; in steps of 10 ms."""
    return sum(map(int, _stat(pid)[11 : 15 if children else 13])) / _TICK


def memory(pid: int) -> tuple[int, int]:
    """Bytes that a process holds now (RSS), and the most it has held."""
    return _field(pid, "status", "VmRSS"), _field(pid, "status", "VmHWM")


def unused_objects(state_dir: Path) -> set[str]:
    """Objects that no generation on disk uses. Only meaningful while nothing is being applied."""
    manifests = [
        msgspec.json.decode(path.read_bytes(), type=Manifest)
        for path in state_dir.glob("generations/[0-9]*/manifest.json")
    ]
    return set(_listed(state_dir / "objects")) - {name for one in manifests for name in one.objects.values()}


def _on_disk(state_dir: Path) -> dict[str, int]:
    sizes = 0
    found: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(state_dir):
        found[folder] = [*folders, *files]
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has just got its name
                sizes += os.lstat(f"{folder}/{name}").st_size
    listed = {
        name: [entry for entry in found[f"{state_dir}/{name}"] if not entry.startswith(".")]
        for name in ("generations", "objects", "snippetsets")
    }
    return {
        "generations": len(listed["generations"]),
        "objects": len(listed["objects"]),
        "snippet_sets": len(listed["snippetsets"]),
        "pending": sum(entries.count("pending.json") for entries in found.values()),
        "leftovers": sum(entry.startswith(".") for entries in found.values() for entry in entries),
        "state_bytes": sizes,
    }


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc(5))."""
    return (_PROC / f"{pid}/stat").read_text().rpartition(") ")[2].split()


def _field(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", (_PROC / f"{pid}/{file}").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/{pid}/{file} has no {name}"
    return int(found[1]) * 1024


def _children(pid: int) -> dict[int, str]:
    """pid -> state of each child, whichever thread began it."""
    found: dict[int, str] = {}
    for task in _listed(_PROC / f"{pid}/task"):
        try:
            listed = (_PROC / f"{pid}/task/{task}/children").read_text()
            found |= {int(child): _stat(int(child))[0] for child in listed.split()}
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread, or the child, has just ended
    return found


def _listed(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _connections(pid: int, port: int) -> int:
    links = []
    for entry in _listed(_PROC / f"{pid}/fd"):
        try:
            links.append(str((_PROC / f"{pid}/fd/{entry}").readlink()))
        except FileNotFoundError:
            continue  # closed meanwhile
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in (_PROC / f"{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == _ESTABLISHED and row[9] in own for row in rows)


def _counter(metrics: str, name: str) -> int:
    found = re.search(rf"^{name} (\S+)", metrics, re.MULTILINE)
    assert found is not None, f"grayctl's /metrics has no {name}: {metrics[:200]!r}"
    return int(float(found[1]))
