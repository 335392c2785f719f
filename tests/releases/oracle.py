"""What a policy means, read from the policy itself by rules of its own: nothing of grayctl is asked here.

A policy is the plain document (`dict`); a request is the structured one that the test sent, so that nothing of nginx's
parsing is repeated either: a cookie is the first of its name, a header the first, or all of its
lines where nginx joins them (from 1.23). Bytes that are no UTF-8 are lone surrogates.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pcre2

Ring = Sequence[tuple[str, int, bool]]
"""The slots of the live record: owner, width in hundredths of a percent, held."""


@dataclass(frozen=True)
class Sent:
    """A request, before it is written as bytes. Pairs keep their order; names may repeat."""

    method: str = "GET"
    path: str = "/"  # decoded and normal
    query: tuple[tuple[str, str], ...] = ()  # raw, as they stand in the target
    headers: tuple[tuple[str, str], ...] = ()
    cookies: tuple[tuple[str, str], ...] = ()
    host: str = "example.com"
    address: str = "127.0.0.1"
    port: int = 80
    agent: str = ""
    country: str = ""  # what the user's own configuration says for $geoip2_data_country_code
    as_it_is: bool = False  # the path is sent as bytes, not percent-encoded, where nginx takes them
    second_cookie_line: int = 0  # so many cookies stand on a header line before the others
    request_id: str = ""  # that nginx drew


@dataclass
class World:
    """What a decision depends on beside policy and request."""

    available: frozenset[str]
    salt: str
    ring: Ring
    route_rings: Mapping[str, Ring] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    joins_headers: bool = False  # a repeated header is all of its lines


def decide(policy: Mapping[str, Any], sent: Sent, world: World, trees: Mapping[str, Any]) -> tuple[str, str]:
    """Version and route; the version is empty where 400 or 503 answers."""
    return _Oracle(policy, sent, world, trees).decide()


class _Oracle:
    def __init__(self, policy: Mapping[str, Any], sent: Sent, world: World, trees: Mapping[str, Any]) -> None:
        self.policy, self.sent, self.world, self.trees = policy, sent, world, trees
        self.stable = policy["stable"]

    def decide(self) -> tuple[str, str]:
        found = self.explicit()
        if found is not None:
            return found
        preview = self.policy.get("blue_green")
        if preview and self.holds(preview | {"name": "preview"}):
            version = preview["preview"]
            return (version, "preview") if version in self.world.available else ("", "empty")
        for route in self.policy.get("routes", []):
            if self.holds(route):
                if "to" in route:
                    return self.version(route["to"], route["name"])
                owner = self.slot(self.world.route_rings.get(route["name"], ()))
                return self.version(owner or self.stable, route["name"])
        owner = self.slot(self.world.ring)
        return self.version(owner, "traffic") if owner else self.version(self.stable, "stable")

    def version(self, version: str, route: str) -> tuple[str, str]:
        if version in self.world.available:
            return version, route
        mark = "" if version == self.stable else "!fallback"
        if self.stable in self.world.available:
            return self.stable, route + mark
        return "", "empty" + mark

    def explicit(self) -> tuple[str, str] | None:
        rule = self.policy.get("explicit")
        if not rule or ("from" in rule and not self.inside(rule["from"])):
            return None
        source = next(one for one in ("header", "cookie", "query") if one in rule)
        value = self.value(source, rule[source])
        if value == "":
            return None
        canaries = sorted(set(self.named()) - {self.stable})
        for version in rule.get("versions") or [self.stable, *canaries]:
            if self.equal(source, value, version):
                return self.version(version, "explicit")
        if value.lower() == "never":
            return self.version(self.stable, "explicit")
        if value.lower() == "always" and len(canaries) == 1:
            return self.version(canaries[0], "explicit")
        return ("", "unknown") if rule.get("unknown") == "reject" else self.version(self.stable, "stable")

    def named(self) -> list[str]:
        found = list(self.policy.get("traffic", {}))
        for route in self.policy.get("routes", []):
            found += [route["to"]] if "to" in route else list(route["traffic"])
        if "blue_green" in self.policy:
            found.append(self.policy["blue_green"]["preview"])
        return found + list(self.policy.get("explicit", {}).get("versions", []))

    # ------------------------------------------------------------ conditions

    def holds(self, route: Mapping[str, Any]) -> bool:
        return (
            ("match" not in route or self.matches(route["match"]))
            and ("when" not in route or self.when(self.trees[route["name"]]))
            and ("port" not in route or self.one("port", route["port"]))
        )

    def matches(self, match: Any) -> bool:
        if isinstance(match, list):
            return any(self.matches(one) for one in match)
        return all(self.one(source, wanted) for source, wanted in match.items())

    def one(self, source: str, wanted: Any) -> bool:
        if source in {"header", "cookie", "query"}:
            return all(self.test(source, self.value(source, name), test) for name, test in wanted.items())
        return self.test(source, self.value(source, ""), wanted)

    def test(self, source: str, value: str, wanted: Any) -> bool:
        if isinstance(wanted, str):
            wanted = {"exact": wanted}
        if isinstance(wanted, list):
            wanted = {"in": wanted}
        return all(self.operator(source, value, name, operand) for name, operand in wanted.items())

    def operator(self, source: str, value: str, name: str, operand: Any) -> bool:
        if name in {"exact", "in"}:
            texts = [operand] if name == "exact" else operand
            if source == "client_ip":
                return self.inside(texts)
            if source == "region":
                return any(self.region(one) for one in texts)
            if source == "device":
                return bool(self.devices() & set(texts))
            return any(self.equal(source, value, one) for one in texts)
        check: dict[str, Callable[[], bool]] = {
            "prefix": lambda: self.prefix(source, value, operand),
            "suffix": lambda: any(
                len(value) in self.ends(source, value, operand, start) for start in range(len(value) + 1)
            ),
            "regex": lambda: value != "" and pcre2.search(operand.encode(), _bytes(value)) is not None,
            "has": lambda: operand in [part.strip(" \t") for part in value.split(",")],
            "in_list": lambda: self.listed(source, value, operand),
            "present": lambda: (value != "") is (str(operand).lower() == "true"),
        }
        return bool(check[name]())

    def equal(self, source: str, value: str, wanted: str) -> bool:
        if source == "host" and wanted.startswith("*."):
            return value.endswith(wanted[1:])
        return len(value) in self.ends(source, value, wanted)

    def prefix(self, source: str, value: str, wanted: str) -> bool:
        if source == "path" and not wanted.endswith("/"):
            return value == wanted or value.startswith(wanted + "/")
        return bool(self.ends(source, value, wanted))

    def ends(self, source: str, value: str, wanted: str, start: int = 0) -> set[int]:
        """Where the text can end that begins at `start`: in a query or cookie each letter may stand percent-encoded."""
        at = {start}
        for letter in wanted:
            spelled = [letter]
            if source in {"query", "cookie"}:
                spelled.append(quote(letter, safe=""))
            if source == "query" and letter == " ":
                spelled.append("+")
            at = {
                place + len(one)
                for place in at
                for one in spelled
                if value[place : place + len(one)] == one
                or (len(one) > 1 and value[place : place + len(one)].upper() == one)
            }
        return at

    def listed(self, source: str, value: str, name: str) -> bool:
        entries = self.world.lists.get(name, ())
        return self.inside([one for one in entries if _network(one)]) if source == "client_ip" else value in entries

    def inside(self, networks: Sequence[str]) -> bool:
        address = ipaddress.ip_address(self.sent.address)
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for one in networks if (network := _network(one)))

    def region(self, name: str) -> bool:
        region = self.policy["regions"][name]
        return self.inside(region) if isinstance(region, list) else self.sent.country in region["values"]

    def devices(self) -> set[str]:
        return AGENTS[self.sent.agent]

    def value(self, source: str, name: str) -> str:
        sent = self.sent
        plain = {
            "path": sent.path,
            "host": _lowered(sent.host.rstrip(".")),
            "port": str(sent.port),
            "method": sent.method,
            "client_ip": sent.address,
        }
        if source == "identity":
            return self.identity()
        pairs = {"header": sent.headers, "cookie": sent.cookies, "query": sent.query}.get(source, ())
        found = [text for key, text in pairs if key.lower() == name.lower()]
        if source == "header" and self.world.joins_headers:
            return ", ".join(found)
        return plain.get(source, found[0] if found else "")

    # ------------------------------------------------------------ users

    def identity(self) -> str:
        if self.policy.get("identity") == "none":
            return self.sent.request_id
        for one in self.policy.get("identity", ["client_ip"]):
            value = self.sent.address if one == "client_ip" else self.value(*next(iter(one.items())))
            if value:
                return value
        return ""

    def slot(self, ring: Ring) -> str:
        """Whose the user is in a ring: empty for stable's."""
        if len(ring) == 1 and ring[0][1] == 10_000 and ring[0][2]:
            return ring[0][0]
        user = self.identity()
        if user == "":
            return ""
        hashed, bound = _hash(_bytes(self.world.salt + user)), 0
        for owner, width, held in ring:
            bound += width
            if hashed < bound * 0xFFFFFFFF // 10_000:
                return owner if held else ""
        return ""

    # ------------------------------------------------------------ `when`, as the tree that the test wrote it from

    def when(self, tree: Any) -> bool:
        kind, *rest = tree
        if kind == "and":
            return all(self.when(one) for one in rest)
        if kind == "or":
            return any(self.when(one) for one in rest)
        if kind == "not":
            return not self.when(rest[0])
        if kind == "number":
            (source, name), sign, bound = rest
            value = self.value(source, name)
            if not re.fullmatch(r"[+-]?[0-9]+", value, re.ASCII):
                return bool(sign == "!=")
            number = int(value)
            answers: dict[str, bool] = {
                "<": number < bound,
                "<=": number <= bound,
                ">": number > bound,
                ">=": number >= bound,
                "==": number == bound,
                "!=": number != bound,
            }
            return answers[sign]
        (source, name), operator, operand = rest
        return self.operator(source, self.value(source, name), operator, operand)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _lowered(text: str) -> str:
    """Of ASCII letters alone."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


@cache
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _hash(data: bytes) -> int:
    """MurmurHash2 (32 bit, seed 0), written down from its definition."""
    h = len(data)
    while len(data) >= 4:
        k = int.from_bytes(data[:4], "little") * 0x5BD1E995 % 2**32
        k ^= k // 2**24
        h = (h * 0x5BD1E995 % 2**32) ^ (k * 0x5BD1E995 % 2**32)
        data = data[4:]
    if data:
        for at, byte in enumerate(data):
            h ^= byte << (8 * at)
        h = h * 0x5BD1E995 % 2**32
    h ^= h // 2**13
    h = h * 0x5BD1E995 % 2**32
    return h ^ (h // 2**15)


AGENTS: dict[str, set[str]] = {
    agent: set(filter(None, devices.split(",")))
    for devices, agent in (
        line.split("\t") for line in Path(__file__).with_name("agents.tsv").read_text(encoding="utf-8").splitlines()
    )
}
"""User-Agents as they are sent, and the devices that they are."""
