"""What differs between two states of the world, told by identity.

Whoever makes nothing anew for what stayed as it was lets everybody after him skip it, with one comparison a name; and
with none at all where one mapping was `renewed` from the other, since it remembers what it renewed.
"""

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any, Generic, TypeVar, cast

_Value = TypeVar("_Value")
_From = TypeVar("_From")
_edition = count()


class Renewed(Mapping[str, _Value]):
    """A mapping that nobody changes, and what it has otherwise than the one that it was renewed from.

    It shares what both have alike with the other, so that renewing costs the root of the number of names and not the
    number; who goes through all of it pays for a copy, once.

    Args:
        values: none of them None.

    Attributes:
        edition: its own number.
        base: the other's; -1 for none.
        stale: the names that are new or gone, or whose value is another object than in the other.
    """

    __slots__ = ("_other", "_shared", "_size", "base", "edition", "stale")

    def __init__(self, values: Mapping[str, _Value] | None = None) -> None:
        self._shared: Mapping[str, _Value] = dict(values or {})
        self._other: dict[str, _Value | None] = {}  # than what is shared; None for what is gone
        self._size = len(self._shared)
        self.edition = next(_edition)
        self.base, self.stale = -1, frozenset[str]()

    def renew(self, fresh: Mapping[str, _Value], gone: AbstractSet[str]) -> "Renewed[_Value]":
        """The same with what is `fresh`, without what is `gone`, which is in here."""
        found = Renewed[_Value]()
        found._shared = self._shared
        found._other = {**self._other, **fresh, **dict.fromkeys(gone)}
        found._size = self._size + sum(name not in self for name in fresh) - len(gone)
        found.base, found.stale = self.edition, frozenset(fresh) | gone
        if len(found._other) ** 2 > found._size:
            found._whole()
        return found

    def _whole(self) -> Mapping[str, _Value]:
        """All of it in one dict."""
        if self._other:
            both = {**self._shared, **self._other}
            self._shared = {name: one for name, one in both.items() if one is not None}
            self._other = {}
        return self._shared

    # `_whole` may run in another thread at any time: whoever has read `_other` before `_shared` sees one state

    def __getitem__(self, name: str) -> _Value:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return cast("_Value", found)

    def get(self, name: str, default: Any = None) -> Any:
        """As any mapping's."""
        other = self._other
        found = other[name] if name in other else self._shared.get(name)
        return default if found is None else found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def items(self) -> ItemsView[str, _Value]:
        """As any mapping's."""
        return self._whole().items()

    def values(self) -> ValuesView[_Value]:
        """As any mapping's."""
        return self._whole().values()


def differing(now: Mapping[str, object], then: Mapping[str, object]) -> AbstractSet[str]:
    """The names that are new or gone, or whose value is another object; no value may be None."""
    if now is then:
        return frozenset()
    if isinstance(now, Renewed) and isinstance(then, Renewed) and now.base == then.edition:
        return now.stale
    found = {name for name, one in now.items() if then.get(name) is not one}
    new = sum(name not in then for name in found)
    return found | (then.keys() - now.keys()) if len(now) - new < len(then) else found


def renewed(then: Mapping[str, _Value], stale: AbstractSet[str], made: Mapping[str, _Value]) -> Mapping[str, _Value]:
    """`then` without what is stale, and what was made instead.

    When nothing is stale after all, the result is `then` itself.
    """
    fresh = {name: made[name] for name in made if then.get(name) is not made[name]}
    gone = {name for name in stale if name not in made and name in then}
    if not fresh and not gone and isinstance(then, Renewed):
        return then
    return (then if isinstance(then, Renewed) else Renewed(then)).renew(fresh, gone)


def kept(then: Mapping[str, _Value], name: str, made: _Value) -> _Value:
    """`made`, or the value that `name` has already where the two are equal: so that it keeps its very object."""
    last = then.get(name)
    return last if last is not None and last == made else made


class Derived(Generic[_From, _Value]):
    """A mapping made from another one, name by name, and made anew only where that differs from last time.

    Args:
        make: the value from the other's value.
    """

    def __init__(self, make: Callable[[_From], _Value]) -> None:
        self._make = make
        self._source: Mapping[str, _From] = Renewed()
        self._made: Mapping[str, _Value] = Renewed()

    def of(self, source: Mapping[str, _From]) -> Mapping[str, _Value]:
        """The mapping made from `source`; the very object of last time when it comes out equal."""
        stale = differing(source, self._source)
        made = {name: kept(self._made, name, self._make(source[name])) for name in stale if name in source}
        self._source, self._made = source, renewed(self._made, stale, made)
        return self._made
