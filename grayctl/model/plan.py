"""The Plan: what nginx shall do, as upstreams and decision tables, before a letter of configuration is written.

The tables are those of `grayctl.model.tables`. A service without a Release is one upstream and one Constant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from grayctl.model.balance import ROUND_ROBIN, Balance
from grayctl.model.release import InForce, Protocol
from grayctl.model.tables import Table, Value
from grayctl.model.tokens import Address, Word
from grayctl.settings import NginxSettings, listen_address


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One `server` line of an upstream: weight is 1-65535."""

    address: Address
    weight: int = 1
    backup: bool = False
    version: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One `upstream` block. `servers` is sorted and never empty: nginx refuses an upstream without servers.

    Attributes:
        zone: the size of shared memory of its own; empty for the zone that all upstreams of `http` share.
    """

    name: Word
    servers: tuple[Server, ...]
    balance: Balance = ROUND_ROBIN
    keepalive: int = 32
    max_fails: int = 1
    fail_timeout: float = 10.0
    zone: str = ""


class Serving(StrEnum):
    """Where a service's servers come from."""

    LIVE = "live"  # the healthy instances that Consul names
    KEPT = "kept"  # none is healthy: the ones that were healthy last
    REFUSED = "refused"  # none ever was, or when_empty = "reject": 503


class FieldFault(StrEnum):
    """What was wrong with a registration."""

    ADDRESS = "address"
    PORT = "port"
    VERSION = "version"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing about a registration that somebody should mend.

    Attributes:
        dropped: the instance gets no traffic because of it; otherwise a default stands in.
    """

    service: str
    instance: str
    field: FieldFault
    value: str
    why: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One way in which a request can end.

    Attributes:
        route: what `$grayroute_<id>` says.
        version: what `$grayver_<id>` says; empty where no version answers.
        reject: it is answered 400.
        unavailable: it is answered 503.
    """

    route: str
    version: str
    reject: bool = False
    unavailable: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled policy.

    Attributes:
        root: the first test, or what is decided for everybody.
        tables: those that the root leads to, each after the ones it leads to.
        decisions: the text that a table yields -> what it means.
        warnings: about lists, one line each.
    """

    root: Value
    tables: tuple[Table, ...]
    decisions: dict[str, Decision]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled policy, and all that it was made of.

    Attributes:
        available: the versions that had an instance.
        lists: those that the policy asks, with their entries.
    """

    in_force: InForce
    available: frozenset[str]
    lists: tuple[tuple[str, tuple[str, ...]], ...]
    graph: Graph

    @property
    def fallback(self) -> tuple[str, ...]:
        """The versions that the policy names and that have no instance: stable answers for them."""
        return tuple(one for one in self.in_force.release.versions[1:] if one not in self.available)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What nginx shall do for one service.

    Attributes:
        id: the service name in [a-z0-9_], as in `$gray_<id>`.
        known: the servers that were healthy last, for `keep_last` after a restart.
        guarded: those of the servers that are absent and kept by the guard.
        notices: one line each, for status.
        compiled: the policy in force; None for a service without a Release.
        drained: ids of healthy instances that people took out.
        released: it has or had a Release: `$grayver_<id>` and `$grayroute_<id>` are published beside `$gray_<id>`.
    """

    service: str
    id: str
    upstreams: tuple[Upstream, ...]
    tables: tuple[Table, ...]
    serving: Serving
    known: tuple[Server, ...]
    findings: tuple[Finding, ...] = ()
    notices: tuple[str, ...] = ()
    guarded: tuple[Server, ...] = ()
    compiled: Compiled | None = None
    released: bool = False
    drained: tuple[str, ...] = ()

    @property
    def is_stream(self) -> bool:
        """Whether it belongs into nginx's `stream`."""
        return self.compiled is not None and self.compiled.in_force.release.protocol is Protocol.TCP


@dataclass(frozen=True, slots=True)
class Plan:
    """All services, by name; and those that cannot be planned, with the reason.

    Attributes:
        given: what it was made of, for whoever made it: the next Plan takes over what still holds.
    """

    services: Mapping[str, ServicePlan]
    refused: dict[str, str]
    given: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Known:
    """What a service served last: where `keep_last` and "names stay" come from.

    Attributes:
        id: the published id.
        servers: the ones that were healthy last; empty when none ever was.
        released: it has or had a Release, so that its three variables are published.
    """

    id: str
    servers: tuple[Server, ...]
    released: bool = False


class Refusal(IntEnum):
    """The listeners that answer refusals, counted from the port of `nginx.refuse`."""

    BAD_REQUEST = 0
    UNAVAILABLE = 1
    GRPC_BAD_REQUEST = 2
    GRPC_UNAVAILABLE = 3


def refusal_address(nginx: NginxSettings, refusal: Refusal) -> Address:
    """The loopback listener that answers a refusal."""
    host, port = listen_address(nginx.refuse)
    return Address(host, port + refusal)
