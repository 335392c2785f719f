"""One condition of a policy, checked: `match` and `when` both come here, so that they allow and mean the same."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pcre2

from grayctl.model.release import Condition, Device, Input, Operator, Predicate, Protocol, Source
from grayctl.policy.predicates import negate, some
from grayctl.wording import did_you_mean

# In bytes of UTF-8. nginx refuses a word of its configuration beyond 4096, and what is compiled from a value is longer:
# each byte of it may be percent-encoded, in either case.
LONGEST_VALUE = 256
LONGEST_REGEX = 1024
_MAX_PORT = 65535

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
NAME_RULE = "a letter or digit, then up to 62 of letters, digits, '_', '.', '-'"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMED = {
    Source.HEADER: (re.compile(r"[A-Za-z0-9-]{1,128}\Z"), "up to 128 letters, digits and hyphens"),
    Source.COOKIE: (
        re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z"),
        "up to 128 letters, digits and !#$%&'*+-.^_`|~",
    ),
    Source.QUERY: (
        re.compile(r"[!\"$%'()*+,./0-9:<>?@A-Z\[\\\]^_`a-z{|}~-]{1,128}\Z"),
        "up to 128 visible ASCII characters but & = # ; and what it has beside them percent-encoded",
    ),
}
_NUMBER = re.compile(r"(?P<sign>[+-]?)0*(?P<digits>[0-9]+)\Z")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z|\[[0-9a-f:.]+\]\Z")
_HOST_PART = re.compile(r"[a-z0-9_.:\[\]-]+\Z")
_METHOD = re.compile(r"[A-Z_-]+\Z")
_NETWORK = re.compile(r"(?P<address>[0-9A-Fa-f:.]+)(/(?P<bits>[0-9]{1,3}))?\Z")
_MAPPED_BITS = 96  # an IPv4 address begins there in ::ffff:0:0/96

_ORDERINGS = {Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL}
_NUMERIC = {Operator.NUMBER_IN} | _ORDERINGS
_TEXTUAL = {Operator.IN, Operator.PREFIX, Operator.SUFFIX, Operator.REGEX, Operator.HAS, Operator.IN_LIST}
_FREE = _TEXTUAL | _NUMERIC | {Operator.PRESENT}
_OPERATORS: dict[Source, set[Operator]] = {
    Source.HEADER: _FREE,
    Source.COOKIE: _FREE,
    Source.QUERY: _FREE,
    Source.IDENTITY: _FREE,
    Source.PATH: _TEXTUAL,
    Source.HOST: _TEXTUAL,
    Source.METHOD: _TEXTUAL,
    Source.PORT: {Operator.IN} | _ORDERINGS,
    Source.CLIENT_IP: {Operator.IN, Operator.IN_LIST},
    Source.REGION: {Operator.IN},
    Source.DEVICE: {Operator.IN},
}
_STREAM = (Source.CLIENT_IP, Source.REGION, Source.PORT)


class Refused(Exception):  # noqa: N818 -- it is no failure: the policy is refused, and this says why
    """A text may not stand where it stands: `value` is wrong, and what is `allowed` instead."""

    def __init__(self, value: str, wrong: str, allowed: str = "") -> None:
        super().__init__(wrong)
        self.value = value
        self.wrong = wrong
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Scope:
    """What conditions may speak of in one policy.

    Attributes:
        regions: the names that the policy defines.
        identified: whether there is an identity to ask about.
    """

    protocol: Protocol = Protocol.HTTP
    regions: frozenset[str] = frozenset()
    identified: bool = True


def named(source: Source, name: str) -> Input:
    """An input with a name, or without where the source takes none.

    Raises:
        Refused: the name can be none of a header, a cookie, a query parameter.
    """
    if source.named:
        pattern, allowed = _NAMED[source]
        if not pattern.match(name):
            raise Refused(name, f"is no name of a {_WORDS[source]}", f"It has {allowed}")
    return Input(source, name)


_WORDS = {Source.HEADER: "header", Source.COOKIE: "cookie", Source.QUERY: "query parameter"}


def name(text: str, what: str) -> str:
    """A name that the policy gives: of a route, a region, a list.

    Raises:
        Refused: it does not follow NAME_RULE.
    """
    if not _NAME.match(text):
        raise Refused(text, f"is no name of a {what}", f"It is {NAME_RULE}")
    return text


def condition(scope: Scope, subject: Input, operator: Operator, values: Sequence[str]) -> Predicate:
    """A condition, its values in canonical form.

    Args:
        scope: what may be spoken of.
        subject: from `named`.
        operator: any.
        values: texts as written; for the orderings and NUMBER_IN, from `number`; for PRESENT none.

    Raises:
        Refused: the input is not there in this protocol, the operator says nothing about it, or a value can never be
            one of it.
    """
    source = subject.source
    if scope.protocol is Protocol.TCP and source not in _STREAM:
        raise Refused(subject.text, "cannot decide in a tcp service", f"There it is {', '.join(_STREAM)}")
    if source is Source.IDENTITY and not scope.identified:
        raise Refused(subject.text, "is nobody, since the policy says `identity: none`")
    if operator is Operator.PRESENT and operator not in _OPERATORS[source]:
        raise Refused(subject.text, "is always present")
    if operator not in _OPERATORS[source]:
        wrong = "is no number" if operator in _NUMERIC else f"takes no {operator}"
        raise Refused(subject.text, wrong, f"{source} takes {_words(source)}")
    if operator in _NUMERIC:
        values = [sound(value) for value in values]
        return Condition(subject, operator, tuple(sorted(set(values))))
    if operator is Operator.IN:
        return _membership(scope, subject, values)
    for value in values:
        if not value:
            raise Refused(value, "is empty, so it holds for every request or for none", "Write a text")
        sound(value, LONGEST_REGEX if operator is Operator.REGEX else LONGEST_VALUE)
        _CHECKS[operator](source, value)
    if source is Source.HOST and operator in {Operator.PREFIX, Operator.SUFFIX}:
        values = [_host_part(operator, value) for value in values]
    return Condition(subject, operator, tuple(values))


def sound(text: str, longest: int = LONGEST_VALUE) -> str:
    """Any text that nginx can compare: no control characters, no longer than it may be.

    Raises:
        Refused: it is not.
    """
    if found := _CONTROL.search(text):
        raise Refused(text, f"holds the control character U+{ord(found[0]):04X}, which no request can")
    if len(text.encode()) > longest:
        raise Refused(text, f"is longer than {longest} bytes of UTF-8")
    return text


def number(text: str) -> str | None:
    """Canonical decimal text of an integer of any length: `+007` is `7`, `-0` is `0`; None for what is no number."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    return found["digits"] if found["digits"] == "0" or found["sign"] != "-" else f"-{found['digits']}"


