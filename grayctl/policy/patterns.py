"""Values of a condition -> keys of a `map`: exact spelling, case, percent-encoding, numbers.

nginx's literal keys ignore case, while values mind it here (docs/releases.md): a text with letters becomes a pattern.
"""

import re
from collections.abc import Iterable, Iterator

from grayctl.model.release import Input, Operator, Source
from grayctl.model.tokens import MapKey, Regex

Key = MapKey | Regex

_ENCODABLE = frozenset({Source.QUERY, Source.COOKIE})
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3
_LONGEST_KEY = 46  # bytes that nginx's default map_hash_bucket_size of 64 takes
_PATTERN_WIDTH = 2000  # bytes of alternatives in one pattern; nginx reads tokens of at most 4096
_LONGEST_TOKEN = 4000
_BELOW_TEN = 9


def literal(text: str) -> str:
    """A pattern that matches this text and nothing else."""
    return "".join(_literal(letter) for letter in text)


def _literal(letter: str) -> str:
    if letter.isascii() and (letter.isalnum() or letter == "_"):
        return letter
    if letter.isascii():
        return f"\\{letter}" if letter.isprintable() else f"\\x{ord(letter):02x}"
    return letter  # UTF-8, byte by byte: none of its bytes means anything in a pattern


def spelled(text: str, source: Source) -> str:
    """A pattern for the text; in a query or cookie also for its percent-encoded spelling, character by character."""
    if source not in _ENCODABLE:
        return literal(text)
    return "".join(_spelled(letter, source) for letter in text)


def _spelled(letter: str, source: Source) -> str:
    raw = letter.encode("utf-8", "surrogateescape")
    if set(raw) <= _UNRESERVED:
        return literal(letter)
    encoded = "".join(f"%{_hex(byte >> 4)}{_hex(byte & 15)}" for byte in raw)
    blank = r"|\+" if letter == " " and source is Source.QUERY else ""
    return f"(?:{literal(letter)}|{encoded}{blank})"


def _hex(digit: int) -> str:
    return str(digit) if digit <= _BELOW_TEN else f"[{digit:X}{digit:x}]"


def exact(texts: Iterable[str], source: Source) -> Iterator[Key]:
    """Keys that match any of the texts and nothing else."""
    patterns = []
    for text in texts:
        pattern = spelled(text, source)
        if not _has_case(text) and pattern == literal(text) and fits_a_bucket(text):
            yield MapKey(text)
        else:
            patterns.append(rf"^{pattern}\z")
    yield from joined(patterns)


def _has_case(text: str) -> bool:
    """Whether nginx's literal keys would take another spelling for this one."""
    return any(letter.isascii() and letter.isalpha() for letter in text)


def fits_a_bucket(key: str) -> bool:
    """Whether a literal key fits into a bucket of nginx's hash, at its default size."""
    return len(key.encode("utf-8", "surrogateescape")) <= _LONGEST_KEY


def end_of(text: str) -> str:
    """Its last bytes: as many as fit into a bucket."""
    return text.encode("utf-8", "surrogateescape")[-_LONGEST_KEY:].decode("utf-8", "surrogateescape")


END = Regex(rf"(?s)^.*+(?<=(.{{{_LONGEST_KEY}}}))")  # takes the end of a text, as `end_of`, in one pass


def fits_a_token(text: str) -> bool:
    """Whether nginx reads it back, all escaped that must be."""
    escaped = sum(text.count(one) for one in '\\"\n\r\t')
    return len(text.encode("utf-8", "surrogateescape")) + escaped <= _LONGEST_TOKEN


def joined(patterns: Iterable[str]) -> Iterator[Regex]:
    """As few patterns as nginx's tokens allow."""
    batch: list[str] = []
    for pattern in patterns:
        if batch and sum(len(one.encode("utf-8", "surrogateescape")) + 1 for one in (*batch, pattern)) > _PATTERN_WIDTH:
            yield Regex("|".join(batch))
            batch = []
        batch.append(pattern)
    if batch:
        yield Regex("|".join(batch))


