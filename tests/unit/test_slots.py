"""Nobody moves who need not: the ring against a slow model of its own, over long sequences of changes."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grayctl.model.release import HUNDRED_PERCENT, Ring, Slot
from grayctl.policy.slots import allot, allot_route, shares_of

STABLE = ""
Cells = list[str]  # who serves each of the 10,000 places; empty is stable
Shares = Mapping[str, int]


def cells(ring: Ring) -> Cells:
    """Whom each place gets: as nginx cuts, one slot after another, the rest stable's."""
    served = [slot.owner if slot.held else STABLE for slot in ring for _ in range(slot.width)]
    return served + [STABLE] * (HUNDRED_PERCENT - len(served))


def places(served: Cells, version: str) -> set[int]:
    return {place for place, one in enumerate(served) if one == version}


def moves(before: Cells, after: Cells) -> Counter[tuple[str, str]]:
    pairs = Counter(zip(before, after, strict=True))
    return Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})


@st.composite
def shares(draw: st.DrawFn, versions: tuple[str, ...] = ("v2", "v3", "v4", "v5")) -> dict[str, int]:
    """Round, odd, tiny and whole shares, of any of the versions, not above 100 %."""
    found: dict[str, int] = {}
    for version in draw(st.permutations(versions)):
        left = HUNDRED_PERCENT - sum(found.values())
        share = draw(st.sampled_from([0, 0, 1, 3, 500, 1000, 2500, 5000, left]) | st.integers(0, left))
        if draw(st.booleans()):
            found[version] = min(share, left)
    return {version: share for version, share in found.items() if share}


class Model:
    """The rules of `grayctl.policy.slots` for each place by itself, by lists of 10,000."""

    def __init__(self) -> None:
        self.owners = [STABLE] * HUNDRED_PERCENT
        self.held = [False] * HUNDRED_PERCENT

    def change(self, wanted: Shares) -> None:
        fresh: set[int] = set()
        for version in {*self.owners} - {STABLE}:
            mine = [place for place in self._of(version) if self.held[place]]
            for place in mine[wanted.get(version, 0) :]:
                self.held[place] = False
                fresh.add(place)
        for take in (self._back, self._more):
            for version in sorted(wanted):
                lack = wanted[version] - sum(self.held[place] for place in self._of(version))
                for place in take(version, fresh)[:lack]:
                    self.owners[place], self.held[place] = version, True

    def _of(self, version: str) -> list[int]:
        return [place for place, owner in enumerate(self.owners) if owner == version]

    def _back(self, version: str, _: set[int]) -> list[int]:
        return [place for place in self._of(version) if not self.held[place]]

    def _more(self, version: str, fresh: set[int]) -> list[int]:
        released = [place for place, owner in enumerate(self.owners) if owner not in {STABLE, version}]
        released = [place for place in released[::-1] if not self.held[place]]
        longer_ago = [place for place in released if place not in fresh]
        return self._of(STABLE) + longer_ago + [place for place in released if place in fresh]

    def cells(self) -> Cells:
        return [owner if held else STABLE for owner, held in zip(self.owners, self.held, strict=True)]


def moved_at_least(had: Shares, wanted: Shares) -> int:
    """Who loses a version moves, who gets one too; one and the same only when stable has too few to give."""
    lost = sum(max(0, share - wanted.get(version, 0)) for version, share in had.items())
    won = sum(max(0, share - had.get(version, 0)) for version, share in wanted.items())
    without_room = max(0, won - (HUNDRED_PERCENT - sum(had.values())))
    return lost + won - without_room


@settings(max_examples=80, deadline=None)
@given(st.lists(shares(), min_size=1, max_size=20))
def test_any_sequence_is_as_the_model_says_and_moves_the_fewest(sequence: list[dict[str, int]]) -> None:
    ring: Ring = ()
    model = Model()
    had: Shares = {}
    for wanted in sequence:
        before, ring = cells(ring), allot(ring, wanted.items())
        model.change(wanted)
        after = cells(ring)
        assert after == model.cells()
        assert dict(shares_of(ring)) == wanted
        assert Counter(after)[STABLE] == HUNDRED_PERCENT - sum(wanted.values())
        moved = moves(before, after)
        assert moved.total() == moved_at_least(had, wanted)
        for old, new in moved:
            assert old == STABLE or wanted.get(old, 0) < had.get(old, 0), "nobody leaves a version that did not shrink"
            assert new == STABLE or wanted[new] > had.get(new, 0), "nobody joins a version that did not grow"
        had = wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(shares(), min_size=1, max_size=10), shares(), st.data())
def test_shrinking_and_growing_again_gives_the_same_users_back(
    sequence: list[dict[str, int]], wanted: dict[str, int], data: st.DataObject
) -> None:
    """Whatever the others do meanwhile that shrinks them, and although the shrinking goes in steps."""
    ring: Ring = ()
    for one in [*sequence, wanted]:
        ring = allot(ring, one.items())
    small, step = dict(wanted), ring
    for _ in range(3):
        small = {version: data.draw(st.integers(0, share)) for version, share in small.items()}
        before, step = cells(step), allot(step, small.items())
        assert all(new == STABLE for _, new in moves(before, cells(step)))
    assert cells(allot(step, wanted.items())) == cells(ring)
    for version, share in wanted.items():  # one after another as well
        small[version] = share
        step = allot(step, small.items())
    assert cells(step) == cells(ring)


