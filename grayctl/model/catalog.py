"""What Consul (or a catalog file) says: registrations, unjudged, and the whole of them at one time."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Health(StrEnum):
    """An instance's health: the worst of its own checks and its node's."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


class Registration(msgspec.Struct, frozen=True, order=True, kw_only=True, gc=False):
    """One service instance as registered: nothing here has been judged yet.

    Attributes:
        service: the service's name.
        id: the instance's id, unique on its node.
        node: the node's name.
        node_address: the node's address, used when `address` is empty.
        address: the service address, as text.
        port: as registered; 0 when there is none.
        tags: in the order registered.
        meta: the service's Meta, as pairs sorted by key.
        weights: Consul's own passing and warning weights.
        health: the worst check.
        node_failed: the node's own check (serf) is critical: the instance is lost with its node, not by its
            own check.
        created: Consul's CreateIndex, orders registrations by age; 0 when unknown.
    """

    service: str
    id: str
    node: str = ""
    node_address: str = ""
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    weights: tuple[int, int] = (1, 1)
    health: Health = Health.PASSING
    node_failed: bool = False
    created: int = 0


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """The brake: while one stands, nothing that nginx serves is changed.

    Attributes:
        reason: why, in the words of who froze.
        author: who froze.
        since: wall clock, seconds since the epoch.
        until: wall clock, seconds since the epoch; None until somebody unfreezes.
        scope: "node" or "fleet".
    """

    reason: str = ""
    author: str = ""
    since: float = 0.0
    until: float | None = None
    scope: str = "node"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One key of Consul's KV store.

    Attributes:
        key: the whole key, prefix included.
        value: the raw bytes.
        modify_index: Consul's ModifyIndex, for check-and-set.
        session: who holds the key; empty when nobody does.
    """

    key: str
    value: bytes
    modify_index: int
    session: str = ""


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """Everything watched, at one time: complete, or not published at all.

    Attributes:
        services: every watched service's registrations, sorted; a service without any has an empty tuple.
        names: for each host name that stands where an address is expected, its IP addresses, sorted; empty when it
            did not resolve.
        kv: for each watched prefix (`releases`, `freeze`, ...) its entries, sorted by key.
    """

    services: Mapping[str, tuple[Registration, ...]] = {}
    names: dict[str, tuple[str, ...]] = {}
    kv: dict[str, tuple[Entry, ...]] = {}
