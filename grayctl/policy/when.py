r"""The `when` language: an expression becomes a predicate, or is refused with every place that is wrong.

The grammar is Python's own for `and`, `or`, `not`, comparisons, calls, lists and parentheses, of which a whitelist is
walked; nothing is ever evaluated. What Python would read differently never reaches it: a small tokenizer takes texts
and numbers out first, so that a text has no escapes but `\"`, `\'` and `\\` (any other backslash is itself, as a
regular expression wants it), a number may be of any length, and `&&`, `||` and `!` are words like any other.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from grayctl.model.release import Input, Operator, Predicate, Source
from grayctl.policy.conditions import Refused, Scope, condition, named, number
from grayctl.policy.predicates import NEVER, every, negate, some
from grayctl.wording import did_you_mean

DEEPEST = 50

Report = Callable[[int, str, str, str], object]
"""Told of each fault: the offset in the expression, the value, what is wrong, what is allowed."""

_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\n]+)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
    r"|(?P<number>[+-]?[0-9]+(?![A-Za-z0-9_.]))"
    r"|(?P<word>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[!<>()\[\],])",
    re.DOTALL,
)
_SPELLED = {"&&": "and", "||": "or", "!": "not"}
_ESCAPED = re.compile(r"\\([\"'\\])")
_ORDERINGS: dict[type[ast.cmpop], tuple[Operator, Operator]] = {  # as written; with its sides exchanged
    ast.Lt: (Operator.LESS, Operator.GREATER),
    ast.LtE: (Operator.LESS_OR_EQUAL, Operator.GREATER_OR_EQUAL),
    ast.Gt: (Operator.GREATER, Operator.LESS),
    ast.GtE: (Operator.GREATER_OR_EQUAL, Operator.LESS_OR_EQUAL),
}
_FUNCTIONS = {
    "matches": Operator.REGEX,
    "has": Operator.HAS,
    "in_list": Operator.IN_LIST,
    "present": Operator.PRESENT,
}
_SOURCES = {str(source): source for source in Source}
_INPUTS = {source: f'{source}("NAME")' if source.named else str(source) for source in Source}
_KNOWN = [*_SOURCES, *_FUNCTIONS]


class _Number(NamedTuple):
    digits: str


_Constant = str | _Number


@dataclass(frozen=True, slots=True)
class _Source:
    """Python text with each text and number as a name of its own, and where its words stand in the expression."""

    python: str
    constants: dict[str, _Constant]
    offsets: dict[int, int]


class _Fault(Exception):  # noqa: N818 -- control flow between a fault and the nearest `and` or `or`
    def __init__(self, offset: int, value: str, wrong: str, allowed: str = "") -> None:
        super().__init__(wrong)
        self.report = (offset, value, wrong, allowed)


def parse(text: str, scope: Scope, report: Report) -> Predicate:
    """The predicate of an expression; NEVER where something was reported.

    Args:
        text: the expression; it may have several lines.
        scope: what it may speak of.
        report: told of each fault; of those that keep the expression from being read, the first.
    """
    try:
        source = _tokens(text)
        tree = _tree(source)
    except _Fault as fault:
        report(*fault.report)
        return NEVER
    return _Walk(source, scope, report).predicate(tree)


def _tokens(text: str) -> _Source:
    words: list[str] = []
    constants: dict[str, _Constant] = {}
    offsets: dict[int, int] = {}
    column = at = depth = nots = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _unreadable(text, at)
        kind, token = str(found.lastgroup), found[0]
        if kind != "blank":
            word = _SPELLED.get(token, token)
            if kind in {"text", "number"}:
                word = f"_{len(constants)}"
                constants[word] = _Number(number(token) or "") if kind == "number" else _unescaped(token)
            depth += (word in {"(", "["}) - (word in {")", "]"})
            nots = nots + 1 if word == "not" else 0
            if max(depth, nots) > DEEPEST:
                raise _Fault(at, "", "the expression is nested too deeply", f"{DEEPEST} levels are the most")
            offsets[column] = at
            words.append(word)
            column += len(word) + 1
        at = found.end()
    if not words:
        raise _Fault(0, "", "the expression is empty", "Leave `when` out, or say what must hold")
    offsets[column] = len(text)
    return _Source(" ".join(words), constants, offsets)


def _unreadable(text: str, at: int) -> _Fault:
    rest = text[at:]
    if rest[0] in "\"'":
        return _Fault(at, "", "a text begins here and does not end")
    if found := re.match(r"[+-]?[0-9][A-Za-z0-9_.]*", rest):
        return _Fault(at, found[0], "is no number here", "Write an integer, or a text in quotes")
    if rest[0] == "=":
        return _Fault(at, "=", "is no comparison", "Write ==")
    return _Fault(at, rest[0], "is not part of the language", "Texts stand in quotes")


def _unescaped(token: str) -> str:
    return _ESCAPED.sub(r"\1", token[1:-1])


def _tree(source: _Source) -> ast.expr:
    try:
        return ast.parse(source.python, mode="eval").body
    except SyntaxError as error:
        column = (error.offset or len(source.python) + 2) - 1  # without one it is the end
        offset = max((at for begin, at in source.offsets.items() if begin <= column), default=0)
        raise _Fault(offset, "", "the expression cannot be read from here on") from error
    except (RecursionError, MemoryError) as error:  # how Python's parser says "too deep"
        raise _Fault(0, "", "the expression is nested too deeply", f"{DEEPEST} levels are the most") from error


class _Walk:
    """The whitelist, over Python's tree."""

    def __init__(self, source: _Source, scope: Scope, report: Report) -> None:
        self._source = source
        self._scope = scope
        self._report = report

    def predicate(self, node: ast.expr) -> Predicate:
        """What must hold. A fault ends its own comparison only."""
        if isinstance(node, ast.BoolOp):
            parts = [self.predicate(one) for one in node.values]
            return every(parts) if isinstance(node.op, ast.And) else some(parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return negate(self.predicate(node.operand))
        try:
            if isinstance(node, ast.Compare):
                return self._comparison(node)
            if isinstance(node, ast.Call):
                return self._function(node)
            raise self._no_condition(node)
        except _Fault as fault:
            self._report(*fault.report)
            return NEVER

    def _offset(self, node: ast.expr) -> int:
        return self._source.offsets.get(node.col_offset, 0)

    def _fault(self, node: ast.expr, value: str, wrong: str, allowed: str = "") -> _Fault:
        return _Fault(self._offset(node), value, wrong, allowed)

    def _no_condition(self, node: ast.expr) -> _Fault:
        if isinstance(node, ast.Name) and node.id in _SOURCES:
            return self._fault(node, node.id, "says nothing by itself", f"Compare it, as in {node.id} == ...")
        if isinstance(node, ast.Name) and node.id not in self._source.constants:
            return self._unknown(node)
        return self._fault(node, "", "a comparison or a function must stand here")

    def _unknown(self, node: ast.Name) -> _Fault:
        allowed = f"{did_you_mean(node.id, _KNOWN)}Inputs: {', '.join(_INPUTS.values())}"
        return self._fault(node, node.id, "is not known here", f"{allowed}. Functions: {', '.join(_FUNCTIONS)}")

    def _function(self, node: ast.Call) -> Predicate:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _SOURCES:
            one = self._input(node)
            raise self._fault(node, name, "says nothing by itself", f"Write present({one.text}), or compare it")
        operator = _FUNCTIONS.get(name)
        if operator is None:
            raise self._unknown(node.func) if isinstance(node.func, ast.Name) else self._no_condition(node)
        wanted = 1 if operator is Operator.PRESENT else 2
        if node.keywords or len(node.args) != wanted:
            example = f"{name}(INPUT)" if wanted == 1 else f'{name}(INPUT, "...")'
            raise self._fault(node, name, "is written otherwise", f"Write {example}")
        subject = self._input(node.args[0])
        texts = [self._text(one) for one in node.args[1:]]
        return self._condition(node.args[-1], subject, operator, texts)

    def _comparison(self, node: ast.Compare) -> Predicate:
        if len(node.ops) > 1:
            wrong = "comparisons in a row are not part of the language"
            raise self._fault(node.comparators[0], "", wrong, "Join two of them with and")
        (sign,), left, right = node.ops, node.left, node.comparators[0]
        if isinstance(sign, ast.In | ast.NotIn):
            held = self._membership(self._input(left), right)
            return held if isinstance(sign, ast.In) else negate(held)
        exchanged = self._constant(left) is not None
        if exchanged and self._constant(right) is None:
            left, right = right, left
        subject = self._input(left)
        value = self._constant(right)
        if value is None:
            raise self._not_constant(right)
        if isinstance(sign, ast.Eq | ast.NotEq):
            held = self._equality(subject, right, value)
            return held if isinstance(sign, ast.Eq) else negate(held)
        if type(sign) not in _ORDERINGS:
            raise self._fault(node, "", "`is` is not part of the language", "Write == or !=")
        if not isinstance(value, _Number):
            wrong = "is a text, and texts have no order here"
            raise self._fault(right, value, wrong, "Compare with a number, without quotes")
        return self._condition(right, subject, _ORDERINGS[type(sign)][exchanged], [value.digits])

    def _not_constant(self, node: ast.expr) -> _Fault:
        if isinstance(node, ast.List | ast.Tuple):
            return self._fault(node, "", "a list stands here", "Write `in [...]`")
        self._input(node)
        return self._fault(node, "", "two inputs cannot be compared", "Compare each with a text or a number")

    def _membership(self, subject: Input, node: ast.expr) -> Predicate:
        if not isinstance(node, ast.List) or not node.elts:
            raise self._fault(node, "", "a list must stand here", 'Write such as ["a", "b"]')
        parts = []
        for one in node.elts:
            value = self._constant(one)
            if value is None:
                raise self._fault(one, "", "a list holds texts and numbers only")
            parts.append(self._equality(subject, one, value))
        return some(parts)

    def _equality(self, subject: Input, node: ast.expr, value: _Constant) -> Predicate:
        if not isinstance(value, _Number):
            return self._condition(node, subject, Operator.IN, [value])
        if subject.source is Source.PORT:
            return self._condition(node, subject, Operator.IN, [value.digits])
        return self._condition(node, subject, Operator.NUMBER_IN, [value.digits])

    def _condition(self, node: ast.expr, subject: Input, operator: Operator, values: list[str]) -> Predicate:
        try:
            return condition(self._scope, subject, operator, values)
        except Refused as refused:
            raise self._fault(node, refused.value, refused.wrong, refused.allowed) from refused

    def _constant(self, node: ast.expr) -> _Constant | None:
        return self._source.constants.get(node.id) if isinstance(node, ast.Name) else None

    def _text(self, node: ast.expr) -> str:
        value = self._constant(node)
        if not isinstance(value, str):
            raise self._fault(node, "", "a text in quotes must stand here")
        return value

    def _input(self, node: ast.expr) -> Input:
        if isinstance(node, ast.Name) and node.id in _SOURCES:
            source = Source(node.id)
            if source.named:
                raise self._fault(node, node.id, "needs a name", f"Write {_INPUTS[source]}")
            return Input(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SOURCES:
            source = Source(node.func.id)
            if not source.named or node.keywords or len(node.args) != 1:
                raise self._fault(node, source, "is written otherwise", f"Write {_INPUTS[source]}")
            name = self._text(node.args[0])
            try:
                return named(source, name)
            except Refused as refused:
                raise self._fault(node.args[0], refused.value, refused.wrong, refused.allowed) from refused
        word = node.func if isinstance(node, ast.Call) else node
        if isinstance(word, ast.Name) and word.id not in {*self._source.constants, *_FUNCTIONS}:
            raise self._unknown(word)
        raise self._fault(node, "", "an input must stand here", f"Inputs: {', '.join(_INPUTS.values())}")
