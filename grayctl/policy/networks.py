"""Sets of networks -> one `geo`: its value names every set that holds the client's address."""

import ipaddress
from collections.abc import Iterable, Sequence

from grayctl.model.tokens import Cidr, Text

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED_BITS = 96  # ::ffff:0:0/96 holds the IPv4 addresses


def parse(text: str) -> Network:
    """An address or a CIDR; `::ffff:10.1.2.3` is 10.1.2.3.

    Raises:
        ValueError: it is neither, or has bits beyond its mask.
    """
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def marker(number: int) -> str:
    """How the geo's value names a set."""
    return f",{number},"


def entries(sets: Sequence[Iterable[Network]]) -> tuple[tuple[Cidr, Text], ...]:
    """The entries of a geo: each network with the sets that hold it, sorted.

    nginx takes the longest prefix alone, so a network inside another one must name the other's sets too.
    """
    holders: dict[Network, set[int]] = {}
    for number, networks in enumerate(sets):
        for network in networks:
            holders.setdefault(network, set()).add(number)
    lengths = {version: sorted({one.prefixlen for one in holders if one.version == version}) for version in (4, 6)}
    found = []
    # the shorter prefixes first: what holds a network already names all that hold it in turn
    for network in sorted(holders, key=lambda one: (one.version, one.prefixlen, int(one.network_address))):
        for length in reversed(lengths[network.version]):
            if length < network.prefixlen and (wider := network.supernet(new_prefix=length)) in holders:
                holders[network] |= holders[wider]
                break
        found.append((Cidr(str(network)), Text("".join(map(marker, sorted(holders[network]))))))
    return tuple(found)
