"""Consul's JSON to values. Pure: bytes in, frozen and sorted values out, so that order and noise never show.

Unknown fields are ignored; what Consul writes as null is empty here; the output of a check is not read at all,
so that two answers that differ in it alone are equal. No value can hold itself, so they are kept from Python's garbage
collector (`gc=False`): there are tens of thousands.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from grayctl.model.catalog import Entry, Health, Registration

_NODE_MAINTENANCE = "_node_maintenance"
_SERVICE_MAINTENANCE = "_service_maintenance:"
_NODE_CHECK = "serfHealth"
_BADNESS = {Health.PASSING: 0, Health.WARNING: 1, Health.CRITICAL: 2, Health.MAINTENANCE: 3}


class Check(Struct, frozen=True, order=True, kw_only=True, rename="pascal", gc=False):
    """One check's status: what `/v1/health/state/...` is made of.

    Attributes:
        service_name: the service the check belongs to; empty for a check of the node.
        status: `passing`, `warning`, `critical`.
    """

    node: str = ""
    check_id: str = field(default="", name="CheckID")
    service_name: str = ""
    status: str = ""


class _Node(Struct, rename="pascal", gc=False):
    node: str
    address: str | None = ""


class _Weights(Struct, rename="pascal", gc=False):
    passing: int = 1
    warning: int = 1


class _Service(Struct, rename="pascal", gc=False):
    id: str = field(name="ID")
    service: str
    address: str | None = ""
    port: int | None = 0
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None
    create_index: int = 0


class _Instance(Struct, rename="pascal", gc=False):
    node: _Node
    service: _Service
    checks: list[Check] | None = None


class _Pair(Struct, rename="pascal", gc=False):
    key: str
    value: bytes | None = None  # base64 in JSON, which msgspec undoes; null for an empty value
    modify_index: int = 0
    session: str = ""


class _Token(Struct, rename="pascal", gc=False):
    accessor_id: str = field(name="AccessorID")


_INSTANCES = msgspec.json.Decoder(list[_Instance] | None)
_SERVICES = msgspec.json.Decoder(dict[str, list[str] | None] | None)
_PAIRS = msgspec.json.Decoder(list[_Pair] | None)
_NODES = msgspec.json.Decoder(list[_Node] | None)
_CHECKS = msgspec.json.Decoder(list[Check] | None)


def health(body: bytes) -> tuple[Registration, ...]:
    """`/v1/health/service/<name>`: the registrations, sorted.

    Raises:
        msgspec.DecodeError: this is no such answer (also in the functions below).
    """
    kept: dict[Any, Any] = {}

    def same(value: Any) -> Any:
        """One copy of what instances have in common, which is most of their texts."""
        return kept.setdefault(value, value)

    return tuple(sorted(_registration(one, same) for one in _INSTANCES.decode(body) or ()))


def services(body: bytes) -> dict[str, tuple[str, ...]]:
    """`/v1/catalog/services`: each service's tags, sorted."""
    return {name: tuple(sorted(tags or ())) for name, tags in sorted((_SERVICES.decode(body) or {}).items())}


def entries(body: bytes) -> tuple[Entry, ...]:
    """`/v1/kv/<prefix>?recurse`: the entries, sorted by key."""
    pairs = sorted(_PAIRS.decode(body) or (), key=lambda pair: pair.key)
    return tuple(
        Entry(key=pair.key, value=pair.value or b"", modify_index=pair.modify_index, session=pair.session)
        for pair in pairs
    )


def checks(body: bytes) -> tuple[Check, ...]:
    """`/v1/health/state/<state>`: the checks, sorted."""
    return tuple(sorted(_CHECKS.decode(body) or ()))


def nodes(body: bytes) -> dict[str, str]:
    """`/v1/catalog/nodes`: each node's address."""
    return {one.node: one.address or "" for one in _NODES.decode(body) or ()}


def accessor(body: bytes) -> str:
    """`/v1/acl/token/self`: the token's accessor."""
    return msgspec.json.decode(body, type=_Token).accessor_id


def _registration(one: _Instance, same: Callable[[Any], Any]) -> Registration:
    service = one.service
    weights = service.weights or _Weights()
    found = one.checks or ()
    return Registration(
        service=same(service.service),
        id=service.id,
        node=same(one.node.node),
        node_address=same(one.node.address or ""),
        address=service.address or "",
        port=service.port or 0,
        tags=same(tuple(service.tags or ())),
        meta=same(tuple(sorted((service.meta or {}).items()))),
        weights=same((weights.passing, weights.warning)),
        health=worst(found),
        node_failed=any(check.check_id == _NODE_CHECK and check.status == Health.CRITICAL for check in found),
        created=service.create_index,
    )


def worst(found: Iterable[Check]) -> Health:
    """The worst of an instance's checks; passing without any. A status that Consul does not know is critical."""
    return max((_health(check) for check in found), key=_BADNESS.__getitem__, default=Health.PASSING)


def _health(check: Check) -> Health:
    if check.check_id == _NODE_MAINTENANCE or check.check_id.startswith(_SERVICE_MAINTENANCE):
        return Health.MAINTENANCE
    try:
        return Health(check.status)
    except ValueError:
        return Health.CRITICAL
