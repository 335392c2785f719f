"""What came of one converge: frozen values that say why. Exceptions mean that the machinery failed."""

from dataclasses import dataclass
from typing import Literal

# what keeps a change from being tried; `template` is the entry template that all services share
HeldBy = Literal["freeze", "user-config", "nginx", "template", "disk", "machine", "consul"]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What nginx serves is what it shall serve."""

    generation: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Nginx serves the new generation. Unproven when nginx was not running: the next start serves it.

    Attributes:
        changed: the services whose objects are new.
        quarantined: service -> why it stays at its last good object.
        timings: seconds by step: render, write, check, reload (signal to proof).
    """

    generation: int
    proven: bool
    changed: tuple[str, ...]
    quarantined: dict[str, str]
    timings: dict[str, float]


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing was tried: frozen, or the user's own configuration is broken, or nginx cannot be asked."""

    generation: int
    by: HeldBy
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """`nginx -t` refused the candidate; what was served is still served."""

    generation: int
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Nginx took the signal but did not prove the candidate: the last good generation was put back.

    Attributes:
        generation: the one that stands again.
        failed: the one that failed.
        restored: whether the old generation was itself proven again.
    """

    generation: int
    failed: int
    digest: str
    reason: str
    restored: bool


Outcome = Unchanged | Applied | Held | Rejected | RolledBack
