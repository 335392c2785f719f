"""Marked YAML against the shapes of `wire`: what is missing, unknown or of the wrong kind, all of it in one reading."""

import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from grayctl.errors import Problem, ReleaseError
from grayctl.marked import Mapping, Node, Place, Sequence, Text, plain
from grayctl.policy.wire import Given, Shape
from grayctl.wording import did_you_mean

_T = TypeVar("_T", bound=Shape)
_WHOLE = re.compile(r"[0-9]{1,9}\Z")
_TRUTH = {"true": True, "false": False}


class Problems:
    """The problems of one file, in its order. One place has one problem: the first that is found there."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: dict[tuple[str, int, int], Problem] = {}

    def add(self, place: Place, value: str, wrong: str, allowed: str = "", *, column: int = 0) -> None:
        """Keep a problem, unless there is one at its path, or its line and column where a column is given."""
        key = (place.path, place.line if column else 0, column)
        self._found.setdefault(
            key, Problem(self._file, place.line, place.path, str(value), wrong, allowed, column=column)
        )

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> ReleaseError:
        """All of them, to raise."""
        return ReleaseError(tuple(sorted(self._found.values(), key=lambda one: (one.line, one.column))))


def read(node: Node, kind: type[_T], problems: Problems) -> _T | None:
    """The node as a shape; None when it is no mapping.

    Args:
        node: a whole document.
        kind: the shape.
        problems: gets everything that does not fit. Where a part does not fit, an empty text or nothing stands in its
            place, and whoever goes on may complain about it once more: that is not kept.
    """
    return cast("_T | None", _read(node, _info(kind), problems))


@cache
def _info(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _read(node: Node, info: inspect.Type, problems: Problems) -> Any:
    kinds = _alternatives(info)
    found: Any = None
    if isinstance(node, Text) and node.bare:
        problems.add(node.place, "", "has nothing behind it", f"Write {_described(kinds)}")
    elif isinstance(node, Text):
        found = _scalar(node, kinds, problems)
    elif isinstance(node, Sequence) and (kind := _first(kinds, inspect.ListType)) is not None:
        items = [_read(one, kind.item_type, problems) for one in node.items]
        found = [one for one in items if one is not None]
        _check_length(items, kind.min_length, node.place, problems)
    elif isinstance(node, Mapping) and (struct := _first(kinds, inspect.StructType)) is not None:
        found = _struct(node, struct, problems)
    elif isinstance(node, Mapping) and (table := _first(kinds, inspect.DictType)) is not None:
        anything = isinstance(table.value_type, inspect.AnyType)
        entries = {
            key: plain(one) if anything else _read(one, table.value_type, problems) for key, one in node.entries.items()
        }
        found = {key: one for key, one in entries.items() if one is not None}
        _check_length(entries, table.min_length, node.place, problems)
    else:
        described = _described(kinds)
        problems.add(node.place, "", f"must be {described}", "Begin each entry with `- `" * (described == "a list"))
    return found


def _check_length(found: Collection[object], least: int | None, place: Place, problems: Problems) -> None:
    if len(found) < (least or 0):
        problems.add(place, "", "is empty", "Leave the key out, or name what it shall hold")


def _scalar(node: Text, kinds: list[inspect.Type], problems: Problems) -> Any:
    if _first(kinds, inspect.StrType) is not None:
        return node
    for kind in kinds:
        if isinstance(kind, inspect.EnumType) and str(node) in _words(kind):
            return kind.cls(str(node))
        if isinstance(kind, inspect.LiteralType) and node in kind.values:
            return str(node)
        if isinstance(kind, inspect.IntType) and _WHOLE.match(node):
            return int(node)
        if isinstance(kind, inspect.BoolType) and node in _TRUTH:
            return _TRUTH[node]
    words = [str(word) for kind in kinds for word in _words(kind)]
    problems.add(node.place, node, "is not allowed", f"{did_you_mean(node, words)}Write {_described(kinds)}")
    return None


def _struct(node: Mapping, info: inspect.StructType, problems: Problems) -> Any:
    fields = {field.encode_name: field for field in info.fields if field.name != "given"}
    values: dict[str, Any] = {}
    for key, value in node.entries.items():
        field = fields.get(key)
        if field is None:
            allowed = f"{did_you_mean(key, fields)}Allowed here: {', '.join(fields)}"
            problems.add(key.place, key, "is no key here", allowed)
        elif (one := _read(value, field.type, problems)) is not None:
            values[field.name] = one
    for name, field in fields.items():
        if field.required and field.name not in values:
            if name not in node.entries:
                described = _described(_alternatives(field.type))
                problems.add(node.place.key(name), "", "is missing", f"Write {described}")
            values[field.name] = Text("", node.place.key(name), bare=True)
    return info.cls(given=Given(node.place, {str(key): key.place for key in node.entries}), **values)


def _alternatives(info: inspect.Type) -> list[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        return _alternatives(info.type)
    if isinstance(info, inspect.UnionType):
        return [one for part in info.types for one in _alternatives(part)]
    return [] if isinstance(info, inspect.NoneType) else [info]


_I = TypeVar("_I", bound=msgspec.inspect.Type)


def _first(kinds: Iterable[inspect.Type], kind: type[_I]) -> _I | None:
    return next((one for one in kinds if isinstance(one, kind)), None)


def _words(kind: inspect.Type) -> Iterable[Any]:
    if isinstance(kind, inspect.EnumType):
        return [one.value for one in kind.cls]
    return kind.values if isinstance(kind, inspect.LiteralType) else ()


def _described(kinds: list[inspect.Type]) -> str:
    """What may be written, for a message: `a text or a list`."""
    if _first(kinds, inspect.StrType) is not None:  # any scalar is a text
        kinds = [one for one in kinds if not isinstance(one, inspect.IntType | inspect.FloatType | inspect.BoolType)]
    words = [str(word) for kind in kinds for word in _words(kind)]
    for kind in kinds:
        if isinstance(kind, inspect.StructType):
            words.append(f"a mapping of {', '.join(one.encode_name for one in kind.fields if one.name != 'given')}")
        elif (word := _CALLED.get(type(kind))) is not None:
            words.append(word)
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_CALLED: dict[type, str] = {
    inspect.StrType: "a text",
    inspect.ListType: "a list",
    inspect.DictType: "a mapping such as {NAME: ...}",
    inspect.IntType: "a whole number",
    inspect.BoolType: "true or false",
}
