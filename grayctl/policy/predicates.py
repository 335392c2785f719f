"""Predicates made so that what means the same is the same: flat, sorted, nothing twice."""

from collections.abc import Callable, Iterable

from grayctl.model.release import All, AnyOf, Condition, Input, Not, Operator, Predicate

NEVER = AnyOf(())


def every(parts: Iterable[Predicate]) -> Predicate:
    """All of the parts, nested ones spread out; of one part, that part."""
    flat = _flat(parts, All)
    return flat[0] if len(flat) == 1 else All(flat)


def some(parts: Iterable[Predicate]) -> Predicate:
    """Any of the parts, nested ones spread out, memberships of one input joined; of one part, that part."""
    flat = _flat(_joined(_flat(parts, AnyOf)), AnyOf)
    return flat[0] if len(flat) == 1 else AnyOf(flat)


def negate(part: Predicate) -> Predicate:
    """The opposite; the opposite of an opposite is the thing itself."""
    return part.part if isinstance(part, Not) else Not(part)


def conditions_of(predicate: Predicate) -> list[Condition]:
    """Every condition in it."""
    if isinstance(predicate, Condition):
        return [predicate]
    if isinstance(predicate, Not):
        return conditions_of(predicate.part)
    return [one for part in predicate.parts for one in conditions_of(part)]


def text_of(predicate: Predicate) -> str:
    """The predicate as an expression of the `when` language; `prefix` and `suffix` are written like its functions."""
    if isinstance(predicate, All | AnyOf):
        word = " and " if isinstance(predicate, All) else " or "
        return f"({word.join(text_of(part) for part in predicate.parts)})"
    if isinstance(predicate, Not):
        return f"not {text_of(predicate.part)}"
    return _WRITTEN[predicate.operator](_named(predicate.input), predicate.values)


def quoted(text: str) -> str:
    """A text as the `when` language writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _flat(parts: Iterable[Predicate], kind: type[All | AnyOf]) -> tuple[Predicate, ...]:
    found: dict[str, Predicate] = {}
    for part in parts:
        inner = part.parts if isinstance(part, kind) else (part,)
        found |= {text_of(one): one for one in inner}
    return tuple(found[key] for key in sorted(found))


def _joined(parts: Iterable[Predicate]) -> list[Predicate]:
    others: list[Predicate] = []
    members: dict[tuple[Input, Operator], set[str]] = {}
    for one in parts:
        if isinstance(one, Condition) and one.operator in {Operator.IN, Operator.NUMBER_IN}:
            members.setdefault((one.input, one.operator), set()).update(one.values)
        else:
            others.append(one)
    return [*others, *(Condition(*key, tuple(sorted(values))) for key, values in members.items())]


def _named(one: Input) -> str:
    return f"{one.source}({quoted(one.name)})" if one.name else str(one.source)


def _listed(values: tuple[str, ...], write: Callable[[str], str]) -> str:
    return "[" + ", ".join(map(write, values)) + "]"


def _function(name: str) -> Callable[[str, tuple[str, ...]], str]:
    return lambda subject, values: f"{name}({', '.join([subject, *map(quoted, values)])})"


def _ordering(operator: Operator) -> Callable[[str, tuple[str, ...]], str]:
    return lambda subject, values: f"{subject} {operator} {values[0]}"


_WRITTEN: dict[Operator, Callable[[str, tuple[str, ...]], str]] = {
    Operator.IN: lambda subject, values: f"{subject} in {_listed(values, quoted)}",
    Operator.NUMBER_IN: lambda subject, values: f"{subject} in {_listed(values, str)}",
    Operator.PREFIX: _function("prefix"),
    Operator.SUFFIX: _function("suffix"),
    Operator.REGEX: _function("matches"),
    Operator.HAS: _function("has"),
    Operator.IN_LIST: _function("in_list"),
    Operator.PRESENT: _function("present"),
    Operator.LESS: _ordering(Operator.LESS),
    Operator.LESS_OR_EQUAL: _ordering(Operator.LESS_OR_EQUAL),
    Operator.GREATER: _ordering(Operator.GREATER),
    Operator.GREATER_OR_EQUAL: _ordering(Operator.GREATER_OR_EQUAL),
}
