"""Whether one predicate always holds where another does, as far as that shows without solving anything.

What is seen: the same condition; fewer values, networks or list parts; a longer prefix or suffix; tighter bounds of
numbers; a value that makes an input present; and all of this through and, or and not. What is not seen: what a regular
expression or a list holds, what regions and devices have in common, and cases that only a distinction brings to light.
So True is certain, and False says nothing.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from grayctl.model.release import All, AnyOf, Condition, Input, Not, Operator, Predicate, Source
from grayctl.policy.predicates import conditions_of, some

_ORDERINGS = frozenset({Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL})
_ENCODED = frozenset({Source.QUERY, Source.COOKIE})  # one value there has several spellings
_SETS = frozenset({Source.REGION, Source.DEVICE})
_MOST_STEPS = 100_000


@dataclass(slots=True)
class Implication:
    """Answers until it has taken `steps`; from then on it knows nothing. So a monstrous policy costs little."""

    steps: int = _MOST_STEPS

    def implies(self, first: Predicate, second: Predicate) -> bool:
        """Whether `second` holds wherever `first` does."""
        self.steps -= 1
        if self.steps < 0:
            return False
        if isinstance(first, AnyOf):
            return all(self.implies(part, second) for part in first.parts)
        if isinstance(second, All):
            return all(self.implies(first, part) for part in second.parts)
        ways: list[tuple[Predicate, Predicate]] = []
        ways += [(first, part) for part in second.parts] if isinstance(second, AnyOf) else []
        ways += [(part, second) for part in first.parts] if isinstance(first, All) else []
        return any(self.implies(*way) for way in ways) if ways else self._leaf(first, second)

    def _leaf(self, first: Predicate, second: Predicate) -> bool:
        if isinstance(first, Not):
            return isinstance(second, Not) and self.implies(second.part, first.part)
        if isinstance(second, Not):
            return self._excludes(first, second.part)
        if not isinstance(first, Condition) or not isinstance(second, Condition):
            return False
        self._pay(first, second)
        return _implies(first, second)

    def implies_one_of(self, first: Predicate, seconds: Sequence[Predicate]) -> bool:
        """Whether at least one of `seconds` holds wherever `first` does, one here and another there."""
        self.steps -= sum(len(conditions_of(one)) for one in seconds)
        return self.implies(first, some(seconds)) if self.steps > 0 else False

    def _pay(self, first: Condition, second: Condition) -> None:
        """Networks are compared each with each."""
        if first.input.source is second.input.source is Source.CLIENT_IP:
            self.steps -= len(first.values) * len(second.values)

    def never(self, one: Predicate) -> bool:
        """Whether it can never hold, since two of its parts exclude each other."""
        if isinstance(one, AnyOf):
            return all(map(self.never, one.parts))
        if not isinstance(one, All):
            return False
        return any(map(self.never, one.parts)) or any(
            self._excludes(first, second) for at, first in enumerate(one.parts) for second in one.parts[at + 1 :]
        )

    def _excludes(self, first: Predicate, second: Predicate) -> bool:
        if isinstance(first, Not):
            first, second = second, first
        if isinstance(second, Not):
            return self.implies(first, second.part)
        self.steps -= 1
        if self.steps < 0 or not isinstance(first, Condition) or not isinstance(second, Condition):
            return False
        self._pay(first, second)
        return _disjoint(first, second)


def _same_input(first: Input, second: Input) -> bool:
    return first.source is second.source and first.name.lower() == second.name.lower()


def _implies(first: Condition, second: Condition) -> bool:
    source = first.input.source
    if not _same_input(first.input, second.input):
        return False
    if second.operator is Operator.PRESENT:
        return True  # nothing holds for an empty value: texts are not empty, and nginx asks no pattern then
    if second.operator in _ORDERINGS:
        mine, other = _span(first), _span(second)
        return mine is not None and other is not None and other[0] <= mine[0] and mine[1] <= other[1]
    if first.operator in {Operator.IN, Operator.PREFIX, Operator.SUFFIX} and second.operator in {
        first.operator,
        *({Operator.PREFIX, Operator.SUFFIX, Operator.HAS} if first.operator is Operator.IN else ()),
    }:
        return all(_held(source, second, value) for value in first.values)
    return first.operator is second.operator and set(first.values) <= set(second.values)


def _held(source: Source, one: Condition, value: str) -> bool:
    """Whether a value, or every value with that prefix or suffix, fulfils a condition."""
    wanted = one.values[0]
    if one.operator is Operator.SUFFIX:
        return value.endswith(wanted)
    if one.operator is Operator.PREFIX and source is Source.PATH and not wanted.endswith("/"):
        return value == wanted or value.startswith(f"{wanted}/")
    if one.operator is Operator.PREFIX:
        return value.startswith(wanted)
    if one.operator is Operator.HAS:
        return source not in _ENCODED and wanted in [part.strip(" \t") for part in value.split(",")]
    if source is Source.CLIENT_IP:
        return any(_inside(value, other) for other in one.values)
    return value in one.values


_network = lru_cache(maxsize=4096)(ipaddress.ip_network)


def _inside(mine: str, other: str) -> bool:
    first, second = _network(mine), _network(other)
    if isinstance(first, ipaddress.IPv4Network):
        return isinstance(second, ipaddress.IPv4Network) and first.subnet_of(second)
    return isinstance(second, ipaddress.IPv6Network) and first.subnet_of(second)


def _span(one: Condition) -> tuple[float, float] | None:
    """The least and the greatest integer that a comparison of numbers lets through; None for other conditions."""
    if one.operator not in _ORDERINGS and one.operator is not Operator.NUMBER_IN:
        return None
    numbers = [int(value) for value in one.values]
    least, greatest = min(numbers), max(numbers)
    return {
        Operator.LESS: (-inf, greatest - 1),
        Operator.LESS_OR_EQUAL: (-inf, greatest),
        Operator.GREATER: (least + 1, inf),
        Operator.GREATER_OR_EQUAL: (least, inf),
    }.get(one.operator, (least, greatest))


def _disjoint(first: Condition, second: Condition) -> bool:
    source = first.input.source
    if not _same_input(first.input, second.input) or source in _ENCODED | _SETS:
        return False
    mine, other = _span(first), _span(second)
    if mine is not None and other is not None and max(mine[0], other[0]) > min(mine[1], other[1]):
        return True
    if first.operator is not second.operator or first.operator not in {Operator.IN, Operator.NUMBER_IN}:
        return False
    if source is Source.CLIENT_IP:
        return not any(_inside(a, b) or _inside(b, a) for a in first.values for b in second.values)
    return not set(first.values) & set(second.values)
