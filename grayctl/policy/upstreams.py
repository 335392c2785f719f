"""Servers -> an `upstream` block: its method, its backups, its shared memory."""

import math

from grayctl.model.balance import Balance, Method
from grayctl.model.plan import Refusal, Server, Upstream, refusal_address
from grayctl.model.release import UpstreamOptions
from grayctl.model.tokens import Expression, Word
from grayctl.settings import NginxSettings

_AUTO = "auto"
_ZONE_SMALLEST, _ZONE_BASE, _ZONE_PER_SERVER = 64, 32, 1.1  # KiB


def upstream(
    name: Word,
    servers: tuple[Server, ...],
    balance: Balance,
    options: UpstreamOptions,
    nginx: NginxSettings,
    *,
    tcp: bool = False,
) -> Upstream:
    """The upstream of some servers; without any it answers 503.

    With `tcp` it stands in nginx's `stream`, which keeps no idle connections and has no zone that all share.
    """
    zone = _zone(options.zone, len(servers), tcp=tcp)
    if not servers:
        return Upstream(name, (Server(refusal_address(nginx, Refusal.UNAVAILABLE)),), keepalive=0, zone=zone)
    return Upstream(
        name,
        _rank(servers, balance.method),
        balance,
        keepalive=0 if tcp else options.keepalive,
        max_fails=options.max_fails,
        fail_timeout=options.fail_timeout,
        zone=zone,
    )


def _zone(size: str, servers: int, *, tcp: bool) -> str:
    """The size of an upstream's own shared memory. `auto` is none in `http`; in `stream` a power of two that holds it.

    Measured on nginx 1.22: about 1 KiB a server beside 10 KiB, and 64k takes 50 servers but not 100. nginx refuses
    a zone that is too small, without saying in which file.
    """
    if size != _AUTO:
        return size
    if not tcp:
        return ""
    needed = _ZONE_BASE + _ZONE_PER_SERVER * servers
    return f"{max(_ZONE_SMALLEST, 1 << math.ceil(math.log2(needed)))}k"


def _rank(servers: tuple[Server, ...], method: Method) -> tuple[Server, ...]:
    """Settle who is a backup: nginx refuses an upstream of backups alone, and backups beside some methods."""
    primaries = tuple(server for server in servers if not server.backup)
    if primaries and method.knows_backup:
        return servers
    return primaries or tuple(
        Server(server.address, server.weight, version=server.version, instance=server.instance) for server in servers
    )


def parse_balance(text: str) -> Balance:
    """`least_conn`, or `hash $request_uri` (consistent hashing).

    Raises:
        ValueError: on an unknown method or a key that is no nginx expression.
    """
    method, _, key = text.partition(" ")
    return Balance(Method(method), Expression(key) if key else None)