def network(text: str) -> str:
    """An address or CIDR as a canonical CIDR; `::ffff:10.1.2.3` is `10.1.2.3/32`.

    Raises:
        Refused: it is neither, or has host bits; the right spelling is named.
    """
    found = _NETWORK.match(text)
    try:
        address = ipaddress.ip_address(found["address"] if found else "")
        bits = address.max_prefixlen if found is None or found["bits"] is None else int(found["bits"])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if mapped is not None and bits >= _MAPPED_BITS:
            address, bits = mapped, bits - _MAPPED_BITS
        right = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    except ValueError as error:
        raise Refused(
            text, "is no address and no network", "Write such as 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
        ) from error
    if right.network_address != address:
        raise Refused(text, f"has host bits beyond its /{bits}", f"Write {right}, or {address} for this address alone")
    return str(right)


def _words(source: Source) -> str:
    return ", ".join(str(one) for one in Operator if one in _OPERATORS[source] and one is not Operator.NUMBER_IN)


def _membership(scope: Scope, subject: Input, values: Sequence[str]) -> Predicate:
    """`in`: an empty text is absence, and a host may be a pattern."""
    source = subject.source
    parts: list[Predicate] = []
    exact: set[str] = set()
    for value in values:
        sound(value)
        if source is Source.HOST and value.startswith("*."):
            parts.append(Condition(subject, Operator.SUFFIX, (_host(value[1:].removeprefix("."), "."),)))
        elif value or Operator.PRESENT not in _OPERATORS[source]:
            exact.add(_MEMBERS[source](scope, value))
        else:
            parts.append(negate(Condition(subject, Operator.PRESENT)))
    if exact:
        parts.append(Condition(subject, Operator.IN, tuple(sorted(exact))))
    return some(parts)


