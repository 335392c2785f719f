"""One service of many changes: what the converge costs by itself, without disk and without nginx."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from grayctl.converge import Converger, Wanted
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.generation import FileSet, Manifest
from grayctl.model.identity import Renewed, renewed
from grayctl.model.outcome import Applied
from grayctl.nginx.check import Checked
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import Facts
from grayctl.nginx.site import Activated, Site
from grayctl.policy.resolve import Limits
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import NginxSettings, ReloadSettings, Settings
from tests.bench.section import Option, Report, Section, quantile, ratio, table

if TYPE_CHECKING:
    from grayctl.model.outcome import RolledBack

SIZES = (10, 100, 1000, 10_000)
INSTANCES = 10


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds of CPU for each change of one service: until the files are known, and all of it."""

    services: int
    files: list[float]
    whole: list[float]


class _Memory(Store):
    """Generations that are kept nowhere."""

    def current(self) -> Manifest | None:
        return None

    def stands(self, manifest: Manifest) -> bool:
        del manifest
        return True

    def numbers(self) -> list[int]:
        return []

    def write(
        self,
        files: FileSet,
        *,
        cause: str,
        trace_id: str,
        created: float,
        quarantined: dict[str, str] | None = None,
    ) -> Manifest:
        self._highest += 1
        return Manifest(
            number=self._highest,
            digest=files.digest,
            created=created,
            cause=cause,
            trace_id=trace_id,
            quarantined=quarantined or {},
        )


class _Willing(Site):
    """An nginx that takes everything at once."""

    async def check(self, candidate: Manifest, *, trial: bool = False) -> Checked:
        del candidate, trial
        return Checked(ok=True, culprit=None, messages=(), seconds=0.0)

    async def activate(self, candidate: Manifest) -> "Activated | RolledBack":
        del candidate
        return Activated(proven=True, seconds=0.0)


def run(changes: int, sizes: tuple[int, ...] = SIZES) -> list[Cost]:
    """Measure `changes` weight changes, each of another service, at each size."""
    return [asyncio.run(_measure(size, changes)) for size in sizes]


async def _measure(size: int, changes: int) -> Cost:
    with tempfile.TemporaryDirectory(prefix="grayctl-bench-") as folder:
        converger = converger_without_nginx(Path(folder))
        first, second, *others = catalogs(size, changes + 1)
        await _converge(converger, first)
        await _converge(converger, second)  # it learns that all have been published
        files, whole = [], []
        for catalog in others:
            began = time.process_time()
            outcome = await _converge(converger, catalog)
            whole.append((time.process_time() - began) * 1000)
            files.append(outcome.timings["render"] * 1000)
            assert len(outcome.changed) == 1
    return Cost(size, files, whole)


async def _converge(converger: Converger, catalog: Catalog) -> Applied:
    outcome = await converger.converge(Wanted(catalog, None, "bench", "bench"))
    assert isinstance(outcome, Applied)
    return outcome


def converger_without_nginx(folder: Path) -> Converger:
    """A converger whose nginx takes everything, and whose disk keeps nothing."""
    settings, store = Settings(), _Memory(folder)
    facts = Facts(
        version="1.22.1",
        binary=folder / "nginx",
        conf=folder / "nginx.conf",
        default_conf=folder / "nginx.conf",
        prefix=folder,
        pid_file=folder / "nginx.pid",
        error_log=None,
        variables_hash_bucket_size=64,
        has_http2=True,
        http2_directive=False,
        has_stream=False,
        included=True,
    )
    site = _Willing(NginxSettings(), ReloadSettings(), store, facts)
    renderer = Renderer(Templates(), settings, Dialect())
    return Converger(settings, renderer, store, site, Limits(), monotonic=time.process_time)


def catalogs(size: int, changes: int) -> Iterator[Catalog]:
    """A catalog, and `changes` more, in each of which one service differs from the one before, as the watcher does."""
    services: Mapping[str, tuple[Registration, ...]] = Renewed(
        {
            f"service-{number:05}": tuple(_registration(number, instance, 10) for instance in range(INSTANCES))
            for number in range(size)
        }
    )
    yield Catalog(services=services)
    for change in range(changes):
        number = change * 7919 % size
        one = _registration(number, 0, 11 + change)
        name = f"service-{number:05}"
        services = renewed(services, {name}, {name: (one, *services[name][1:])})
        yield Catalog(services=services)


def _registration(service: int, instance: int, weight: int) -> Registration:
    return Registration(
        service=f"service-{service:05}",
        id=f"service-{service:05}-{instance}",
        node=f"node-{instance}",
        address=f"10.{service // 250}.{service % 250}.{instance + 1}",
        port=8080,
        weights=(weight, 1),
        meta=(("version", "1.0.0"),),
    )


def report(changes: int) -> Report:
    """Each size beside the smallest."""
    costs = run(changes)
    first = costs[0]
    head = (
        "services",
        "to the files, ms",
        "p95",
        f"to {first.services}",
        "whole converge, ms",
        "p95",
        f"to {first.services}",
    )
    rows = [(one.services, *_cells(one.files, first.files), *_cells(one.whole, first.whole)) for one in costs]
    return Report(f"{changes} changes each, CPU time; the aim is 1.5 at any size\n\n{table(head, rows)}", costs)


def _cells(samples: list[float], smallest: list[float]) -> tuple[float, float, str]:
    middle = statistics.median(samples)
    return middle, quantile(samples, 0.95), ratio(middle, statistics.median(smallest))


SECTION = Section(
    "converge",
    f"one of many services of {INSTANCES} changes: grayctl's own CPU, without disk and nginx",
    report,
    {"changes": Option(50, 10, "at each size")},
)
