"""A Release and what is in force -> decision tables.

A decision is a graph: each test of the policy is one table that yields either what was decided or the next test, so
nginx asks in the policy's order, stops at the first answer, and a test costs one `map`. Nested conditions need no
tables of their own: `and`, `or` and `not` only say where the two ends of a test lead.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from grayctl.model.plan import Decision, Graph
from grayctl.model.release import (
    HUNDRED_PERCENT,
    All,
    AnyOf,
    Condition,
    Explicit,
    Live,
    Not,
    Operator,
    Predicate,
    Release,
    Ring,
    Unknown,
)
from grayctl.model.tables import Map, Rule, Split, Table, Value
from grayctl.model.tokens import Joined, MapKey, Percent, Regex, Text, Variable
from grayctl.policy import patterns
from grayctl.policy.inputs import Inputs
from grayctl.policy.order import cheapest_first
from grayctl.policy.predicates import text_of

# nginx evaluates variables within variables 100 deep, and no deeper ("cycle while evaluating variable"): a longer chain
# of tests is cut into halves that are evaluated one after the other.
_LONGEST_CHAIN = 24
_HOLDS, _UNDECIDED = Text("1"), Text("")


@dataclass(frozen=True, slots=True)
class _Step:
    """Something that may decide: a route, or the preview."""

    route: str
    predicate: Predicate

    @property
    def size(self) -> int:
        return _size(self.predicate)


def compile_release(
    release: Release, live: Live, identity: str, available: frozenset[str], lists: Mapping[str, tuple[str, ...]]
) -> Graph:
    """Compile one service's policy.

    Args:
        release: checked.
        live: what is in force; its rings are those of the release's shares.
        identity: the service's id, for the names of variables.
        available: the versions that have an instance to serve.
        lists: name -> entries.
    """
    return _Compiler(release, live, identity, available, lists).graph()


class _Compiler:
    """Builds the graph from its end: a test needs to know where it leads."""

    def __init__(
        self,
        release: Release,
        live: Live,
        identity: str,
        available: frozenset[str],
        lists: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._release, self._live, self._id, self._available = release, live, identity, available
        self._inputs = Inputs(release, identity, lists)
        self._tables: dict[str, Table] = {}
        self._same: dict[tuple[object, ...], Variable] = {}
        self._codes: dict[Decision, str] = {}

    def graph(self) -> Graph:
        release = self._release
        end = self._shares("traffic", self._live.ring, self._stable("stable"), by_weights=release.by_weights)
        rings = dict(self._live.route_rings)
        steps = [_Step("preview", release.blue_green.predicate)] if release.blue_green else []
        targets = [self._preview(release.blue_green.preview)] if release.blue_green else []
        for route in release.routes:
            steps.append(_Step(route.name, route.predicate))
            stable = self._version(route.name, release.stable)
            targets.append(
                self._version(route.name, route.to)
                if route.to
                else self._shares(route.name, rings.get(route.name, ()), stable)
            )
        root = self._sequence(list(zip(steps, targets, strict=True)), end)
        return self._finished(self._explicit(release.explicit, root) if release.explicit else root)

    # ------------------------------------------------------------ what is decided

    def _decide(self, decision: Decision) -> Value:
        """The text that stands for a decision: readable, where it fits and nginx can tell it from the others."""
        if decision not in self._codes:
            readable = f"{decision.route} {decision.version}".strip()
            taken = readable.lower() in {code.lower() for code in self._codes.values()}
            fits = patterns.fits_a_bucket(readable) and not taken
            self._codes[decision] = readable if fits else f"decision {len(self._codes)}"
        return Text(self._codes[decision])

    def _stable(self, route: str) -> Value:
        return self._version(route, self._release.stable)

    def _version(self, route: str, version: str) -> Value:
        """The version where it has instances, else stable, flagged; nobody is left when stable has none either."""
        stable = self._release.stable
        if version in self._available:
            return self._decide(Decision(route, version))
        flagged = route if version == stable else f"{route}!fallback"
        if stable in self._available:
            return self._decide(Decision(flagged, stable))
        return self._decide(Decision("empty" if version == stable else "empty!fallback", "", unavailable=True))

    def _preview(self, version: str) -> Value:
        """Somebody is testing it, so nothing else answers in its place."""
        if version in self._available:
            return self._decide(Decision("preview", version))
        return self._decide(Decision("empty", "", unavailable=True))

    # ------------------------------------------------------------ tests

    def _sequence(self, steps: "list[tuple[_Step, Value]]", end: Value) -> Value:
        """The first step that holds decides; `end` when none does."""
        if len(steps) > 1 and sum(step.size for step, _ in steps) > _LONGEST_CHAIN:
            middle = len(steps) // 2
            first = self._sequence(steps[:middle], _UNDECIDED)
            return self._join(first, _UNDECIDED, self._sequence(steps[middle:], end), first)
        for step, target in reversed(steps):
            end = self._test(step.predicate, target, end, step.route)
        return end

    def _test(self, predicate: Predicate, yes: Value, no: Value, route: str) -> Value:
        """Where a request goes: `yes` when the predicate holds, else `no`."""
        match predicate:
            case Condition():
                return self._condition(predicate, yes, no, route)
            case Not(part):
                return self._test(part, no, yes, route)
            case All(parts) | AnyOf(parts) if len(parts) > 1 and _size(predicate) > _LONGEST_CHAIN:
                ordered, middle = cheapest_first(predicate), len(parts) // 2
                halves = [type(predicate)(half) for half in (ordered[:middle], ordered[middle:])]
                first = self._test(halves[0], _HOLDS, _UNDECIDED, route)
                rest = self._test(halves[1], yes, no, route)
                return self._join(first, _HOLDS, *((rest, no) if isinstance(predicate, All) else (yes, rest)))
            case All():
                for part in reversed(cheapest_first(predicate)):
                    yes = self._test(part, yes, no, route)
                return yes
            case AnyOf():
                for part in reversed(cheapest_first(predicate)):
                    no = self._test(part, yes, no, route)
                return no

    def _join(self, first: Value, text: Text, then: Value, otherwise: Value) -> Value:
        """Where a request goes after a part of the graph: `then` when that part said `text`."""
        if isinstance(first, Text):
            return then if first == text else otherwise
        return self._map(Joined((first,)), [(MapKey(text.text), then)], otherwise, None)

    def _condition(self, condition: Condition, yes: Value, no: Value, route: str) -> Value:
        if yes == no:
            return yes
        rule = Rule(route, text_of(condition), self._inputs.shown(condition.input))
        if condition.operator is Operator.PRESENT:
            rule = replace(rule, unless_empty=True)
            return self._map(self._inputs.of(condition.input), [(MapKey(""), no)], yes, rule)
        for question in self._inputs.questions(condition):
            found = self._map(question.source, [(key, yes) for key in question.keys], no, rule)
            if question.unless_empty:
                guard = replace(rule, unless_empty=True, only_no=True)
                found = self._map(question.unless_empty, [(MapKey(""), no)], found, guard)
            no = found
        return no

    def _explicit(self, explicit: Explicit, end: Value) -> Value:
        canaries = [one for one in self._release.versions if one != self._release.stable]
        unknown = self._stable("stable")
        if explicit.unknown is Unknown.REJECT:
            unknown = self._decide(Decision("unknown", "", reject=True))
        entries: list[tuple[MapKey | Regex, Value]] = [(MapKey(""), end)]
        for version in explicit.versions:
            target = self._version("explicit", version)
            entries += [(key, target) for key in patterns.exact([version], explicit.input.source)]
        entries.append((Regex(r"^never\z", ignore_case=True), self._version("explicit", self._release.stable)))
        if len(canaries) == 1:
            entries.append((Regex(r"^always\z", ignore_case=True), self._version("explicit", canaries[0])))
        named = text_of(Condition(explicit.input, Operator.PRESENT))
        rule = Rule("explicit", named, self._inputs.shown(explicit.input), unless_empty=True)
        decided = self._map(self._inputs.of(explicit.input), entries, unknown, rule)
        if not explicit.networks:
            return decided
        inside = self._inputs.inside(explicit.networks)
        permitted = Rule("explicit", "the network is permitted", Variable("remote_addr"))
        return self._map(inside.source, [(key, decided) for key in inside.keys], end, permitted)

    def _shares(self, route: str, ring: Ring, stable: Value, *, by_weights: bool = False) -> Value:
        """Users by their slots; without an identity stable, until one version has everybody."""
        if by_weights:
            return self._decide(Decision("traffic", "", unavailable=not self._available))
        cuts = [(slot.width, self._version(route, slot.owner) if slot.held else stable) for slot in ring]
        cuts.append((HUNDRED_PERCENT - sum(width for width, _ in cuts), stable))
        cuts = [(width, value) for width, value in cuts if width]
        if len({value for _, value in cuts}) == 1:
            return cuts[0][1]
        split = self._split(cuts, route)
        if not self._inputs.user_may_be_empty:
            return split
        user = self._inputs.user()
        rule = Rule(route, "present(identity)", user, unless_empty=True)
        return self._map(Joined((user,)), [(MapKey(""), stable)], split, rule)

    # ------------------------------------------------------------ tables

    def _map(
        self, source: Joined, entries: Iterable[tuple[MapKey | Regex, Value]], default: Value, rule: Rule | None
    ) -> Variable:
        found = tuple(entries)
        return self._once(("map", source, found, default), lambda name: Map(name, source, found, default, rule))

    def _split(self, cuts: list[tuple[int, Value]], route: str) -> Variable:
        merged: list[tuple[int, Text]] = []
        for width, value in cuts:
            assert isinstance(value, Text)  # noqa: S101 -- shares end in decisions, never in another test
            if merged and merged[-1][1] == value:
                merged[-1] = (merged[-1][0] + width, value)
            else:
                merged.append((width, value))
        rest = merged.pop()[1]
        source = Joined((Text(self._live.salt), self._inputs.user()))
        shares = tuple((Percent(width), value) for width, value in merged)
        return self._once(
            ("split", source, shares, rest),
            lambda name: Split(name, source, shares, rest, Rule(route, "the slot", self._inputs.user())),
        )

    def _once(self, key: tuple[object, ...], make: Callable[[Variable], Table]) -> Variable:
        """One table for equal tests that lead to equal ends."""
        if key not in self._same:
            self._same[key] = variable = Variable(f"gray{len(self._same) + 1}_{self._id}")
            self._tables[variable.name] = make(variable)
        return self._same[key]

    def _finished(self, root: Value) -> Graph:
        """Only what the root leads to."""
        tables = {**self._inputs.tables, **self._tables}
        wanted, texts = set(_names(root)), {root} if isinstance(root, Text) else set()
        for name, table in reversed(tables.items()):  # each leads to earlier ones alone
            if name in wanted:
                for value in _leads_to(table):
                    wanted.update(_names(value))
                    texts.update([value] if isinstance(value, Text) else [])
        return Graph(
            root,
            tuple(table for name, table in tables.items() if name in wanted),
            {code: decision for decision, code in self._codes.items() if Text(code) in texts},
            tuple(self._inputs.warnings),
        )


def _size(predicate: Predicate) -> int:
    """How many tests a predicate is."""
    match predicate:
        case Condition():
            return 1
        case Not(part):
            return _size(part)
        case All(parts) | AnyOf(parts):
            return sum(map(_size, parts))


def _names(value: Value | Joined) -> list[str]:
    if isinstance(value, Variable):
        return [value.name]
    if isinstance(value, Joined):
        return [part.name for part in value.parts if isinstance(part, Variable)]
    return []


def _leads_to(table: Table) -> list[Value | Joined]:
    match table:
        case Map(source=source, entries=entries, default=default):
            return [source, *dict.fromkeys(value for _, value in entries), default]
        case Split(source=source, shares=shares, rest=rest):
            return [source, *(value for _, value in shares), rest]
        case _:
            return []
