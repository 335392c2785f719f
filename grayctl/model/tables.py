"""Decision tables: what nginx evaluates for each request, before a letter of configuration is written.

`grayctl.render` prints them, `grayctl.policy.explain` interprets the same values, so the two cannot disagree. Each
table defines one variable. A table is evaluated when its variable is asked for, once a request, so a decision costs
what the tables on its way cost.
"""

from dataclasses import dataclass
from typing import ClassVar

from grayctl.model.tokens import Cidr, Joined, MapKey, Percent, Regex, Text, Variable, Word

Value = Text | Variable
"""What a table yields: a text, or what another variable has (`$1` is the first group of the regex that matched)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which part of a policy a table stands for.

    Attributes:
        name: the route's name, `explicit`, `preview`, `traffic`, or empty for a helper of several rules.
        test: what is asked, as the `when` language would say it.
        shown: what of the request was looked at.
        unless_empty: an empty source means that the test does not hold, and everything else that it does. Otherwise it
            holds when a key matched.
        only_no: it can only answer that the test does not hold; otherwise another table of the same test is asked.
    """

    name: str
    test: str
    shown: Variable
    unless_empty: bool = False
    only_no: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """`map`: a literal key, ignoring case; else, when the source is not empty, a pattern; else the default."""

    kind: ClassVar[str] = "map"
    variable: Variable
    source: Joined
    entries: tuple[tuple[MapKey | Regex, Value], ...]
    default: Value
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Geo:
    """`geo` over the client's address: the longest prefix that holds it."""

    kind: ClassVar[str] = "geo"
    variable: Variable
    entries: tuple[tuple[Cidr, Text], ...]
    default: Text


@dataclass(frozen=True, slots=True)
class Split:
    """`split_clients`: MurmurHash2 (32 bit, seed 0) of the source; the shares one after another, then the rest.

    Source: ngx_http_split_clients_module.c. The bound of a share is the sum so far * 0xffffffff // 10000.
    """

    kind: ClassVar[str] = "split"
    variable: Variable
    source: Joined
    shares: tuple[tuple[Percent, Text], ...]
    rest: Text
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """A variable with one value. Written `split_clients "" $x { * value; }`, which costs nothing (FACTS)."""

    kind: ClassVar[str] = "constant"
    variable: Variable
    value: Word | Text


Table = Map | Geo | Split | Constant
