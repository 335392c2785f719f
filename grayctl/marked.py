"""Marked YAML: text becomes nodes that know their line and path, and scalars that are texts exactly as written.

`version: 1.10` is the text "1.10" and `on` is no truth value. JSON is read the same way, since it is YAML but for two
things that are put right here: it may indent with tabs, and it writes 🦀 as two escaped halves. What YAML would
quietly change or multiply is refused: a key that stands twice, half a character, the raw line breaks U+0085, U+2028
and U+2029, an alias inside what it names, aliases that make much out of little, and nesting deeper than `DEEPEST`.
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import yaml
from yaml.composer import Composer
from yaml.reader import ReaderError

from grayctl.wording import shown

DEEPEST = 50
_MOST_NODES = 10_000  # beyond this, no more nodes than characters: only aliases (`*`) can make more
# Where libyaml and PyYAML differ, or may: tabs, `!` of tags, `%` of directives, aliases, `?` of keys, `|`, and `>#`
_DIFFERING = re.compile(r"[^\x00-\x7f]|[\t!%&*?|]|>#")
_BREAKS = re.compile("[\x85\u2028\u2029]")
_HALF = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[\w-]+\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: `line` counts from 1; `path` is such as `routes[0].match`, empty for the whole file."""

    line: int
    path: str

    def __str__(self) -> str:
        return f"{self.line}: {self.path}" if self.path else str(self.line)

    def key(self, name: str) -> "Place":
        """The same line, one key deeper."""
        name = name if _PLAIN_KEY.match(name) else shown(name)
        return Place(self.line, f"{self.path}.{name}" if self.path else name)


class Text(str):
    """A scalar as it was written, with its place.

    Attributes:
        place: where it stands.
        bare: whether nothing at all was written, as after the colon in `name:`.
        origin: the line of its first character and the column in which its lines begin, both from 1, where the file
            holds the text letter by letter (`|`, or on one line without escapes); otherwise None.
    """

    __slots__ = ("bare", "origin", "place")

    place: Place
    bare: bool
    origin: tuple[int, int] | None

    def __new__(cls, text: str, place: Place, *, bare: bool = False, origin: tuple[int, int] | None = None) -> Self:
        """A text with a mark."""
        self = super().__new__(cls, text)
        self.place, self.bare, self.origin = place, bare, origin
        return self

    def position(self, offset: int) -> tuple[int, int] | None:
        """The line and column of a character of the text in the file; None where `origin` is."""
        if self.origin is None:
            return None
        begin = self.rfind("\n", 0, offset) + 1
        return self.origin[0] + self.count("\n", 0, offset), self.origin[1] + offset - begin


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping, in the order of the file; a key's own place has the key's line."""

    place: Place
    entries: "dict[Text, Node]"


Node = Text | Sequence | Mapping
Report = Callable[[Place, str, str], object]
"""Told of each fault: where, the value (empty when there is none to show), and what is wrong. It may raise."""


def read(text: str | bytes, report: Report) -> Node | None:
    """The nodes of one YAML or JSON document; None when there are none, since that was reported.

    A fault inside the document is reported and the rest goes on, so that all of them are found in one reading: of two
    equal keys the first stays, and what else is refused becomes an empty text. Never raises by itself.
    """
    decoded = _decode(text, report)
    return None if decoded is None else _compose(decoded, report)


def _decode(text: str | bytes, report: Report) -> str | None:
    try:
        decoded = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        report(Place(error.object.count(b"\n", 0, error.start) + 1, ""), "", "this is no text: it is not UTF-8")
        return None
    if found := _BREAKS.search(decoded):
        what = f'the line break U+{ord(found[0]):04X} is refused as it is; write "\\u{ord(found[0]):04x}", in quotes'
        report(Place(decoded.count("\n", 0, found.start()) + 1, ""), "", what)
        return None
    return decoded


def _hint(error: yaml.MarkedYAMLError) -> str:
    if "alias" in f"{error.context} {error.problem}" or "anchor" in str(error.context):
        return "A text that begins with * or & stands in quotes"
    return (
        "YAML is indented with blanks" if "'\\t'" in str(error.problem) else "Look at indentation, quotes and brackets"
    )


def _compose(text: str, report: Report) -> Node | None:
    try:
        text = _untabbed(text)
        root = _root(text)
        if root is None:
            report(Place(1, ""), "", "is empty")
            return None
        if "*" in text and _size(root, {}) > max(_MOST_NODES, len(text)):
            report(Place(1, ""), "", "its aliases make too much of it; write it out")
            return None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        report(Place(line, ""), "", f"this is no YAML: {error.problem}. {_hint(error)}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        report(Place(line, ""), "", f"this is no YAML: the character U+{error.character:04X} is not allowed")
    except (ValueError, OverflowError):  # "\\U00110000", or a version of YAML beyond every integer
        report(Place(1, ""), "", "this is no YAML: an escape that is no character, or a directive that is none")
    except (_TooDeepError, RecursionError):
        report(Place(1, ""), "", f"nested too deeply; {DEEPEST} levels are the most")
    else:
        return _Builder(text, report).node(root, Place(root.start_mark.line + 1, ""), 1)
    return None


def _root(text: str) -> yaml.Node | None:
    """What PyYAML composes; scanned by libyaml, in a tenth of the time, where that is there and sure to come out alike.

    Raises:
        _TooDeepError: deeper than DEEPEST.
        Exception: this is no YAML: see `_compose`.
    """
    if _QUICK is not None and not _DIFFERING.search(text):
        # what it refuses is read again: messages are PyYAML's
        with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError, _TooDeepError):
            return yaml.compose(text, Loader=_QUICK)
    return yaml.compose(text, Loader=_Loader)


def plain(node: Node) -> Any:
    """The node as texts, lists and dictionaries, without marks."""
    if isinstance(node, Text):
        return str(node)
    if isinstance(node, Sequence):
        return [plain(one) for one in node.items]
    return {str(key): plain(one) for key, one in node.entries.items()}


def _untabbed(text: str) -> str:
    """JSON with its tabs, which can only be indentation there, as blanks; anything else as it is."""
    if "\t" not in text or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except ValueError:
        return text
    return text.replace("\t", " ")


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are with every alias written out; one that is inside itself counts once."""
    if id(node) not in known:
        known[id(node)] = 1
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = (one if isinstance(one, tuple) else (one,) for one in children)
        known[id(node)] += sum(_size(one, known) for pair in pairs for one in pair)
    return known[id(node)]


