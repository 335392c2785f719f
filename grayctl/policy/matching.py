"""`match`, `when` and `port` of a policy become one predicate."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from grayctl.marked import Place, Text
from grayctl.model.release import Input, Operator, Predicate, Source
from grayctl.policy import when
from grayctl.policy.conditions import Refused, Scope, condition, named
from grayctl.policy.predicates import NEVER, conditions_of, every, negate, some
from grayctl.policy.shape import Problems
from grayctl.policy.wire import Key, Match, Matches, NamedInput, Operators, Scalar, Value

_T = TypeVar("_T")
_P = ParamSpec("_P")
_UNNAMED = (
    Source.PATH,
    Source.HOST,
    Source.PORT,
    Source.METHOD,
    Source.CLIENT_IP,
    Source.REGION,
    Source.DEVICE,
    Source.IDENTITY,
)
_OPERATORS = {
    "prefix": Operator.PREFIX,
    "suffix": Operator.SUFFIX,
    "regex": Operator.REGEX,
    "has": Operator.HAS,
    "in_list": Operator.IN_LIST,
}


@dataclass(frozen=True, slots=True)
class Matching:
    """Reads the conditions of one policy; what is wrong goes to `problems`, and NEVER stands for it.

    Attributes:
        lists: gets every list that is asked, with the place where.
    """

    scope: Scope
    problems: Problems
    lists: list[tuple[str, Place]]

    def predicate(
        self, match: Matches | None, expression: Text | None, ports: Scalar | list[Scalar] | None = None
    ) -> Predicate:
        """What must hold: all of what is given."""
        parts: list[Predicate] = []
        if match is not None:
            parts.append(some(map(self._all, match)) if isinstance(match, list) else self._all(match))
        if expression is not None:
            parts.append(self._expression(expression))
        if ports is not None:
            parts.append(self._value(Input(Source.PORT), ports))
        return every(parts)

    def attempt(self, place: Place, act: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """What `act` returns; None when it is refused, which is a problem at the place."""
        try:
            return act(*args, **kwargs)
        except Refused as refused:
            self.problems.add(place, refused.value, refused.wrong, refused.allowed)
            return None

    def one_named(self, shape: NamedInput, allowed: str = "header, cookie, query") -> Input | None:
        """The one input that a mapping such as `{header: X-User-ID}` names."""
        given = {
            source: text
            for source in (Source.HEADER, Source.COOKIE, Source.QUERY)
            if (text := getattr(shape, source)) is not None
        }
        if len(given) != 1:
            wrong = "names several inputs" if given else "names no input"
            self.problems.add(shape.given.place, "", wrong, f"Write one of {allowed}")
            return None
        ((source, text),) = given.items()
        return self.attempt(text.place, named, source, str(text))

    def _all(self, match: Match) -> Predicate:
        parts: list[Predicate] = []
        tables: dict[Source, dict[Key, Value] | None] = {
            Source.HEADER: match.header,
            Source.COOKIE: match.cookie,
            Source.QUERY: match.query,
        }
        for source, table in tables.items():
            for key, value in (table or {}).items():
                subject = self.attempt(key.place, named, source, str(key))
                if subject is not None:
                    parts.append(self._value(subject, value))
        unnamed = ((source, getattr(match, source)) for source in _UNNAMED)
        parts += [self._value(Input(source), value) for source, value in unnamed if value is not None]
        if not match.given.keys:
            wrong = "is empty, so it would match every request"
            self.problems.add(match.given.place, "", wrong, "Write what must hold; `path: {prefix: /}` holds for all")
        return every(parts)

    def _value(self, subject: Input, value: Value) -> Predicate:
        if isinstance(value, Operators):
            return self._operators(subject, value)
        return some(self._condition(subject, Operator.IN, one) for one in texts(value))

    def _operators(self, subject: Input, shape: Operators) -> Predicate:
        parts: list[Predicate] = []
        if shape.exact is not None:
            parts.append(self._condition(subject, Operator.IN, shape.exact))
        if shape.in_ is not None:
            parts.append(some(self._condition(subject, Operator.IN, one) for one in texts(shape.in_)))
        for key, operator in _OPERATORS.items():
            if (text := getattr(shape, key)) is not None:
                parts.append(self._condition(subject, operator, text))
        if shape.present is not None:
            place = shape.given.keys["present"]
            held = self.attempt(place, condition, self.scope, subject, Operator.PRESENT, ()) or NEVER
            parts.append(held if shape.present else negate(held))
        if not shape.given.keys:
            words = "exact, prefix, suffix, regex, has, in, in_list, present"
            self.problems.add(shape.given.place, "", "is empty", f"Allowed here: {words}")
        return every(parts)

    def _condition(self, subject: Input, operator: Operator, text: Text) -> Predicate:
        if operator is Operator.IN_LIST:
            self.lists.append((str(text), text.place))
        return self.attempt(text.place, condition, self.scope, subject, operator, [str(text)]) or NEVER

    def _expression(self, text: Text) -> Predicate:
        def report(offset: int, value: str, wrong: str, allowed: str) -> None:
            position = text.position(offset)
            if position is None:
                self.problems.add(text.place, value, f"{wrong} (at character {offset + 1} of the expression)", allowed)
            else:
                line, column = position
                self.problems.add(Place(line, text.place.path), value, wrong, allowed, column=column)

        predicate = when.parse(str(text), self.scope, report)
        asked = [one for one in conditions_of(predicate) if one.operator is Operator.IN_LIST]
        self.lists.extend((one.values[0], text.place) for one in asked)
        return predicate


def texts(value: Text | list[Text]) -> Iterable[Text]:
    """One text or several, as several."""
    return [value] if isinstance(value, Text) else value
