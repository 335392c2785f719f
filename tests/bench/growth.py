"""Whether something grew: a robust slope after the warm-up, and bounds that nothing may pass."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

from tests.bench.resources import Sample

_MIB = 1024 * 1024
_TAKEN = 0.05  # how far what processes take may rise over the judged part, as a share of its own level
WARM_UP = 0.25  # of the run; what comes after it is judged
_WINDOW = 20  # samples over which log bytes a reload are counted


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over a run.

    Attributes:
        level: its median after the warm-up.
        rise: how far it rose over the judged part: its length times the median of the slopes between all pairs of
            samples (Theil-Sen), which a spike or a single step does not move.
        hourly: the same slope, per hour.
        allowed: what `rise` may not pass.
        peak: the highest of all.
        bound: what `peak` may not pass; None where growth alone is judged.
    """

    name: str
    unit: str
    level: float
    rise: float
    hourly: float
    allowed: float
    peak: float
    bound: float | None = None

    @property
    def passed(self) -> bool:
        """It did not grow, and did not pass its bound."""
        return self.rise <= self.allowed and (self.bound is None or self.peak <= self.bound)


def figures(samples: Sequence[Sample], keep: int, *, memory: float = 0.1, written: float = 0.5) -> list[Figure]:
    """Every figure that a run is judged by.

    The bound on generations, and on the sets of snippets that they link: `keep` that stood, twenty candidates that did
    not, and those of the journal and the last proof; or, while nothing passes the check, twice `keep`, and the one that
    is being written.

    Args:
        samples: in the order of time.
        keep: `keep_generations`.
        memory: how far the memory of a process may rise over the judged part, as a share of its own level. A tenth,
            since Python rebuilds its table of interned strings, which has every path component that pathlib ever saw,
            in steps of almost 2 MiB, some ten minutes apart.
        written: the same for what is on disk and in the log. A half, since it follows what the latest generations
            changed, and the twenty refused candidates that are kept turn over only in about half an hour.
    """
    generations = max(2 * keep, keep + 20) + 3
    rows: list[tuple[str, str, Callable[[Sample], float], float, float | None]] = [
        ("grayctl RSS", "MiB", lambda one: one.rss / _MIB, memory, None),
        ("grayctl RSS, anonymous", "MiB", lambda one: one.anonymous / _MIB, memory, None),
        ("nginx master RSS", "MiB", lambda one: one.nginx_rss / _MIB, memory, None),
        ("descriptors", "", lambda one: one.descriptors, _TAKEN, 100),
        ("threads", "", lambda one: one.threads, _TAKEN, 24),
        ("children", "", lambda one: one.children, _TAKEN, 2),
        ("connections to Consul", "", lambda one: one.connections, _TAKEN, 60),
        ("lines of /metrics", "", lambda one: one.series, _TAKEN, None),
        ("nginx workers", "", lambda one: one.workers, _TAKEN, None),
        ("workers shutting down", "", lambda one: one.leaving, _TAKEN, 12),
        ("generations", "", lambda one: one.generations, written, generations),
        ("objects", "", lambda one: one.objects, written, None),
        ("snippet sets", "", lambda one: one.snippet_sets, written, generations),
        ("journal files", "", lambda one: one.pending, _TAKEN, 1),
        ("temporary files", "", lambda one: one.leftovers, _TAKEN, 4),
        ("state directory", "KiB", lambda one: one.state_bytes / 1024, written, None),
        ("services that did not answer", "", lambda one: one.unanswered, _TAKEN, 0),
    ]
    times = [one.at for one in samples]
    judged = [
        _figure(times, [get(one) for one in samples], name=name, unit=unit, share=share, bound=bound)
        for name, unit, get, share, bound in rows
    ]
    span = min(_WINDOW, len(samples) // 4)
    logged = [
        (later.logged - earlier.logged) / max(1, later.reloads - earlier.reloads)
        for earlier, later in zip(samples, samples[span:], strict=False)
    ]
    return [*judged, _figure(times[span:], logged, name="log a reload", unit="bytes", share=written)]


def _figure(
    times: Sequence[float],
    values: Sequence[float],
    *,
    name: str,
    unit: str,
    share: float,
    bound: float | None = None,
) -> Figure:
    warm = slice(int(WARM_UP * len(values)), None)
    level = statistics.median(values[warm])
    steep = slope(times[warm], values[warm])
    return Figure(
        name=name,
        unit=unit,
        level=level,
        rise=steep * (times[-1] - times[warm][0]),
        hourly=steep * 3600,
        allowed=share * level,
        peak=max(values),
        bound=bound,
    )


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """The median slope between all pairs (Theil-Sen), per unit of time; 0 for fewer than two."""
    pairs = [
        (values[later] - values[earlier]) / (times[later] - times[earlier])
        for earlier in range(len(values))
        for later in range(earlier + 1, len(values))
    ]
    return statistics.median(pairs) if pairs else 0.0
