"""What nginx will decide for a request, and why: an interpreter of the decision tables that nginx is given."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import pcre2

from grayctl.model.release import HUNDRED_PERCENT
from grayctl.model.tables import Constant, Geo, Map, Rule, Split, Table, Value
from grayctl.model.tokens import Joined, Regex, Text, Variable
from grayctl.policy.request import Request

REQUEST_ID = "request_id"  # the user, where the policy knows none
_HASH_SPAN = 0xFFFFFFFF
_NOWHERE = "255.255.255.255"  # what `geo` takes for a client on a unix socket


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was asked.

    Attributes:
        name: the route's name, `explicit`, `preview` or `traffic`.
        held: whether it is the one that decided.
        why: its tests, and how each came out.
    """

    name: str
    held: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What nginx decides for one request.

    Attributes:
        version: empty where none answers.
        slot: of 10,000, counted from 0; None when no share was asked.
        upstream: what `$gray_<id>` holds.
        status: 400 or 503 when grayctl's own listeners refuse, otherwise 200: what the instances say is theirs.
        fallback: the version that was meant has no instance.
        by_chance: the policy knows no users, so each request is decided on its own; this is the likeliest outcome.
            A request that brings its `request_id` among its variables is certain.
    """

    service: str
    version: str
    route: str
    slot: int | None
    upstream: str
    status: int
    fallback: bool
    trace: tuple[Step, ...]
    by_chance: bool = False


class Explainer:
    """A service's tables, ready for many requests: a list of 100,000 entries is looked up, not read through."""

    def __init__(self, service: str, identity: str, tables: Iterable[Table]) -> None:
        self._service, self._identity = service, identity
        self._ready = _Ready(tables)

    def explain(self, request: Request) -> Explanation:
        """What nginx decides for a request.

        Raises:
            ValueError: nginx would refuse the request itself.
        """
        asked = _Asked(self._ready, request)
        upstream, version, label = (
            asked.variable(f"{name}_{self._identity}").decode("utf-8", "replace")
            for name in ("gray", "grayver", "grayroute")
        )
        route = label.removesuffix("!fallback")
        return Explanation(
            service=self._service,
            version=version,
            route=route,
            slot=asked.slot,
            upstream=upstream,
            status={"unknown": 400, "empty": 503}.get(route, 200),
            fallback=label != route,
            trace=tuple(asked.trace(route)),
            by_chance=asked.by_chance,
        )


def explain(service: str, identity: str, tables: Iterable[Table], request: Request) -> Explanation:
    """What nginx decides for one request; raises as `Explainer.explain`."""
    return Explainer(service, identity, tables).explain(request)


class _Keys:
    """The keys of a map: texts as nginx's hash knows them, without case, and patterns in their order."""

    def __init__(self, table: Map) -> None:
        self.texts: dict[bytes, Value] = {}
        self.patterns: list[tuple[Regex, Value]] = []
        for key, value in table.entries:
            if isinstance(key, Regex):
                self.patterns.append((key, value))
            else:
                self.texts.setdefault(_bytes(key.text).lower(), value)  # of bytes: ASCII letters alone, as nginx does

    def find(self, source: bytes) -> tuple[Value, bytes] | None:
        """The value for a source, and what the pattern's group took of it."""
        value = self.texts.get(source.lower())
        if value is not None:
            return value, b""
        for key, value in self.patterns if source else ():
            pattern = _compiled(key)
            try:
                found = pattern.search(source)
            except pcre2.LibraryError:  # too many steps: nginx logs an alert, asks no further pattern
                return None
            if found:
                return value, found.group(1) if pattern.groups else b""
        return None


class _Networks:
    """The networks of a geo, by their length: the longest that holds an address counts."""

    def __init__(self, table: Geo) -> None:
        self._default = table.default
        self._texts: dict[tuple[int, int], dict[int, Text]] = {}
        for cidr, text in table.entries:
            network = ipaddress.ip_network(cidr.text)
            same = self._texts.setdefault((network.version, network.prefixlen), {})
            same[int(network.network_address)] = text

    def find(self, address: str) -> Text:
        """The text for a client's address."""
        client = ipaddress.ip_address(_NOWHERE if address == "unix:" else address)
        client = getattr(client, "ipv4_mapped", None) or client
        for (version, length), texts in sorted(self._texts.items(), reverse=True):
            rest = client.max_prefixlen - length
            if version == client.version and (found := texts.get(int(client) >> rest << rest)) is not None:
                return found
        return self._default