def keys(given: Input, operator: Operator, values: tuple[str, ...]) -> tuple[Key, ...]:
    """The keys under which a comparison with texts or numbers holds.

    Raises:
        ValueError: a value is longer than nginx's configuration can say.
    """
    source = given.source
    found: Iterable[Key]
    match operator:
        case Operator.IN:
            found = exact(values, source)
        case Operator.PREFIX if source is Source.PATH and not values[0].endswith("/"):
            found = [Regex(rf"^{literal(values[0])}(?:/|\z)")]
        case Operator.PREFIX:
            found = [Regex(f"^{spelled(values[0], source)}")]
        case Operator.SUFFIX:
            found = [Regex(rf"{spelled(values[0], source)}\z")]
        case Operator.REGEX:
            found = [Regex(values[0])]
        case Operator.HAS:
            found = [Regex(rf"(?:^|,)[ \t]*{literal(values[0])}[ \t]*(?:,|\z)")]
        case Operator.NUMBER_IN:
            found = joined(f"^{_equal(value)}\\z" for value in values)
        case _:  # the orderings; PRESENT and IN_LIST are tables of their own
            found = joined(f"^{one}\\z" for one in _ordered(operator, values[0]))
    return tuple(found)


# ---------------------------------------------------------------- integers: an optional sign, digits, any length

_ZERO = "[+-]?0+"
_POSITIVE, _NEGATIVE = r"\+?0*[1-9]\d*", r"-0*[1-9]\d*"


def _equal(number: str) -> str:
    digits = number.lstrip("-")
    if digits == "0":
        return _ZERO
    return f"-0*{digits}" if number.startswith("-") else rf"\+?0*{digits}"


def _ordered(operator: Operator, number: str) -> list[str]:
    """Patterns that together match the integers above (or below) a number, which is canonical decimal text."""
    greater = operator in {Operator.GREATER, Operator.GREATER_OR_EQUAL}
    found = _above(number) if greater else [_flipped(one) for one in _above(_negated(number))]
    return [*found, _equal(number)] if operator in {Operator.GREATER_OR_EQUAL, Operator.LESS_OR_EQUAL} else found


def _above(number: str) -> list[str]:
    """The integers above a number."""
    if not number.startswith("-"):
        return [rf"\+?0*{one}" for one in _digits_above(number)]
    return [_ZERO, _POSITIVE, *(f"-0*{one}" for one in _digits_below(number[1:]))]


def _negated(number: str) -> str:
    if number == "0":
        return number
    return number[1:] if number.startswith("-") else f"-{number}"


def _flipped(pattern: str) -> str:
    """The pattern of the negated integers."""
    if pattern == _ZERO:
        return _ZERO
    return pattern.replace(r"\+?0*", "-0*", 1) if pattern.startswith(r"\+?0*") else pattern.replace("-0*", r"\+?0*", 1)


def _digits_above(digits: str) -> list[str]:
    """Without leading zeros: longer, or equal up to a digit that is larger."""
    if digits == "0":
        return [r"[1-9]\d*"]
    length = len(digits)
    larger = [
        f"{digits[:at]}[{int(digit) + 1}-9]{_any(length - at - 1)}" for at, digit in enumerate(digits) if digit != "9"
    ]
    return [rf"[1-9]\d{{{length},}}", *larger]


def _digits_below(digits: str) -> list[str]:
    """Without leading zeros and above 0: shorter, or equal up to a digit that is smaller."""
    length = len(digits)
    smaller = [
        f"{digits[:at]}[{low}-{int(digit) - 1}]{_any(length - at - 1)}"
        for at, digit in enumerate(digits)
        if int(digit) > (low := 0 if at else 1)
    ]
    shorter = [rf"[1-9]\d{{0,{length - 2}}}"] if length > 1 else []
    return [*shorter, *smaller]


def _any(count: int) -> str:
    return rf"\d{{{count}}}" if count else ""


def is_variable_name(name: str) -> bool:
    """Whether nginx can read a cookie or parameter of this name through `$cookie_` or `$arg_`."""
    return bool(re.fullmatch(r"[A-Za-z0-9_]+", name))
