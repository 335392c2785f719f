"""A Release, typed: what `grayctl.policy` reads from a policy and compiles into decision tables.

What each field means stands in docs/releases.md. Everything here has been checked by the one validator,
`grayctl.policy.document`; whoever holds a Release need not check again.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from grayctl.model.balance import Balance

HUNDRED_PERCENT = 10_000  # shares are integers, in hundredths of a percent


class Protocol(StrEnum):
    """What the service speaks; `tcp` lives in nginx's stream, where only addresses and ports can decide."""

    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


class Source(StrEnum):
    """What a condition looks at."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY = "query"
    PATH = "path"
    HOST = "host"
    PORT = "port"
    METHOD = "method"
    CLIENT_IP = "client_ip"
    REGION = "region"
    DEVICE = "device"
    IDENTITY = "identity"

    @property
    def named(self) -> bool:
        """Whether it takes a name, as in `header("X-User-ID")`."""
        return self in {Source.HEADER, Source.COOKIE, Source.QUERY}


class Device(StrEnum):
    """What a client is, by its User-Agent; one request may be several of them, or none."""

    BOT = "bot"
    IOS = "ios"
    ANDROID = "android"
    MOBILE = "mobile"
    TABLET = "tablet"
    WECHAT = "wechat"
    DESKTOP = "desktop"


class Input(msgspec.Struct, frozen=True, order=True):
    """One thing of a request that a condition reads; `name` is empty where the source needs none."""

    source: Source
    name: str = ""

    @property
    def text(self) -> str:
        """`header("X-User-ID")`, `path`: as the `when` language writes it."""
        return f'{self.source}("{self.name}")' if self.name else str(self.source)


class Operator(StrEnum):
    """How a condition compares its input with its values.

    `IN` is any of the values, exactly (for client_ip: any of the networks; for region and device: membership of any).
    The last five compare integers: the one value is canonical decimal text, of any length.
    """

    IN = "in"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    REGEX = "regex"
    HAS = "has"
    IN_LIST = "in_list"
    PRESENT = "present"
    NUMBER_IN = "number in"
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Condition(msgspec.Struct, frozen=True, tag=True):
    """An atom: one input, one operator.

    Attributes:
        values: sorted and unique. IN, NUMBER_IN: any of them. PREFIX, SUFFIX, REGEX, HAS, IN_LIST and the orderings:
            one. PRESENT: none; absence is written `Not(...)`.
    """

    input: Input
    operator: Operator
    values: tuple[str, ...] = ()


class All(msgspec.Struct, frozen=True, tag=True):
    """Every part holds; without parts it always holds."""

    parts: "tuple[Predicate, ...]"


class AnyOf(msgspec.Struct, frozen=True, tag=True):
    """At least one part holds; without parts it never holds."""

    parts: "tuple[Predicate, ...]"


class Not(msgspec.Struct, frozen=True, tag=True):
    """The part does not hold."""

    part: "Predicate"


Predicate = Condition | All | AnyOf | Not


class Route(msgspec.Struct, frozen=True):
    """The first route whose predicate holds decides: `to` one version, or `shares` of those who match.

    Attributes:
        to: a version; empty when `shares` decides.
        shares: version -> hundredths of a percent, sorted by version; the rest is stable's.
    """

    name: str
    predicate: Predicate
    to: str = ""
    shares: tuple[tuple[str, int], ...] = ()


class Unknown(StrEnum):
    """What becomes of an explicit value that names no listed version."""

    STABLE = "stable"
    REJECT = "reject"


class Explicit(msgspec.Struct, frozen=True):
    """A request may name its version.

    Attributes:
        networks: canonical CIDRs from which it may; empty for everywhere.
    """

    input: Input
    versions: tuple[str, ...]
    networks: tuple[str, ...] = ()
    unknown: Unknown = Unknown.STABLE


class Region(msgspec.Struct, frozen=True):
    """Where a client is: in one of the networks, or the variable has one of the values (then `networks` is empty).

    Attributes:
        networks: canonical CIDRs, sorted and unique.
        variable: an nginx variable in lower case, without the dollar sign; empty where `networks` decide.
        values: sorted and unique.
    """

    name: str
    networks: tuple[str, ...] = ()
    variable: str = ""
    values: tuple[str, ...] = ()


class BlueGreen(msgspec.Struct, frozen=True):
    """`preview` is reached where the predicate holds; everybody else gets stable, the active one."""

    preview: str
    predicate: Predicate


class UpstreamOptions(msgspec.Struct, frozen=True):
    """What a Release may say about its upstreams; `fail_timeout` in seconds."""

    keepalive: int = 32
    max_fails: int = 1
    fail_timeout: float = 10.0
    zone: str = "auto"


class Release(msgspec.Struct, frozen=True):
    """One service's policy.

    Attributes:
        identity: who a user is, the first that is not empty; None: nobody, each request is decided on its own.
        shares: version -> hundredths of a percent, sorted by version, stable left out.
        by_weights: `traffic: weights`: one upstream of all versions' instances, by their weights.
        regions: by name.
        when_empty: `keep_last` or `reject`.
    """

    service: str
    stable: str
    protocol: Protocol = Protocol.HTTP
    identity: tuple[Input, ...] | None = (Input(Source.CLIENT_IP),)
    shares: tuple[tuple[str, int], ...] = ()
    by_weights: bool = False
    routes: tuple[Route, ...] = ()
    explicit: Explicit | None = None
    regions: tuple[Region, ...] = ()
    blue_green: BlueGreen | None = None
    balance: Balance = Balance()
    upstream: UpstreamOptions = UpstreamOptions()
    when_empty: str = "keep_last"

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that the policy names, stable first, then in the order of their names."""
        named = {version for version, _ in self.shares}
        named |= {route.to for route in self.routes if route.to}
        named |= {version for route in self.routes for version, _ in route.shares}
        if self.blue_green:
            named.add(self.blue_green.preview)
        if self.explicit:
            named |= set(self.explicit.versions)
        return (self.stable, *sorted(named - {self.stable}))

    @property
    def lists(self) -> frozenset[str]:
        """The lists that conditions ask."""
        return frozenset(
            condition.values[0]
            for predicate in self.predicates
            for condition in conditions(predicate)
            if condition.operator is Operator.IN_LIST
        )

    @property
    def predicates(self) -> tuple[Predicate, ...]:
        """Every predicate, in the order in which they are asked."""
        preview = (self.blue_green.predicate,) if self.blue_green else ()
        return (*preview, *(route.predicate for route in self.routes))


