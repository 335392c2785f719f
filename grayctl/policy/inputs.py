"""Inputs of a policy -> what nginx calls them, and the questions that a condition asks of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from grayctl.model.release import Condition, Input, Operator, Release, Source
from grayctl.model.tables import Geo, Map, Table, Value
from grayctl.model.tokens import Joined, MapKey, Regex, Text, Variable
from grayctl.policy import device, networks, patterns
from grayctl.policy.patterns import Key


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask nginx.

    Attributes:
        source: what to look at.
        keys: under which the answer is yes.
        unless_empty: where this is empty the answer is no, and the rest, which costs more, need not be asked.
    """

    source: Joined
    keys: tuple[Key, ...]
    unless_empty: Joined | None = None


_PLAIN = {
    Source.PATH: "uri",
    Source.HOST: "host",
    Source.PORT: "server_port",
    Source.METHOD: "request_method",
    Source.CLIENT_IP: "remote_addr",
}
_MOST_PATTERNS = 32  # texts beyond this many are looked up, not searched
_SEPARATOR = "\n"  # no header, cookie or parameter can hold one, and lists have an entry a line


class Inputs:
    """Knows the variables of one service's policy, and makes the helper tables that they need.

    Attributes:
        tables: the helpers, by the name of their variable; which of them are needed shows when all is compiled.
        warnings: what is wrong with lists, one line each.
    """

    def __init__(self, release: Release, identity: str, lists: Mapping[str, tuple[str, ...]]) -> None:
        self._release, self._id, self._lists = release, identity, lists
        self._regions = {region.name: region for region in release.regions}
        self._sets: dict[tuple[networks.Network, ...], int] = {}
        self.tables: dict[str, Table] = {}
        self.warnings: dict[str, None] = {}

    # ------------------------------------------------------------ variables

    def of(self, given: Input) -> Joined:
        """Where nginx has this input."""
        return Joined((self._variable(given),))

    def shown(self, given: Input) -> Variable:
        """What of a request tells why a test of this input came out as it did."""
        derived = {Source.REGION: Variable("remote_addr"), Source.DEVICE: Variable("http_user_agent")}
        return derived.get(given.source) or self._variable(given)

    def _variable(self, given: Input) -> Variable:
        match given.source:
            case Source.HEADER:
                variable = Variable(f"http_{given.name.lower().replace('-', '_')}")
            case Source.COOKIE if patterns.is_variable_name(given.name):
                variable = Variable(f"cookie_{given.name.lower()}")
            case Source.QUERY if patterns.is_variable_name(given.name):
                variable = Variable(f"arg_{given.name.lower()}")
            case Source.COOKIE:
                variable = self._extracted(
                    "http_cookie", rf"(?:^|;) *{patterns.literal(given.name.lower())} *= *([^;]*)"
                )
            case Source.QUERY:
                variable = self._extracted("args", rf"(?:^|&){patterns.literal(given.name.lower())}=([^&]*)")
            case Source.IDENTITY:
                variable = self.user()
            case _:
                variable = Variable(_PLAIN[given.source])
        return variable

    def _extracted(self, where: str, pattern: str) -> Variable:
        """A cookie or parameter whose name is no variable's: `$cookie_my-uid` would mean `$cookie_my` and `-uid`."""
        entries = ((Regex(pattern, ignore_case=True), Variable("1")),)
        return self._helper("grayin", Joined((Variable(where),)), entries, Text(""))

    def user(self) -> Variable:
        """Who the user is: the first input that is not empty. Where nobody is anybody, each request is somebody new."""
        chain = self._release.identity
        if not chain:
            return Variable("request_id")
        value = self._variable(chain[-1])
        for given in reversed(chain[:-1]):
            first = self._variable(given)
            value = self._helper("grayid", Joined((first,)), ((MapKey(""), value),), first)
        return value

    @property
    def user_may_be_empty(self) -> bool:
        """Whether a request can be without any of the identities."""
        chain = self._release.identity or ()
        return bool(chain) and all(one.source is not Source.CLIENT_IP for one in chain)

    # ------------------------------------------------------------ questions

    def questions(self, condition: Condition) -> Iterator[Question]:
        """The condition holds when the answer to any of these is yes."""
        source, values = condition.input.source, condition.values
        if source is Source.REGION:
            yield from self._in_regions(values)
        elif source is Source.DEVICE:
            yield self._device(values)
        elif source is Source.CLIENT_IP and condition.operator is Operator.IN:
            yield self.inside(values)
        elif condition.operator is Operator.IN_LIST:
            entries = self._list(values[0])
            yield self._addresses(values[0], entries) if source is Source.CLIENT_IP else self._texts(condition, entries)
        elif condition.operator is Operator.IN and self._is_long(condition):
            yield self._texts(condition, values)
        else:
            yield Question(self.of(condition.input), patterns.keys(condition.input, condition.operator, values))

    def inside(self, values: Iterable[str]) -> Question:
        """Whether the client's address is in one of the networks."""
        return self._inside(networks.parse(one) for one in values)

    def _inside(self, found: Iterable[networks.Network]) -> Question:
        wanted = tuple(sorted(set(found), key=lambda one: (one.version, one)))
        number = self._sets.setdefault(wanted, len(self._sets))
        variable = Variable(f"graynet_{self._id}")
        # one geo for all sets of a policy: it grows with each
        self.tables[variable.name] = Geo(variable, networks.entries(list(self._sets)), Text(""))
        return Question(Joined((variable,)), (Regex(networks.marker(number)),))

    def _in_regions(self, names: tuple[str, ...]) -> Iterator[Question]:
        """One question for all that are networks, and one for each variable, however many regions there are."""
        inside: list[Question] = []
        given: dict[str, set[str]] = {}
        for region in map(self._regions.__getitem__, names):
            if region.variable:
                given.setdefault(region.variable, set()).update(region.values)
            else:
                inside.append(self.inside(region.networks))
        if inside:
            yield Question(inside[0].source, tuple(dict.fromkeys(key for one in inside for key in one.keys)))
        for variable, texts in given.items():
            yield Question(Joined((Variable(variable),)), tuple(patterns.exact(sorted(texts), Source.HEADER)))

    def _device(self, wanted: tuple[str, ...]) -> Question:
        variable, agent = Variable(f"graydev_{self._id}"), Joined((Variable("http_user_agent"),))
        inside_wechat = self._helper("graychat", agent, device.classes(device.WECHAT), device.label((device.WECHAT,)))
        self.tables[variable.name] = Map(variable, agent, device.entries(inside_wechat), Text(""))
        return Question(Joined((variable,)), device.labels_of(wanted))

    # ------------------------------------------------------------ lists

    def _list(self, name: str) -> tuple[str, ...]:
        if name not in self._lists:
            self.warnings[
                f"list {name!r} does not exist: it holds nobody. Write it with `grayctl list put {name} FILE`"
            ] = None
        return self._lists.get(name, ())

    def _addresses(self, name: str, entries: tuple[str, ...]) -> Question:
        found = []
        for entry in entries:
            try:
                found.append(networks.parse(entry))
            except ValueError as error:
                self.warnings[f"list {name!r}: {error}: skipped"] = None
        return self._inside(found)

    def _is_long(self, condition: Condition) -> bool:
        return (
            len(condition.values) > _MOST_PATTERNS
            and condition.input.source in {Source.HEADER, Source.IDENTITY, Source.HOST}
            and not any(not value or _SEPARATOR in value for value in condition.values)
        )

    def _texts(self, condition: Condition, entries: Iterable[str]) -> Question:
        """One of many texts, case and all: a hash lookup that ignores case, then an equality that does not.

        The table yields how the entry is spelled, and the equality compares by back-reference. Only a path can hold the
        separator, and no entry does: then the table yields nothing, and the equality fails at the separator in the end.
        A text that is too long for nginx's hash is looked up by its end.
        """
        short: dict[str, list[str]] = {}
        long: dict[str, list[str]] = {}
        for entry in dict.fromkeys(entries):
            if patterns.fits_a_bucket(entry):
                short.setdefault(_lowered(entry), []).append(entry)
            else:
                long.setdefault(_lowered(patterns.end_of(entry)), []).append(entry)
        looked_at, searched = self._variable(condition.input), list[str]()
        hashed = _spellings(short, searched)
        default: Value = Text("")
        if ends := _spellings(long, searched):
            end = self._helper("grayend", Joined((looked_at,)), ((patterns.END, Variable("1")),), Text(""))
            default = self._helper("graylong", Joined((end,)), ends, Text(""))
        found = [one for one in searched if patterns.fits_a_token(one)]
        if len(found) < len(searched):
            self.warnings[
                f"list {condition.values[0]!r}: {len(searched) - len(found)} entries are longer than nginx's "
                "configuration can say: skipped"
            ] = None
        rest = ((one, looked_at) for one in patterns.joined(found))
        canonical = self._helper("graylist", Joined((looked_at,)), (*hashed, *rest), default)
        same = Regex(r"^([^\n]+)\n(?:[^\n]+\n)*?\1(?:\n[^\n]+)*\z")
        return Question(Joined((looked_at, Text(_SEPARATOR), canonical)), (same,), unless_empty=Joined((canonical,)))

    def _helper(
        self,
        prefix: str,
        source: Joined,
        entries: tuple[tuple[Key, Value], ...],
        default: Value,
    ) -> Variable:
        """A table that is no test by itself; equal ones are one."""
        for table in self.tables.values():
            if isinstance(table, Map) and (table.source, table.entries, table.default) == (source, entries, default):
                return table.variable
        variable = Variable(f"{prefix}{len(self.tables) + 1}_{self._id}")
        self.tables[variable.name] = Map(variable, source, entries, default)
        return variable


def _spellings(groups: Mapping[str, list[str]], searched: list[str]) -> tuple[tuple[Key, Value], ...]:
    """What a lookup yields for each key: the spellings. `searched` gets patterns for what no value can say."""
    hashed: list[tuple[Key, Value]] = []
    for key, spelled in groups.items():
        text = _SEPARATOR.join(spelled)
        if "$" in text or not patterns.fits_a_token(text):  # `$` cannot be escaped in a value
            searched += [rf"^{patterns.literal(one)}\z" for one in spelled]
        else:
            hashed.append((MapKey(key), Text(text)))
    return tuple(hashed)


def _lowered(text: str) -> str:
    """As nginx's hashes do: ASCII letters alone."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)
