"""Registrations that mean harm, cheaply and in bulk, and what shall become of them: a model written another way.

The model says what the documentation promises, without `grayctl.policy`: it reads addresses with inet_pton, knows
neither tokens nor templates, and has a memory of its own of who owns an id and what was served last.
"""

import re
import socket
from random import Random
from typing import Any

from grayctl.model.catalog import Catalog, Health, Registration

# What would hurt if it were printed as it is, and what merely looks odd.
NASTY = [
    "; }", "}\nserver { listen 80; }", "$host", "${x}", "~.", "default", "hostnames", "include /etc/passwd", '"', "'",
    "\\",
    "\n", "\r\n", "\x00", "#", "{", "a b", "127.0.0.1;", "10.0.0.1:80", "[::1]", "::1%eth0", "unix:/tmp/x", "localhost",
    "*", "v1; return 200", "\u2028", "ünïcode", "🦀", "x" * 300, "-1", "0", "1e3", "99999999999", "0x10", " 5", "٣", "",
]  # fmt: skip
# A registration's service name is UTF-8 (JSON cannot bring anything else); its other fields must survive even this.
HALF = "half \ud83e"
ENDLESS = "e" * 5000  # nginx takes no token, and no comment, beyond 4096 bytes
ADDRESSES = ["", "name.example", "2001:db8::1", "2001:DB8:0::1", "::ffff:10.1.2.3", "127.0.0.1", "1.2.3", "010.0.0.1"]
RESOLVED = ["10.9.0.1", "10.9.0.2", "2001:db8::9", "; }", "::1%lo"]
# Several names for one id, and names on both sides of what nginx's variables hash takes.
ALIKE = [
    "shop",
    "Shop",
    "shop-api",
    "shop.api",
    "shop_api",
    "SHOP-API",
    *("n" * length for length in (40, 41, 42, 124)),
]
LONGEST_ID = 41  # with `gray_` 46 bytes: what fits into nginx's default bucket of 64
PLAIN = [f"plain-{number}" for number in range(30)]
UNWELL = [Health.WARNING, Health.CRITICAL, Health.MAINTENANCE]

Wanted = set[tuple[bytes, int, int, bool]]
"""Servers: packed address, port, weight, whether it is a backup."""


