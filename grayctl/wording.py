"""Words that messages share: what a value looks like in one, and what was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST_VALUE = 80  # what is longer helps nobody to find it


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`Did you mean X? `, with a blank at the end, or nothing when no word is near."""
    near = get_close_matches(word, list(allowed), n=1)
    return f"Did you mean {near[0]}? " if near else ""


def shown(value: str) -> str:
    """A value in quotes, on one line, safe for every terminal, cut where it is endless."""
    return repr(value) if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]!r}..."
