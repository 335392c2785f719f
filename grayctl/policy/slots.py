"""Slots: who of a service's users gets which version, so that nobody moves who need not. Pure.

A user's place on the ring of 10,000 hundredths of a percent depends on the identity and the salt alone. The ring says
whose each place is; what is nobody's, or was released, is stable's. From one set of shares to the next:

1. A version that shrinks or leaves releases from the end of what it has. Released places remember their owner.
2. A version that grows first takes back what it released, from the beginning: the same users. When all versions have
   done so, each takes what was nobody's, from the beginning, and then what others released, from the end, since that
   is what those would take back last.
3. What was released in this very step comes last of all: it is given away only when stable has nobody left.

So it is guaranteed:

- Each version has exactly its share.
- Nobody leaves a version whose share did not shrink, and nobody joins one whose share did not grow.
- Users move between two canaries only when the growth is more than stable had, and then only as many as it lacks.
- What a version has is always the beginning of all that it remembers. So a version that shrinks and grows again has
  the same users again, unless others needed its places meanwhile.
- When stable becomes a version that was a canary, it releases its places and everybody on them stays with it; a
  version that grows in the same step takes from those who must move anyway.
- The ring is a function of the last ring and the shares, so that every node cuts users alike.

Neighbours that are alike are one slot. A ring of more than 200 slots forgets what was released, which moves nobody;
beyond that it grows only by versions that have users and grow by turns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

from grayctl.model.release import HUNDRED_PERCENT, Ring, Slot

Shares = tuple[tuple[str, int], ...]

_NOBODY = ""
_MOST = 200  # slots that remember; nginx compares a user's place with one after another
# what a place of the general ring is to a version that takes it in a route, nearest first
_HAD, _REMEMBERED, _NOBODYS, _RELEASED, _OTHERS = range(5)


def shares_of(ring: Ring) -> Shares:
    """What each version has, in hundredths of a percent, sorted by version; a version that has nothing is left out."""
    found: dict[str, int] = {}
    for slot in ring:
        if slot.held and slot.owner:
            found[slot.owner] = found.get(slot.owner, 0) + slot.width
    return tuple(sorted(found.items()))


def allot(ring: Ring, shares: Iterable[tuple[str, int]]) -> Ring:
    """The ring that gives each version its share, beginning with `ring`; see the module for what is guaranteed.

    Args:
        ring: as it was; empty at first.
        shares: version -> hundredths of a percent; a version that is not named has left.

    Raises:
        ValueError: a share below 0, more than 100 % in all, or a ring longer than the ring: the validator's work.
    """
    return allot_route(ring, (), shares)


def allot_route(ring: Ring, general: Ring, shares: Iterable[tuple[str, int]]) -> Ring:
    """The ring of a route: as `allot`, but what it takes anew is what the general ring gives, or would give next.

    A version that grows takes, after what it takes back: what it has in the general ring, what it released there, what
    is nobody's there, what others released there, and last what others have there. So a route's 20 % contain the
    general 5 % of the same users, and while only one version has shares, the smaller always lies in the larger one.
    Places that the route has given already stay, whatever the general ring does.

    Args:
        ring: the route's, as it was; empty at first.
        general: the general ring, as it is now.
        shares: the route's.

    Raises:
        ValueError: as `allot`.
    """
    wanted = dict(shares)
    if min(wanted.values(), default=0) < 0 or sum(wanted.values()) > HUNDRED_PERCENT:
        raise ValueError(f"shares must be 0 or more, and {HUNDRED_PERCENT} hundredths at most in all: {wanted}")
    had = dict(shares_of(ring))
    lacking = {version: wanted[version] - had.get(version, 0) for version in sorted(wanted)}
    pieces = _pieces(ring, general)
    for version, share in had.items():
        if share > wanted.get(version, 0):
            pieces = _released(pieces, version, share - wanted.get(version, 0))
    for may_take in (_its_own, _its_general, _free):
        for version in [version for version, lack in lacking.items() if lack > 0]:
            pieces, lacking[version] = _taken(pieces, version, lacking[version], may_take)
    return _merged(pieces)


# ---------------------------------------------------------------- the ring in pieces


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch that is one thing in both rings; `beside` is what it is in the general one.

    `fresh`: released in this step, so that its users would move from one canary to another.
    """

    start: int
    width: int
    owner: str
    held: bool
    beside: Slot
    fresh: bool = False

    @property
    def end(self) -> int:
        return self.start + self.width


def _pieces(ring: Ring, general: Ring) -> list[_Piece]:
    ends = {_end_of(ring), _end_of(general), 0, HUNDRED_PERCENT}
    for one in (ring, general):
        ends.update(accumulate(slot.width for slot in one))
    mine, beside = _Cursor(ring), _Cursor(general)
    return [
        _Piece(start, end - start, (slot := mine.at(start)).owner, slot.held, beside.at(start))
        for start, end in pairwise(sorted(ends))
    ]


