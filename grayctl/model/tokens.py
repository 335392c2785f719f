"""Typed tokens: the only things a template may print.

What reaches a template comes from people whom nginx should not trust. A token is checked when it is made, so
that whoever holds one need not check again; `grayctl.render.quoting` knows how each kind is written in
nginx's language.
"""

import ipaddress
import re
from dataclasses import dataclass

_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,255}\Z")
_VARIABLE = re.compile(r"[a-z0-9_]{1,128}\Z")
# a brace but of `${name}` would open a block of nginx's, or end one
_EXPRESSION = re.compile(r"(?=.{1,255}\Z)(?:[A-Za-z0-9_:/.=&?-]|\$[A-Za-z0-9_]+|\$\{[A-Za-z0-9_]+\})+\Z")
_PATH = re.compile(r"/[^\x00-\x1f\x7f\"'\\${};]*\Z")
_VALUE = re.compile(r"[^\x00$]*\Z")
_LONGEST_TOKEN = 4000  # nginx reads a configuration through a buffer of 4096 bytes: "too long parameter"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_NOTE = 500  # nginx refuses a comment beyond 4096 bytes; a character has up to four, and notes share a line


def _demand(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.match(text):
        raise ValueError(f"{text!r} is no {what}")


@dataclass(frozen=True, slots=True, order=True)
class Word:
    """A bare word that means itself: an upstream's name, a version, a method's name.

    Raises:
        ValueError: on anything but letters, digits and `_ . + -`, or beyond 255 characters.
    """

    text: str

    def __post_init__(self) -> None:
        _demand(_WORD, self.text, "word of letters, digits and _ . + -")


@dataclass(frozen=True, slots=True, order=True)
class Variable:
    """An nginx variable's name, without the dollar sign.

    Raises:
        ValueError: on anything but lower-case letters, digits and `_`.
    """

    name: str

    def __post_init__(self) -> None:
        _demand(_VARIABLE, self.name, "variable name")


@dataclass(frozen=True, slots=True, order=True)
class Expression:
    """Text in which variables are *meant* to be expanded, such as the key of `hash $request_uri`.

    It comes from settings or a policy, never from a registration.

    Raises:
        ValueError: on blanks, quotes, semicolons, braces but those of `${name}`, or anything else that could end the
            argument; on a dollar sign without a name.
    """

    text: str

    def __post_init__(self) -> None:
        _demand(_EXPRESSION, self.text, "nginx expression of variables, letters, digits and :/._=&?-")


def canonical_ip(text: str) -> str | None:
    """The canonical form of an IP address; None for one with a zone, a name, or anything else."""
    if _IPV4.match(text):
        return text  # as most are; `ipaddress` needs five times as long to say so
    try:
        return None if "%" in text else str(ipaddress.ip_address(text))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A server's IP address and port, as nginx writes it (IPv6 in brackets).

    Raises:
        ValueError: when `host` is no IP address, has a zone, or `port` is outside 1-65535.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        canonical = canonical_ip(self.host)
        if canonical is None:
            raise ValueError(f"{self.host!r} is no IP address")
        if canonical != self.host:
            raise ValueError(f"{self.host!r} is not in canonical form: write {canonical}")
        if not 1 <= self.port <= 65535:  # noqa: PLR2004 -- the range of a port
            raise ValueError(f"{self.port} is no port: 1-65535 are")

    @property
    def text(self) -> str:
        """`10.0.0.1:80` or `[2001:db8::1]:80`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """An absolute path, for `include`.

    Raises:
        ValueError: when relative, or with quotes, dollar signs, braces, semicolons, control characters.
    """

    text: str

    def __post_init__(self) -> None:
        _demand(_PATH, self.text, "absolute path without quotes, $, braces, semicolons")


@dataclass(frozen=True, slots=True, order=True)
class Seconds:
    """A duration, printed in whole seconds, rounded up: `fail_timeout` takes nothing finer.

    Raises:
        ValueError: when negative.
    """

    value: float

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"{self.value} is no duration: it is negative")


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """Free text for a comment; control characters are shown, never printed, and what is endless is cut."""

    text: str

    @property
    def printable(self) -> str:
        """The text on one line, with at most 500 characters."""
        shown = _UNPRINTABLE.sub(lambda found: f"\\x{ord(found.group()):02x}", self.text)
        return shown if len(shown) <= _LONGEST_NOTE else f"{shown[: _LONGEST_NOTE - 3]}..."


def _demand_length(text: str, what: str) -> None:
    if "\x00" in text or len(text.encode("utf-8", "surrogateescape")) > _LONGEST_TOKEN:
        raise ValueError(f"{text[:40]!r}... is no {what}: at most {_LONGEST_TOKEN} bytes, none of them NUL")


@dataclass(frozen=True, slots=True, order=True)
class Text:
    """A text that a table yields, taken literally.

    Raises:
        ValueError: with a dollar sign, which nginx would expand and cannot escape; with NUL; beyond 4000 bytes.
    """

    text: str

    def __post_init__(self) -> None:
        _demand(_VALUE, self.text, "text without dollar signs")
        _demand_length(self.text, "text")


@dataclass(frozen=True, slots=True, order=True)
class MapKey:
    """A literal key of a `map`, whatever it looks like. nginx ignores the case of ASCII letters in it.

    Raises:
        ValueError: with NUL, or beyond 4000 bytes.
    """

    text: str

    def __post_init__(self) -> None:
        _demand_length(self.text, "key")


@dataclass(frozen=True, slots=True, order=True)
class Regex:
    """A pattern as the key of a `map`: PCRE over bytes, searched. nginx tries none on an empty value.

    Raises:
        ValueError: with NUL, or beyond 4000 bytes.
    """

    pattern: str
    ignore_case: bool = False

    def __post_init__(self) -> None:
        _demand_length(self.pattern, "pattern")


@dataclass(frozen=True, slots=True, order=True)
class Cidr:
    """A network, in canonical form, without bits beyond its mask.

    Raises:
        ValueError: on anything else.
    """

    text: str

    def __post_init__(self) -> None:
        if str(ipaddress.ip_network(self.text)) != self.text:
            raise ValueError(f"{self.text!r} is not in canonical form: write {ipaddress.ip_network(self.text)}")


@dataclass(frozen=True, slots=True, order=True)
class Joined:
    """Texts and variables one after another: what a table looks at."""

    parts: "tuple[Text | Variable, ...]"


@dataclass(frozen=True, slots=True, order=True)
class Percent:
    """A share in hundredths of a percent, 1-10000."""

    hundredths: int

    def __post_init__(self) -> None:
        if not 1 <= self.hundredths <= 10_000:  # noqa: PLR2004 -- hundredths of a percent
            raise ValueError(f"{self.hundredths} is no share: 1-10000 hundredths of a percent are")


Token = Word | Variable | Expression | Address | Path | Seconds | Note | Text | MapKey | Regex | Cidr | Joined | Percent