def conditions(predicate: Predicate) -> Iterator[Condition]:
    """The atoms of a predicate, from left to right."""
    match predicate:
        case Condition():
            yield predicate
        case Not(part):
            yield from conditions(part)
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from conditions(part)


class Slot(msgspec.Struct, frozen=True):
    """A stretch of the ring of 10,000 hundredths of a percent.

    Attributes:
        owner: the version that has it, or had it last; empty for nobody yet.
        width: in hundredths of a percent, above 0.
        held: whether the owner has it now; otherwise it is stable's, and the owner's first to take back.
    """

    owner: str
    width: int
    held: bool = True


Ring = tuple[Slot, ...]
"""The slots from the beginning of the ring; what is beyond the last one is nobody's yet, and stable's."""


class Live(msgspec.Struct, frozen=True):
    """What is in force: the machine's part of a Release.

    Attributes:
        revision: of the policy it belongs to: `revision_of` its text.
        salt: drawn with the first share; letters and digits.
        stable: the version that stable means.
        ring: of the general shares.
        route_rings: of the routes that give shares, by the route's name.
    """

    revision: str
    salt: str
    stable: str
    ring: Ring = ()
    route_rings: tuple[tuple[str, Ring], ...] = ()


class InForce(msgspec.Struct, frozen=True):
    """A policy and the machine's part of it."""

    release: Release
    live: Live
