"""Percentages, counted in hundredths of a percent and never as floating point."""

import re

from grayctl.marked import Place, Text
from grayctl.model.release import HUNDRED_PERCENT
from grayctl.policy.shape import Problems

_PERCENT = re.compile(r"(?P<sign>-?)0*(?P<whole>[0-9]+)(\.(?P<part>[0-9]+))? ?%?\Z")
_EXAMPLES = "Write such as 5, 0.5 or 5%"
_DECIMALS = 2
_LONGEST_WHOLE = 3


def percent(hundredths: int) -> str:
    """`5`, `0.5`, `33.33`: as a policy writes it."""
    whole, part = divmod(hundredths, 100)
    return f"{whole}.{part:02}".rstrip("0").rstrip(".")


def read_shares(
    traffic: dict[Text, Text], place: Place, stable: str, problems: Problems
) -> tuple[tuple[str, int], ...]:
    """Version -> hundredths of a percent, sorted by version, stable left out.

    Args:
        traffic: as written.
        place: of the whole, where the sum is wrong.
        stable: when it is named, the sum must be 100 %; otherwise at most that.
        problems: gets what is wrong.
    """
    shares = {str(version): _hundredths(text, problems) for version, text in traffic.items()}
    read = [one for one in shares.values() if one is not None]
    if len(read) == len(shares):
        total = sum(read)
        if stable in shares and total != HUNDRED_PERCENT:
            wrong = f"makes {percent(total)} % in all, and {stable}, which is stable, is named"
            problems.add(place, "", wrong, "It must make 100 %; or leave stable out, and it has the rest")
        elif total > HUNDRED_PERCENT:
            problems.add(place, "", f"makes {percent(total)} % in all", "100 % is the most; the rest is stable's")
    return tuple(sorted((version, one or 0) for version, one in shares.items() if version != stable))


def _hundredths(text: Text, problems: Problems) -> int | None:
    found = _PERCENT.match(text)
    part = (found and found["part"]) or ""
    wrong = ""
    if found is None:
        wrong = "is no percentage"
    elif found["sign"]:
        wrong = "is negative"
    elif len(part) > _DECIMALS:
        wrong = "has more than two decimals, and shares are counted in hundredths of a percent"
    elif len(found["whole"]) > _LONGEST_WHOLE or _value(found["whole"], part) > HUNDRED_PERCENT:
        wrong = "is more than 100 %"
    if found is None or wrong:
        problems.add(text.place, text, wrong, _EXAMPLES)
        return None
    return _value(found["whole"], part)


def _value(whole: str, part: str) -> int:
    return int(whole) * 100 + int(part.ljust(_DECIMALS, "0"))
