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
_EXPRESSION = re.compile(r"[A-Za-z0-9_$:/.{}=&?-]{1,255}\Z")
_PATH = re.compile(r"/[^\x00-\x1f\x7f\"'\\${};]*\Z")
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
        ValueError: on blanks, quotes, semicolons or anything else that could end the argument.
    """

    text: str

    def __post_init__(self) -> None:
        _demand(_EXPRESSION, self.text, "nginx expression of variables, letters, digits and :/._=&?-")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A server's IP address and port, as nginx writes it (IPv6 in brackets).

    Raises:
        ValueError: when `host` is no IP address, has a zone, or `port` is outside 1-65535.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        parsed = ipaddress.ip_address(self.host)
        if str(parsed) != self.host or "%" in self.host:
            raise ValueError(f"{self.host!r} is not in canonical form: write {parsed}")
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


Token = Word | Variable | Expression | Address | Path | Seconds | Note