class _TooDeepError(Exception):
    """Deeper than DEEPEST."""


class _Composer(Composer):
    """Stops at the depth that is refused: what PyYAML does with each level costs more than the one before.

    All scalars are texts, so it looks for no tags.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth > DEEPEST:
            raise _TooDeepError
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def resolve(self, *_: object) -> str:
        return ""

    def descend_resolver(self, *_: object) -> None:
        """Look for none."""

    def ascend_resolver(self) -> None:
        """Look for none."""


class _Loader(_Composer, yaml.SafeLoader):
    """PyYAML alone."""


_QUICK: Any = None
if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # -- exported, but for the stub

    class _Quick(_Composer, CParser):
        """Scanned and parsed by libyaml; refuses what is left empty, whose place libyaml tells otherwise."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            Composer.__init__(self)

        def compose_scalar_node(self, anchor: dict[str, yaml.Node]) -> yaml.ScalarNode:
            node = super().compose_scalar_node(anchor)
            if not node.value and not node.style:
                raise yaml.YAMLError
            return node

    _QUICK = _Quick


class _Builder:
    def __init__(self, text: str, report: Report) -> None:
        self._whole = text
        self._report = report
        self._above: list[yaml.Node] = []

    def node(self, node: yaml.Node, place: Place, depth: int) -> Node:
        if isinstance(node, yaml.ScalarNode):
            return self._text(node, place)
        if node in self._above or depth > DEEPEST:
            inside = "an alias stands inside what it names" if node in self._above else "nested too deeply"
            self._report(place, "", f"{inside}; {DEEPEST} levels are the most")
            return Text("", place)
        self._above.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                items = [
                    self.node(one, Place(one.start_mark.line + 1, f"{place.path}[{index}]"), depth + 1)
                    for index, one in enumerate(node.value)
                ]
                return Sequence(place, tuple(items))
            return self._mapping(node, place, depth)
        finally:
            self._above.pop()

    def _mapping(self, node: yaml.Node, place: Place, depth: int) -> Mapping:
        entries: dict[Text, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(Place(line, place.path), "", "a key must be a text")
                continue
            raw = self._text(key_node, Place(line, place.path))
            at = Place(line, place.path).key(raw)
            key = Text(raw, at)
            if key in entries:
                self._report(at, "", "stands here twice; keep one")
                continue
            value_line = value_node.start_mark.line + 1
            entries[key] = self.node(value_node, Place(value_line, at.path), depth + 1)
        return Mapping(place, entries)

    def _text(self, node: yaml.ScalarNode, place: Place) -> Text:
        text: str = node.value
        if _HALF.search(text):  # JSON escapes what is beyond U+FFFF as two halves
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if text.encode("utf-16") != node.value.encode("utf-16", "surrogatepass"):
                self._report(place, "", f"{node.value!a} holds half a character; write it whole")
                text = ""
        return Text(text, place, bare=not node.style and not text, origin=_origin(node, self._whole))


def _origin(node: yaml.ScalarNode, whole: str) -> tuple[int, int] | None:
    begin, end = node.start_mark, node.end_mark
    if node.style == "|":
        written = whole[begin.index : end.index].splitlines()[1:]
        own = node.value.splitlines()
        shifts = (len(one) - len(two) for one, two in zip(written, own, strict=False) if two)
        return begin.line + 2, next(shifts, 0) + 1
    quote = node.style in {"'", '"'}
    if whole[begin.index + quote : end.index - quote] != node.value:
        return None
    return begin.line + 1, begin.column + 1 + quote