def _end_of(ring: Ring) -> int:
    end = sum(slot.width for slot in ring)
    if end > HUNDRED_PERCENT or any(slot.width < 1 for slot in ring):
        raise ValueError(f"the slots of a ring are 1 or wider, and {HUNDRED_PERCENT} at most in all: {end}")
    return end


class _Cursor:
    """A ring, asked for one place after another."""

    def __init__(self, ring: Ring) -> None:
        self._slots = iter(ring)
        self._end = 0
        self._slot = Slot(_NOBODY, HUNDRED_PERCENT, held=False)

    def at(self, place: int) -> Slot:
        while place >= self._end:
            self._slot = next(self._slots, Slot(_NOBODY, HUNDRED_PERCENT, held=False))
            self._end += self._slot.width
        return self._slot


def _merged(pieces: list[_Piece]) -> Ring:
    ring = _slots((piece.owner, piece.held, piece.width) for piece in pieces)
    if len(ring) > _MOST:
        ring = _slots((slot.owner if slot.held else _NOBODY, slot.held, slot.width) for slot in ring)
    return ring


def _slots(stretches: Iterable[tuple[str, bool, int]]) -> Ring:
    """Neighbours that are alike as one slot; what is nobody's at the end is left out."""
    slots = [
        Slot(owner, sum(width for _, _, width in alike), held)
        for (owner, held), alike in groupby(stretches, key=lambda one: (one[0], one[1]))
    ]
    return tuple(slots[:-1] if slots and not slots[-1].owner else slots)


# ---------------------------------------------------------------- giving and taking


def _released(pieces: list[_Piece], version: str, amount: int) -> list[_Piece]:
    """Release so much of what a version has, from the end."""
    found: list[_Piece] = []
    for piece in reversed(pieces):
        part = min(amount, piece.width) if piece.held and piece.owner == version else 0
        amount -= part
        if part:
            found.append(replace(piece, start=piece.end - part, width=part, held=False, fresh=True))
        if part < piece.width:
            found.append(replace(piece, width=piece.width - part))
    return found[::-1]


def _its_own(piece: _Piece, version: str) -> bool:
    return _free(piece, version) and piece.owner == version


def _its_general(piece: _Piece, version: str) -> bool:
    return _free(piece, version) and not piece.fresh and _distance(piece.beside, version) == _HAD


def _free(piece: _Piece, version: str) -> bool:  # noqa: ARG001 -- as the two above
    return not piece.held


def _taken(
    pieces: list[_Piece], version: str, amount: int, may_take: Callable[[_Piece, str], bool]
) -> tuple[list[_Piece], int]:
    """Give a version up to `amount` of what it may take; the pieces, and what it lacks still."""
    free = [piece for piece in pieces if may_take(piece, version)]
    parts: dict[int, int] = {}
    for piece in sorted(free, key=lambda one: _order(one, version)):
        if amount == 0:
            break
        parts[piece.start] = min(amount, piece.width)
        amount -= parts[piece.start]
    found: list[_Piece] = []
    for piece in pieces:
        found += _split(piece, version, parts[piece.start]) if piece.start in parts else [piece]
    return found, amount


def _split(piece: _Piece, version: str, part: int) -> list[_Piece]:
    """The part that the version takes, and the rest."""
    at = piece.end - part if _from_the_end(piece, version) else piece.start
    before = replace(piece, width=at - piece.start)
    mine = replace(piece, start=at, width=part, owner=version, held=True)
    after = replace(piece, start=mine.end, width=piece.end - mine.end)
    return [one for one in (before, mine, after) if one.width]


def _order(piece: _Piece, version: str) -> tuple[int, ...]:
    """Which of the free pieces a version takes first."""
    if piece.owner == version:
        return (False, 0, False, piece.start)
    place = -piece.start if _from_the_end(piece, version) else piece.start
    return (piece.fresh, _distance(piece.beside, version), bool(piece.owner), place)


def _from_the_end(piece: _Piece, version: str) -> bool:
    """Whether others may want it back, or would take it in the general ring: those begin at the beginning."""
    if piece.owner == version:
        return False
    return bool(piece.owner) or _distance(piece.beside, version) == _RELEASED


def _distance(slot: Slot, version: str) -> int:
    """How far a place in the general ring is from being the version's: the order in which it would become so."""
    if slot.owner == version:
        return _HAD if slot.held else _REMEMBERED
    if not slot.owner:
        return _NOBODYS
    return _OTHERS if slot.held else _RELEASED
