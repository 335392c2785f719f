"""What `grayctl status` shows: the daemon's answer on its control socket, as frozen values that JSON can carry."""

import msgspec


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a service; `share` is its part of the service's traffic, 0-1."""

    address: str
    instance: str
    version: str
    weight: int
    share: float
    backup: bool = False


class ReleaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A service's policy as it is in force.

    Attributes:
        shares: version -> its part of those whom nothing but `traffic` claims, 0-1; stable has the rest.
        routes: their names, in order.
        fallback: versions without an instance, whose share goes to stable.
    """

    revision: str
    stable: str
    shares: dict[str, float]
    routes: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


class FlapperReport(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that flips too often.

    Attributes:
        since: wall clock.
        until: wall clock; when it is calm, unless it flips again.
        kept: `out` or `in` where damping makes a difference now; empty where it is what it is in Consul.
    """

    node: str
    instance: str
    since: float
    until: float
    kept: str = ""


class ServiceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One service: what it serves, and what somebody should know or mend."""

    service: str
    id: str
    serving: str
    versions: dict[str, float]
    servers: tuple[ServerReport, ...]
    registered: int
    dropped: int
    findings: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    quarantine: str = ""
    quarantined_since: float | None = None
    release: ReleaseReport | None = None
    flappers: tuple[FlapperReport, ...] = ()


class GenerationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The generation that stands; `proven` is false while nginx has not answered it."""

    number: int
    digest: str
    created: float
    cause: str
    proven: bool


class NginxReport(msgspec.Struct, frozen=True, kw_only=True):
    """The nginx beside us; `pid` is None while it does not run."""

    version: str
    binary: str
    conf: str
    pid: int | None
    staging: str
    orphans: int = 0
    old_workers: int = 0


class ConsulReport(msgspec.Struct, frozen=True, kw_only=True):
    """What we hear from Consul; `since` is wall clock."""

    address: str
    connected: bool
    since: float
    last_error: str
    services_watched: int
    cold: int
    long_polls: int


class FreezeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The brake, where one stands."""

    reason: str
    author: str
    since: float
    until: float | None
    scope: str


class GuardReport(msgspec.Struct, frozen=True, kw_only=True):
    """A mass disappearance that the guard keeps back: `lost` of `known` instances; times are wall clock."""

    lost: int
    known: int
    since: float
    until: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `daemon` is false when no daemon answered and only the disk was read."""

    node: str
    version: str
    daemon: bool
    pid: int | None = None
    started: float | None = None
    generation: GenerationReport | None = None
    nginx: NginxReport | None = None
    consul: ConsulReport | None = None
    freeze: FreezeReport | None = None
    guard: GuardReport | None = None
    last_outcome: str = ""
    services: tuple[ServiceReport, ...] = ()
    warnings: tuple[str, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a command on the control socket came to.

    Attributes:
        outcome: `unchanged`, `applied`, `held`, `rejected`, `rolled_back`, `done`.
        exit_code: what the command ends with.
    """

    outcome: str
    message: str
    exit_code: int = 0
    generation: int | None = None
