"""Which registrations may become servers: the gate between what people wrote into Consul and the Plan.

The rules are PROMISES.md's table "Registrations". A registration that fails is dropped, counted and named; it
never stops the others.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.identity import Renewed, differing, renewed
from grayctl.model.naming import VERSION_RULE, is_version
from grayctl.model.plan import FieldFault, Finding, Server
from grayctl.model.tokens import Address, canonical_ip
from grayctl.settings import WatchSettings

MAX_PORT = 65535
MAX_WEIGHT = 65535
_INTEGER = re.compile(r"[0-9]{1,5}\Z")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z"
)
_TRUE = frozenset({"true", "1", "yes"})


@dataclass(frozen=True, slots=True)
class Admitted:
    """The instances of one service that may serve, and what was wrong with others.

    Attributes:
        healthy: sorted servers that take traffic; weight 0 is known, but gets nothing and is not here.
        idle: how many healthy instances have weight 0.
        drained: ids of healthy instances that people took out, sorted.
        findings: sorted.
    """

    healthy: tuple[Server, ...]
    idle: int
    findings: tuple[Finding, ...]
    drained: tuple[str, ...] = ()


def admit(
    registrations: Iterable[Registration],
    names: Mapping[str, tuple[str, ...]],
    watch: WatchSettings,
    drained: frozenset[str] = frozenset(),
) -> Admitted:
    """Judge the registrations of one service.

    Args:
        registrations: in any order; the order never shows in the result.
        names: host name -> IP addresses, for registrations whose address is a name.
        watch: where versions and weights stand, and whether `warning` counts as healthy.
        drained: ids of instances that people took out.
    """
    findings: list[Finding] = []
    out: set[str] = set()
    servers: dict[Address, tuple[Registration, Server]] = {}
    for registration in sorted(registrations, key=lambda one: (one.created, one)):
        if not is_healthy(registration, include_warning=watch.include_warning):
            continue
        if registration.id in drained:
            out.add(registration.id)
            continue
        for server in _servers(registration, names, watch, findings):
            earlier = servers.get(server.address)
            weight = max(server.weight, earlier[1].weight) if earlier else server.weight
            servers[server.address] = (registration, _with_weight(server, weight))
    found = sorted(server for _, server in servers.values())
    return Admitted(
        healthy=tuple(server for server in found if server.weight > 0),
        idle=sum(server.weight == 0 for server in found),
        findings=tuple(sorted(set(findings))),
        drained=tuple(sorted(out)),
    )


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is registered.

    Attributes:
        catalog: what says so.
        addresses: by service, as `present` says; a service whose registrations are the same objects keeps its own.
    """

    catalog: Catalog
    addresses: Mapping[str, frozenset[Address]]

    @classmethod
    def of(cls, catalog: Catalog, before: "Presence | None" = None) -> "Presence":
        """Look at a catalog; `before` spares what did not change since."""
        services, names = catalog.services, catalog.names
        known = before if before is not None and before.catalog.names == names else cls(Catalog(), Renewed())
        stale = differing(services, known.catalog.services)
        made = {name: present(services[name], names) for name in stale if name in services}
        return cls(catalog, renewed(known.addresses, stale, made))


def present(registrations: Iterable[Registration], names: Mapping[str, tuple[str, ...]]) -> frozenset[Address]:
    """The addresses that are registered, healthy or not, on nodes whose own check has not failed."""
    return frozenset(
        Address(ip, one.port)
        for one in registrations
        if not one.node_failed and 1 <= one.port <= MAX_PORT
        for ip in _addresses(host_of(one), names)
    )


def healthy_versions(registrations: Iterable[Registration], watch: WatchSettings) -> frozenset[str]:
    """The versions of which an instance may take traffic, as far as its registration says: no name is resolved."""
    return frozenset(
        _first(one, watch.version_from)
        for one in registrations
        if is_healthy(one, include_warning=watch.include_warning) and _weight(one, watch.weight_from)[0] > 0
    )


def is_healthy(registration: Registration, *, include_warning: bool) -> bool:
    """Passing, or warning where the settings say that warning serves; maintenance never."""
    return registration.health is Health.PASSING or (include_warning and registration.health is Health.WARNING)


def host_of(registration: Registration) -> str:
    """The service's address, or its node's where the service has none."""
    return registration.address or registration.node_address


def is_host_name(text: str) -> bool:
    """Whether `text` could be a name to resolve: no IP address, and nothing but a host name."""
    return _ip(text) is None and bool(_HOST_NAME.match(text)) and not text.rstrip(".").rpartition(".")[2].isdigit()


def _servers(
    registration: Registration,
    names: Mapping[str, tuple[str, ...]],
    watch: WatchSettings,
    findings: list[Finding],
) -> list[Server]:
    """The servers of one registration: none when it is dropped, several when its name has several addresses."""

    def finding(field: FieldFault, value: object, why: str, *, dropped: bool = True) -> None:
        findings.append(Finding(registration.service, registration.id, field, str(value), why, dropped))

    host = host_of(registration)
    hosts = _addresses(host, names)
    if not hosts:
        why = (
            "the name does not resolve; mend DNS or register an IP address"
            if is_host_name(host)
            else "register an IPv4 or IPv6 address, or a host name"
        )
        finding(FieldFault.ADDRESS, host, why)
        return []
    if not 1 <= registration.port <= MAX_PORT:
        finding(FieldFault.PORT, registration.port, "register a port from 1 to 65535")
        return []
    version = _first(registration, watch.version_from)
    if version and not is_version(version):
        finding(
            FieldFault.VERSION,
            version,
            VERSION_RULE,
        )
        return []
    weight, unreadable = _weight(registration, watch.weight_from)
    if unreadable is not None:
        finding(FieldFault.WEIGHT, unreadable, "an integer from 0 to 65535; it counts as 1", dropped=False)
    backup = _first(registration, watch.backup_from).lower() in _TRUE
    return [
        Server(Address(ip, registration.port), weight, backup=backup, version=version, instance=registration.id)
        for ip in hosts
    ]


def _with_weight(server: Server, weight: int) -> Server:
    return Server(server.address, weight, backup=server.backup, version=server.version, instance=server.instance)


def _addresses(host: str, names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    ip = _ip(host)
    if ip is not None:
        return (ip,)
    if not is_host_name(host):
        return ()
    return tuple(sorted({ip for name in names.get(host, ()) if (ip := _ip(name)) is not None}))


def _ip(text: str) -> str | None:
    """The canonical form of an IP address, which may stand in brackets; None for a name, a zone id or anything else."""
    return canonical_ip(text.removeprefix("[").removesuffix("]"))


def _first(registration: Registration, sources: tuple[str, ...]) -> str:
    """The first source that is not empty: `meta:KEY`, `tag:PREFIX`."""
    meta = dict(registration.meta)
    for source in sources:
        kind, _, key = source.partition(":")
        if kind == "meta" and meta.get(key):
            return meta[key]
        if kind == "tag":
            for tag in registration.tags:
                if tag.startswith(key) and len(tag) > len(key):
                    return tag[len(key) :]
    return ""


def _weight(registration: Registration, sources: tuple[str, ...]) -> tuple[int, str | None]:
    """The weight, and the text that could not be read as one (then the weight is 1)."""
    for source in sources:
        if source == "weights":
            weight = registration.weights[registration.health is Health.WARNING]
            return (weight, None) if 0 <= weight <= MAX_WEIGHT else (1, str(weight))
        text = _first(registration, (source,))
        if text:
            readable = _INTEGER.match(text) and int(text) <= MAX_WEIGHT
            return (int(text), None) if readable else (1, text)
    return 1, None
