"""When to apply: at once when quiet, coalesced under churn. Pure; times are monotonic seconds.

At most one reload per interval; the interval starts at `min_interval` and doubles while changes keep arriving
before it has passed, up to `max_delay`; a change after it has passed halves it, a quiet `max_delay` brings it back.
Policy changes and rollbacks skip it.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """What decides when the next apply is due.

    Attributes:
        min_interval: seconds between two reloads in peace.
        max_delay: the longest a change may wait, and the ceiling of the interval.
        interval: the interval now in force.
        last_reload: when nginx was last signalled; None when never.
        waiting_since: when the oldest change not yet applied arrived; None when there is none.
        urgent: a change that skips the interval is waiting.
        hurried: the newest change came before the interval had passed.
        applying: a converge is under way.
    """

    min_interval: float
    max_delay: float
    interval: float = 0.0
    last_reload: float | None = None
    waiting_since: float | None = None
    urgent: bool = False
    hurried: bool = False
    applying: bool = False

    def changed(self, now: float, *, urgent: bool = False) -> "Pace":
        """A change arrived."""
        if self.waiting_since is not None:
            return replace(self, urgent=self.urgent or urgent)
        interval = max(self.interval, self.min_interval)
        gap = float("inf") if self.last_reload is None else now - self.last_reload
        hurried = self.applying or gap < interval
        if not hurried:
            interval = self.min_interval if gap >= self.max_delay else max(self.min_interval, interval / 2)
        return replace(self, interval=interval, hurried=hurried, waiting_since=now, urgent=urgent)

    def due(self) -> float | None:
        """When to apply: a time (perhaps past), or None when nothing waits."""
        if self.waiting_since is None:
            return None
        if self.urgent or self.last_reload is None:
            return self.waiting_since
        free = self.last_reload + max(self.interval, self.min_interval)
        return max(self.waiting_since, min(free, self.waiting_since + self.max_delay))

    def taken(self) -> "Pace":
        """Everything that waits is being converged; what arrives from now on waits anew."""
        return replace(self, waiting_since=None, urgent=False, applying=True)

    def done(self, now: float, *, reloaded: bool) -> "Pace":
        """The converge is over; `reloaded` says whether nginx was signalled, which starts the interval over."""
        if not reloaded:
            return replace(self, applying=False)
        interval = max(self.interval, self.min_interval)
        grown = min(self.max_delay, 2 * interval) if self.hurried else interval
        return replace(self, interval=grown, last_reload=now, applying=False)