def _host(value: str, before: str = "") -> str:
    lowered = value.lower().removesuffix(".")
    if not _HOST.match(lowered):
        raise Refused(value, "is no host", "Write a name without port and path, such as example.com, or *.example.com")
    return before + lowered


def _host_part(operator: Operator, value: str) -> str:
    lowered = value.lower().removesuffix(".") if operator is Operator.SUFFIX else value.lower()
    if not _HOST_PART.match(lowered):
        raise Refused(value, "is no part of a host", "A host has letters, digits, '.', '-', '_', no port and no path")
    return lowered


def _path(_scope: Scope | None, value: str) -> str:
    if not value.startswith("/"):
        raise Refused(value, "is no path", "A path begins with /")
    return value


def _method(_scope: Scope, value: str) -> str:
    if not _METHOD.match(value):
        right = f"Write {value.upper()}" if _METHOD.match(value.upper()) else "Write such as GET"
        raise Refused(value, "is no method", right)
    return value


def _port(_scope: Scope, value: str) -> str:
    if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > _MAX_PORT:
        raise Refused(value, "is no port", f"Write a number from 1 to {_MAX_PORT}")
    return value


def _region(scope: Scope, value: str) -> str:
    if value not in scope.regions:
        known = ", ".join(sorted(scope.regions)) or "none yet"
        raise Refused(
            value, "is no region of this policy", f"{did_you_mean(value, scope.regions)}`regions` has {known}"
        )
    return value


def _device(_scope: Scope, value: str) -> str:
    if value not in list(Device):
        raise Refused(value, "is no device", f"{did_you_mean(value, list(Device))}Write {', '.join(Device)}")
    return value


_MEMBERS: dict[Source, Callable[[Scope, str], str]] = {
    Source.HEADER: lambda _scope, value: value,
    Source.COOKIE: lambda _scope, value: value,
    Source.QUERY: lambda _scope, value: value,
    Source.IDENTITY: lambda _scope, value: value,
    Source.PATH: _path,
    Source.HOST: lambda _scope, value: _host(value),
    Source.METHOD: _method,
    Source.PORT: _port,
    Source.CLIENT_IP: lambda _scope, value: network(value),
    Source.REGION: _region,
    Source.DEVICE: _device,
}


def _check_prefix(source: Source, value: str) -> None:
    if source is Source.PATH:
        _path(None, value)


def _check_part(_source: Source, value: str) -> None:
    if "," in value or value != value.strip(" \t"):
        raise Refused(value, "is no part of a list", "The parts stand between commas, without the blanks around them")


def _check_regex(_source: Source, value: str) -> None:
    """As nginx compiles it: PCRE, bytes. What would set nginx's variables or switch PCRE's mode is refused."""
    if value.startswith("(*"):
        raise Refused(value, "begins with a switch of PCRE, which could fail on a request's bytes", "Leave (*...) out")
    try:
        pattern = pcre2.compile(value.encode())
    except pcre2.PatternError as error:
        why = error.msg.partition("; ")[2] or error.msg
        raise Refused(value, f"is no regular expression: {why}, at its byte {error.pos}") from error
    if pattern.groupindex:
        raise Refused(value, "names a group, which would set a variable in nginx", "Write (...) or (?:...)")


_CHECKS: dict[Operator, Callable[[Source, str], object]] = {
    Operator.PREFIX: _check_prefix,
    Operator.SUFFIX: lambda _source, _value: None,
    Operator.REGEX: _check_regex,
    Operator.HAS: _check_part,
    Operator.IN_LIST: lambda _source, value: name(value, "list"),
}