class _Ready:
    """Tables by the names of their variables, and how they are looked up."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self.tables = {table.variable.name: table for table in tables}
        self.keys = {name: _Keys(table) for name, table in self.tables.items() if isinstance(table, Map)}
        self.networks = {name: _Networks(table) for name, table in self.tables.items() if isinstance(table, Geo)}


class _Asked:
    """One request's evaluation: a variable is worked out once, when it is asked for, as in nginx."""

    def __init__(self, ready: _Ready, request: Request) -> None:
        self._ready, self._request = ready, request
        self._known: dict[str, bytes] = {}
        self._tests: dict[str, list[str]] = {}
        self.slot: int | None = None
        self.by_chance = False

    def variable(self, name: str) -> bytes:
        if name not in self._known:
            table = self._ready.tables.get(name)
            self._known[name] = self._table(table) if table else self._request.variable(name)
        return self._known[name]

    def trace(self, decided: str) -> Iterable[Step]:
        for name, tests in self._tests.items():
            yield Step(name, name == decided, "; ".join(tests))

    def _table(self, table: Table) -> bytes:
        match table:
            case Map():
                return self._map(table)
            case Split():
                return self._split(table)
            case Geo():
                address = self._request.variable("remote_addr").decode()
                return _bytes(self._ready.networks[table.variable.name].find(address).text)
            case Constant(value=value):
                return _bytes(value.text)

    def _map(self, table: Map) -> bytes:
        source = self._joined(table.source)
        found = self._ready.keys[table.variable.name].find(source)
        if table.rule:
            held = bool(source) if table.rule.unless_empty else found is not None
            if not (held and table.rule.only_no):
                self._note(table.rule, held=held)
        value, group = found or (table.default, b"")
        return group if value == Variable("1") else self._value(value)

    def _split(self, table: Split) -> bytes:
        if Variable(REQUEST_ID) in table.source.parts and REQUEST_ID not in self._request.variables:
            return self._likeliest(table)
        source = self._joined(table.source)
        hashed = murmur2(source)
        self.slot = slot_of(hashed)
        bound, value = 0, table.rest
        for share, text in table.shares:
            bound += share.hundredths
            if hashed < bound * _HASH_SPAN // HUNDRED_PERCENT:
                value = text
                break
        if table.rule:
            self._tests.setdefault(table.rule.name, []).append(f"slot {self.slot} of {HUNDRED_PERCENT}")
        return _bytes(value.text)

    def _likeliest(self, table: Split) -> bytes:
        """Nobody knows the id that nginx will draw for a request."""
        self.by_chance = True
        given = [(share.hundredths, text) for share, text in table.shares]
        given.append((HUNDRED_PERCENT - sum(share for share, _ in given), table.rest))
        if table.rule:
            odds = ", ".join(f"{share / 100:g}% {text.text}" for share, text in given)
            self._tests.setdefault(table.rule.name, []).append(f"each request is decided on its own: {odds}")
        return _bytes(max(given, key=lambda one: one[0])[1].text)

    def _note(self, rule: Rule, *, held: bool) -> None:
        shown = self.variable(rule.shown.name).decode("utf-8", "backslashreplace")
        says = "holds" if held else "does not hold"
        self._tests.setdefault(rule.name, []).append(f"{rule.test} {says} ({shown!r})")

    def _joined(self, source: Joined) -> bytes:
        return b"".join(self._value(part) for part in source.parts)

    def _value(self, value: Value) -> bytes:
        return _bytes(value.text) if isinstance(value, Text) else self.variable(value.name)


@lru_cache(maxsize=4096)
def _compiled(regex: Regex) -> "pcre2.Pattern":
    return pcre2.compile(_bytes(regex.pattern), flags=pcre2.IGNORECASE if regex.ignore_case else 0)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def slot_of(hashed: int) -> int:
    """Which of the 10,000 slots a hash falls into; the last one takes what rounding leaves over."""
    slot = min(hashed * HUNDRED_PERCENT // _HASH_SPAN, HUNDRED_PERCENT - 1)
    while slot + 1 < HUNDRED_PERCENT and hashed >= (slot + 1) * _HASH_SPAN // HUNDRED_PERCENT:
        slot += 1
    while slot and hashed < slot * _HASH_SPAN // HUNDRED_PERCENT:
        slot -= 1
    return slot


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bit, seed 0, by Austin Appleby: what `split_clients` uses (ngx_murmurhash.c)."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    hashed = len(data) & mask
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        hashed = (hashed * multiplier & mask) ^ word
    rest = data[whole:]
    if rest:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    return hashed ^ hashed >> 15