class Hostile:
    """Draws services and registrations, fast: a hundred thousand take seconds."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def names(self, count: int) -> list[str]:
        """Names of services: colliding, long, nasty, free text, and harmless ones."""
        draw = self._random
        return [*draw.sample([*ALIKE, *filter(None, NASTY), *PLAIN], count), self.text()]

    def catalog(self, names: list[str], most: int) -> Catalog:
        """Most of the services, each with up to `most` instances; in some all are unwell, or all are backups."""
        draw = self._random
        services = {}
        for name in draw.sample(names, draw.randint(len(names) // 2, len(names))):
            mood = draw.choices(["well", "unwell", "backup"], [8, 1, 1])[0]
            services[name] = tuple(self._registration(name, mood) for _ in range(draw.randint(0, most)))
        resolved = {host: tuple(draw.sample(RESOLVED, draw.randint(0, 3))) for host in ("name.example", "localhost")}
        return Catalog(services=services, names=resolved)

    def shuffled(self, catalog: Catalog) -> Catalog:
        """The same in another order."""
        services = [(name, self._random.sample(rows, len(rows))) for name, rows in catalog.services.items()]
        self._random.shuffle(services)
        return Catalog(services={name: tuple(rows) for name, rows in services}, names=catalog.names)

    def text(self) -> str:
        """Any text that UTF-8 can carry; not empty."""
        draw = self._random
        return "".join(
            chr(draw.choice([draw.randrange(1, 128), draw.randrange(1, 0xD800), draw.randrange(0xE000, 0x110000)]))
            for _ in range(draw.randint(1, 40))
        )

    def _registration(self, service: str, mood: str) -> Registration:
        """A sound one, of which up to three fields are spoiled in two cases out of three."""
        draw = self._random
        backup = (("backup", "true"),) if mood == "backup" else ()
        fields: dict[str, Any] = {
            "id": f"i{draw.randrange(1_000_000)}",
            "address": f"10.0.{draw.randrange(4)}.{draw.randrange(256)}",
            "port": draw.choice([80, 8080, draw.randint(1, 65535)]),
            "meta": (*backup, ("version", draw.choice(["v1", "v2", "1.10"])), ("weight", str(draw.randint(0, 100)))),
            "health": draw.choice(UNWELL) if mood == "unwell" or draw.random() < 0.1 else Health.PASSING,
            "created": draw.randrange(50),
        }
        for field in draw.sample(_FIELDS, 0 if backup else draw.choice([0, 0, 1, 1, 2, 3])):
            fields[field] = self._spoiled(field)
        return Registration(service=service, **fields)

    def _spoiled(self, field: str) -> Any:
        draw = self._random
        value: Any = self._odd()
        match field:
            case "port":
                value = draw.choice([0, -1, 65535, 65536, draw.randint(-10, 70000), 1 << 70])
            case "address" | "node_address":
                value = draw.choice([value, draw.choice(ADDRESSES)])
            case "tags":
                value = tuple(draw.choice(["", "version=", "weight=", "backup="]) + self._odd() for _ in range(2))
            case "meta":
                keys = draw.sample(["version", "weight", "backup", value], draw.randint(0, 3))
                value = tuple(sorted({key: self._odd() for key in keys}.items()))
            case "weights":
                value = (draw.randint(-5, 70000), draw.randint(-5, 70000))
        return value

    def _odd(self) -> str:
        draw = self._random
        few = ["v1", "v2", "1.10", "5", "20", "5\n", "v1\n", "65535", "65536", "true", "YES", HALF]
        return draw.choice([draw.choice(few), draw.choice(NASTY), self.text(), ENDLESS])


_FIELDS = ["id", "node", "node_address", "address", "port", "tags", "meta", "weights"]


class Model:
    """What shall be served, service by service, with the memory that "names stay" and "keep the last" need."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.last: dict[str, dict[tuple[bytes, int], tuple[int, bool]]] = {}

    def refused(self, catalog: Catalog) -> set[str]:
        """Services that get nothing: their id belongs to another one, or is too long."""
        found = set()
        for service in sorted({*catalog.services, *self.last}):
            identity = re.sub("[^a-z0-9_]", "_", service.lower())
            if self.owners.setdefault(identity, service) != service or len(identity) > LONGEST_ID:
                found.add(service)
        self.owners = {identity: service for identity, service in self.owners.items() if service not in found}
        return found

    def servers(self, catalog: Catalog, service: str, balance: str) -> Wanted:
        """Its servers; empty when it answers 503."""
        healthy = _healthy(catalog, service)
        last = self.last[service] = healthy or self.last.get(service, {})
        primaries = {address for address, (_, backup) in last.items() if not backup}
        beside = bool(primaries) and balance in {"round_robin", "least_conn"}
        return {
            (*address, weight, backup and beside)
            for address, (weight, backup) in last.items()
            if beside or not primaries or address in primaries
        }


def packed(text: str) -> bytes:
    """An IP address, in brackets or not, as bytes; empty when it is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, text.removeprefix("[").removesuffix("]"))
        except (OSError, ValueError):
            continue
    return b""


def _healthy(catalog: Catalog, service: str) -> dict[tuple[bytes, int], tuple[int, bool]]:
    """Address -> weight, backup: the newest registration's word, the highest weight; nothing for weight 0."""
    found: dict[tuple[bytes, int], tuple[int, bool]] = {}
    for one in sorted(catalog.services.get(service, ()), key=lambda one: (one.created, one)):
        version = _said(one, "version")
        sound = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", version) or not version
        if one.health is not Health.PASSING or not 0 < one.port < 65536 or not sound:
            continue
        host = one.address or one.node_address
        for address in filter(None, map(packed, catalog.names.get(host, (host,)))):
            weight = max(_weight(one), found.get((address, one.port), (0, False))[0])
            found[address, one.port] = (weight, _said(one, "backup").lower() in {"true", "1", "yes"})
    return {address: (weight, backup) for address, (weight, backup) in found.items() if weight}


def _said(one: Registration, what: str) -> str:
    tags = (tag.removeprefix(f"{what}=") for tag in one.tags if tag.startswith(f"{what}="))
    return dict(one.meta).get(what) or next(filter(None, tags), "")


def _weight(one: Registration) -> int:
    text = _said(one, "weight") or str(one.weights[0])
    return int(text) if re.fullmatch("[0-9]{1,5}", text) and int(text) < 65536 else 1
