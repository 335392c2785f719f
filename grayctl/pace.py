"""When to apply: at once when quiet, coalesced under churn. Pure; times are monotonic seconds.

The first change after quiet goes at once. What follows waits for the interval since the last reload: it starts at
`min_interval` and doubles while changes keep arriving before it has passed, up to `max_delay`; a change after it has
passed halves it, a quiet `max_delay` brings it back. Two things cut the wait short: no change waits longer than
`max_delay`; and when nothing further came for half as long again as changes lately came apart (at least one
`min_interval`, at most two), the storm is taken to be over and its last change goes. While too many workers of earlier
generations are alive, five times `max_delay` lies between two reloads. Policy changes and rollbacks skip all this.
"""

from dataclasses import dataclass, replace

_CROWDED = 5.0  # in `max_delay`: a stream may keep an old worker for ever, a change must not wait that long
_CALM = 1.5  # in the longest gap of late: changes that come evenly must not pass for the end of a storm
_CALM_CEILING = 2.0  # in `min_interval`: what comes further apart than that is no storm
_FADING = 0.8  # what is left of the longest gap with each change


@dataclass(frozen=True, slots=True)
class Pace:
    """What decides when the next apply is due.

    Attributes:
        min_interval: seconds between two reloads in peace.
        max_delay: the longest a change may wait, and the ceiling of the interval.
        interval: the interval now in force.
        turn: when nginx was last signalled, or, under churn, when a converge last found nothing to change; None when
            never.
        waiting_since: when the oldest change not yet applied arrived; None when there is none.
        changed_at: when the newest change arrived; None when none ever did.
        gap: the longest time between two changes of late; 0 when there was quiet.
        urgent: a change that skips the interval is waiting.
        hurried: the newest turn's first change came before the interval had passed.
        applying: a converge is under way.
        crowded: too many workers of earlier generations are alive.
    """

    min_interval: float
    max_delay: float
    interval: float = 0.0
    turn: float | None = None
    waiting_since: float | None = None
    changed_at: float | None = None
    gap: float = 0.0
    urgent: bool = False
    hurried: bool = False
    applying: bool = False
    crowded: bool = False

    @property
    def current_interval(self) -> float:
        """Seconds between two reloads as things are."""
        if self.crowded:
            return _CROWDED * self.max_delay
        return max(self.interval, self.min_interval)

    @property
    def longest_delay(self) -> float:
        """Seconds that a change waits at most."""
        return _CROWDED * self.max_delay if self.crowded else self.max_delay

    def changed(self, now: float, *, urgent: bool = False) -> "Pace":
        """A change arrived."""
        heard = self._heard(now)
        if self.waiting_since is not None:
            return replace(heard, urgent=self.urgent or urgent)
        interval = max(self.interval, self.min_interval)
        since = float("inf") if self.turn is None else now - self.turn
        hurried = self.applying or since < interval
        if not hurried:
            interval = self.min_interval if since >= self.max_delay else max(self.min_interval, interval / 2)
        return replace(heard, interval=interval, hurried=hurried, waiting_since=now, urgent=urgent)

    def _heard(self, now: float) -> "Pace":
        since = float("inf") if self.changed_at is None else now - self.changed_at
        gap = 0.0 if since >= self.max_delay else max(since, _FADING * self.gap)
        return replace(self, changed_at=now, gap=gap)

    def counted(self, *, crowded: bool) -> "Pace":
        """The workers of earlier generations were counted."""
        return self if crowded == self.crowded else replace(self, crowded=crowded)

    def due(self) -> float | None:
        """When to apply: a time (perhaps past), or None when nothing waits."""
        if self.waiting_since is None:
            return None
        if self.urgent or self.turn is None or self.changed_at is None:
            return self.waiting_since
        due = min(self.turn + self.current_interval, self.waiting_since + self.longest_delay)
        if not self.crowded:
            calm = min(max(self.min_interval, _CALM * self.gap), _CALM_CEILING * self.min_interval)
            due = min(due, max(self.turn + self.min_interval, self.changed_at + calm))
        return max(self.waiting_since, due)

    def taken(self) -> "Pace":
        """Everything that waits is being converged; what arrives from now on waits anew."""
        return replace(self, waiting_since=None, urgent=False, applying=True)

    def done(self, now: float, *, reloaded: bool, took: float = 0.0) -> "Pace":
        """The converge is over.

        Args:
            now: when.
            reloaded: nginx was signalled, which starts the interval over. Under churn so does a converge that found
                nothing to change: an instance that flaps is back by then every other time, and churns no less.
            took: how many seconds the converge took. Under churn nginx rests as long between two reloads.
        """
        interval = max(self.interval, self.min_interval)
        if not reloaded:
            return replace(self, applying=False, turn=now if interval > self.min_interval else self.turn)
        grown = min(self.max_delay, max(2 * interval, took)) if self.hurried else interval
        return replace(self, interval=grown, turn=now, applying=False)
