"""Who has a long poll of its own where there are more services than long polls. Pure: no clock, no network."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Places(Generic[T]):
    """So many places, and who has one: in the end those that changed last.

    A place passes on only when its query has come back from Consul. One that is abandoned keeps its connection at the
    agent until its wait ends (FACTS), so that beside its heir's there would be more than allowed.

    Attributes:
        hot: those that have a place, also who left and whose query has not come back yet.
        cold: those that have none, in the order in which they lost it or came.
    """

    def __init__(self, number: int) -> None:
        self.hot: set[T] = set()
        self.cold: dict[T, None] = {}
        self._number = number
        self._changed: dict[T, None] = {}  # the one that changed last stands last
        self._left: set[T] = set()

    def enter(self, one: T) -> bool:
        """A newcomer; returns whether a place was free for it."""
        if len(self.hot) < self._number:
            self.hot.add(one)
            return True
        self.cold[one] = None
        return False

    def changed(self, one: T) -> None:
        """It has changed just now."""
        self._changed.pop(one, None)
        self._changed[one] = None

    def leave(self, one: T) -> None:
        """It is followed no more. Has it a place, that stays taken until its query comes back."""
        self._changed.pop(one, None)
        self.cold.pop(one, None)
        if one in self.hot:
            self._left.add(one)

    def came_back(self, one: T, busy: Callable[[T], bool]) -> T | None:
        """The query of `one` has come back; returns who has its place from now on, or None when nobody wants it.

        It keeps the place itself unless it left, or a cold one that is not `busy` has changed later.
        """
        left = one in self._left
        heir = self._changed_after(one, busy)
        if heir is None and not left:
            return one
        if heir is None:
            heir = next((other for other in self.cold if not busy(other)), None)
        self.hot.discard(one)
        self._left.discard(one)
        if not left:
            self.cold[one] = None
        if heir is not None:
            del self.cold[heir]
            self.hot.add(heir)
        return heir

    def _changed_after(self, one: T, busy: Callable[[T], bool]) -> T | None:
        """The cold one that changed last, if that was after `one` did."""
        if not self.cold:
            return None
        for other in reversed(self._changed):
            if other == one:
                return None
            if other in self.cold and not busy(other):
                return other
        return None
