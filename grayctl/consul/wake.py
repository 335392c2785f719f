"""What the watcher tells: each complete catalog, how it does, and what it asked."""

from dataclasses import dataclass
from typing import Protocol

from grayctl.consul.line import Observer
from grayctl.model.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Wake:
    """One complete catalog, and what made it new.

    Attributes:
        changed: service names, and `kv:<name>` such as `kv:releases`.
        trace_id: goes with this change to the proof.
        at: monotonic seconds.
        cause: one line.
    """

    catalog: Catalog
    changed: frozenset[str]
    trace_id: str
    at: float
    cause: str


class WatchObserver(Observer, Protocol):
    """Who counts: `answered(endpoint, seconds)`, `failed(error)`, and each publication."""

    def published(self, wake: Wake) -> None:
        """A catalog was published."""


@dataclass(frozen=True, slots=True)
class WatchState:
    """How the watcher does.

    Attributes:
        connected: Consul answers, and no query fails.
        since: wall clock of the last change of `connected`.
        last_error: the newest fault's message; stays after it has passed.
        denied: queries that the token may not ask.
        long_polls: blocking queries held open.
        services_watched: services known, with and without a long poll.
        cold: those without.
        complete: a catalog has been published.
        last_contact: monotonic time of the newest answer; None before the first.
    """

    connected: bool
    since: float
    last_error: str
    denied: tuple[str, ...]
    long_polls: int
    services_watched: int
    cold: int
    complete: bool
    last_contact: float | None


class Nobody:
    """Counts nothing."""

    def answered(self, endpoint: str, seconds: float) -> None:
        """Ignore."""

    def failed(self, error: Exception) -> None:
        """Ignore."""

    def published(self, wake: Wake) -> None:
        """Ignore."""
