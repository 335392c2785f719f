"""What differs between two states of the world, told by identity.

Whoever makes nothing anew for what stayed as it was lets everybody after him skip it, with one comparison a name; and
with none at all where one mapping was `renewed` from the other, since it remembers what it renewed.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Generic, TypeVar

_Value = TypeVar("_Value")
_From = TypeVar("_From")
_edition = count()


class Renewed(dict[str, _Value]):
    """A mapping that nobody changes, and what it has otherwise than the one that it was renewed from.

    Attributes:
        edition: its own number.
        base: the other's; -1 for none.
        stale: the names that are new or gone, or whose value is another object than in the other.
    """

    __slots__ = ("base", "edition", "stale")

    def __init__(
        self, values: Mapping[str, _Value] | None = None, *, base: int = -1, stale: AbstractSet[str] = frozenset()
    ) -> None:
        super().__init__(values or {})
        self.edition = next(_edition)
        self.base, self.stale = base, stale


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

    A value that was replaced keeps its place, new ones follow by name. When nothing is stale after all, the result is
    `then` itself.
    """
    fresh = {name: made[name] for name in sorted(made) if then.get(name) is not made[name]}
    gone = {name for name in stale if name not in made and name in then}
    if not fresh and not gone and isinstance(then, Renewed):
        return then
    base = then.edition if isinstance(then, Renewed) else -1
    found = Renewed(then, base=base, stale=frozenset(fresh) | gone)
    found.update(fresh)
    for name in gone:
        del found[name]
    return found


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