def test_a_long_life_stays_small_and_moves_the_fewest() -> None:
    """1000 changes by turns of a few hundredths, the worst for a ring; each gives exactly what was asked for."""
    draw = random.Random(4)
    ring: Ring = ()
    had: dict[str, int] = {}
    longest = 0
    for _ in range(1000):
        version = draw.choice(["v2", "v3", "v4", "v5", "v6"])
        left = HUNDRED_PERCENT - sum(had.values()) + had.get(version, 0)
        share = min(left, max(0, had.get(version, 0) + draw.randint(-30, 60)))
        wanted = {one: old for one, old in (had | {version: share}).items() if old}
        before, ring = cells(ring), allot(ring, wanted.items())
        assert dict(shares_of(ring)) == wanted
        assert moves(before, cells(ring)).total() == moved_at_least(had, wanted)
        runs = sum(1 for held, _ in itertools.groupby(ring, key=lambda slot: slot.held and slot.owner) if held)
        assert len(ring) <= max(200, 2 * runs + 1)
        assert all((one.owner, one.held) != (other.owner, other.held) for one, other in itertools.pairwise(ring))
        had, longest = wanted, max(longest, len(ring))
    assert longest > 200, "it was long enough to forget what was released"


def test_promotion_moves_only_those_who_were_not_on_it() -> None:
    """v2 becomes stable while v3 has a share and grows: nobody leaves v2, nobody leaves v3."""
    before = allot((), {"v2": 2500, "v3": 500}.items())
    after = allot(before, {"v3": 1000}.items())
    old = [version or "v1" for version in cells(before)]
    new = [version or "v2" for version in cells(after)]
    assert moves(old, new) == {("v1", "v2"): 6500, ("v1", "v3"): 500}


def test_the_switch_back_gives_the_canary_its_users_again() -> None:
    before = allot((), {"v2": 500, "v3": 100}.items())
    promoted = allot(before, {"v3": 100}.items())
    assert allot(promoted, {"v2": 500, "v3": 100}.items()) == before


# ---------------------------------------------------------------- routes


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, HUNDRED_PERCENT)), max_size=20))
def test_with_one_canary_the_smaller_share_lies_in_the_larger(changes: list[tuple[bool, int]]) -> None:
    """Whichever came first and however they changed."""
    general: Ring = ()
    route: Ring = ()
    for in_route, share in changes:
        if in_route:
            route = allot_route(route, general, [("v2", share)])
        else:
            general = allot(general, [("v2", share)])
        smaller, larger = sorted((places(cells(general), "v2"), places(cells(route), "v2")), key=len)
        assert smaller <= larger


@settings(max_examples=100, deadline=None)
@given(st.lists(shares(), max_size=6), shares())
def test_a_new_route_gives_each_version_its_general_users_first(
    sequence: list[dict[str, int]], wanted: dict[str, int]
) -> None:
    general: Ring = ()
    for one in sequence:
        general = allot(general, one.items())
    route = cells(allot_route((), general, wanted.items()))
    for version, share in wanted.items():
        mine, theirs = places(route, version), places(cells(general), version)
        assert len(mine) == share
        assert len(mine & theirs) == min(len(mine), len(theirs))


def test_a_route_takes_what_others_have_in_the_general_ring_last_of_all() -> None:
    general = (Slot("v4", 100, held=False), Slot("v3", 500))
    route = cells(allot_route((), general, [("v2", 9_500)]))
    assert places(route, STABLE) == set(range(100, 600))


def test_a_version_that_outgrows_its_general_users_leaves_the_others_theirs() -> None:
    """v2 takes from v3 and v4 what they do not need, not what comes first."""
    general = allot((), {"v2": 2000, "v3": 4000, "v4": 4000}.items())
    wanted = {"v2": 4000, "v3": 3000, "v4": 3000}
    route = cells(allot_route((), general, wanted.items()))
    kept = {version: len(places(route, version) & places(cells(general), version)) for version in wanted}
    assert kept == {"v2": 2000, "v3": 3000, "v4": 3000}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(shares(), shares()), min_size=1, max_size=15))
def test_a_route_moves_the_fewest_whatever_the_general_ring_does(
    sequence: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    general: Ring = ()
    route: Ring = ()
    had: Shares = {}
    for everybody, wanted in sequence:
        general = allot(general, everybody.items())
        before, route = cells(route), allot_route(route, general, wanted.items())
        assert dict(shares_of(route)) == wanted
        assert moves(before, cells(route)).total() == moved_at_least(had, wanted)
        had = wanted


def test_a_canary_that_follows_another_has_its_general_users_in_the_route_too() -> None:
    general = allot(allot((), [("v2", 500)]), [("v3", 500)])
    route = allot_route((), allot((), [("v2", 500)]), [("v2", 2000)])
    route = allot_route(route, general, [("v3", 2000)])
    assert places(cells(general), "v3") == set(range(500, 1000))
    assert places(cells(route), "v3") >= set(range(2000, 4000)), "without need nobody moves from v2 to v3"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("wanted", [{"v2": -1}, {"v2": 6000, "v3": 4001}])
def test_shares_that_no_ring_can_hold_are_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="hundredths"):
        allot((), wanted.items())


@pytest.mark.parametrize("ring", [(Slot("v2", 10_001),), (Slot("v2", 0),), (Slot("v2", 6000), Slot("v3", 5000))])
def test_a_ring_that_is_none_is_refused(ring: Ring) -> None:
    with pytest.raises(ValueError, match="slots"):
        allot(ring, [("v2", 1)])
