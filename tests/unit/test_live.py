"""Live records: the salt, the rings and stable follow the policy; what is stored is read back or refused."""

import hashlib
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.model.catalog import Entry
from grayctl.model.release import All, Live, Release, Route, Slot
from grayctl.policy.live import Unreadable, decode_live, encode_ended, encode_live, follow, is_half, revision_of
from grayctl.policy.slots import allot

REVISION = revision_of(b"stable: v1")
KEY = "grayctl/live/shop"
Shares = dict[str, int]


def salts() -> Callable[[], str]:
    """salt1, salt2, ..."""
    numbers = count(1)
    return lambda: f"salt{next(numbers)}"


def release(shares: Shares | None = None, *, stable: str = "v1", **routes: Shares | str) -> Release:
    """A policy with general shares, and routes that give shares or lead to one version."""
    return Release(
        service="shop",
        stable=stable,
        shares=tuple(sorted((shares or {}).items())),
        routes=tuple(
            Route(name, All(()), to=to) if isinstance(to, str) else Route(name, All(()), shares=tuple(to.items()))
            for name, to in routes.items()
        ),
    )


def test_a_revision_is_the_hash_of_every_byte() -> None:
    assert revision_of(b"stable: v1") == hashlib.sha256(b"stable: v1").hexdigest()[:16]
    assert revision_of(b"stable: v1\n") != revision_of(b"stable: v1")


def test_without_shares_there_is_no_salt_and_no_ring() -> None:
    live = follow(release({"v2": 0}, to_v2="v2"), REVISION, None, lambda: pytest.fail("no salt is needed"))
    assert live == Live(revision=REVISION, salt="", stable="v1")


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([release({"v2": 500}), release({"v2": 1000}), release({"v2": 500, "v3": 100})], "1 1 1"),
        ([release({"v2": 500}), release(), release({"v2": 500})], "1 1 2"),
        ([release({"v2": 500}), release({"v2": 0}), release({"v2": 500})], "1 1 2"),
        ([release(), release(vip={"v2": 100}), release({"v2": 500}, vip={"v2": 100})], " 1 1"),
        ([release(vip={"v2": 100}), release({"v2": 500})], "1 1"),
        ([release(vip={"v2": 100}), release(vip="v2"), release(vip={"v2": 100})], "1 1 2"),
        ([release({"v2": 500}), release({"v3": 500}), release({"v3": 500}, stable="v2")], "1 1 1"),
        ([release({"v2": 500}), release(stable="v2"), release({"v3": 1}, stable="v2")], "1 1 2"),
    ],
)
def test_the_salt_is_drawn_with_a_first_share_and_kept_while_there_is_one(
    policies: list[Release], expected: str
) -> None:
    draw, live, found = salts(), None, []
    for policy in policies:
        live = follow(policy, REVISION, live, draw)
        found.append(live.salt.removeprefix("salt"))
    assert found == expected.split(" ")


def test_a_new_salt_begins_with_an_empty_ring() -> None:
    """The old places were places of other users."""
    draw = salts()
    live = follow(release({"v2": 500, "v3": 500}, vip={"v3": 1000}), REVISION, None, draw)
    live = follow(release(), REVISION, live, draw)
    assert (live.ring, live.route_rings) == ((), ())
    live = follow(release({"v3": 100}), REVISION, live, draw)
    assert live == Live(revision=REVISION, salt="salt2", stable="v1", ring=(Slot("v3", 100),))


def test_stable_and_revision_are_the_policys_and_the_ring_goes_on() -> None:
    draw = salts()
    first = follow(release({"v2": 500, "v3": 500}), REVISION, None, draw)
    other = revision_of(b"other")
    promoted = follow(release({"v3": 500}, stable="v2"), other, first, draw)
    assert (promoted.revision, promoted.stable, promoted.salt) == (other, "v2", first.salt)
    assert promoted.ring == (Slot("v2", 500, held=False), Slot("v3", 500))
    assert promoted.ring == allot(first.ring, [("v3", 500)])


def test_a_routes_share_contains_the_general_users_and_stays_where_it_is() -> None:
    draw = salts()
    live = follow(release({"v2": 500, "v3": 500}, vip={"v3": 2000}), REVISION, None, draw)
    assert dict(live.route_rings) == {"vip": (Slot("", 500, held=False), Slot("v3", 2000))}
    route = dict(live.route_rings)["vip"]
    live = follow(release({"v2": 3000}, vip={"v3": 2000}, beta={"v2": 100}), REVISION, live, draw)
    assert dict(live.route_rings) == {"beta": (Slot("v2", 100),), "vip": route}
    live = follow(release({"v2": 3000}, vip="v3", beta={"v2": 0}), REVISION, live, draw)
    assert dict(live.route_rings) == {"beta": (Slot("v2", 100, held=False),)}


def test_the_order_of_routes_does_not_matter() -> None:
    one = follow(release({"v2": 5}, a={"v2": 10}, b={"v2": 20}), REVISION, None, salts())
    other = follow(release({"v2": 5}, b={"v2": 20}, a={"v2": 10}), REVISION, None, salts())
    assert one == other


# ---------------------------------------------------------------- as it is stored

VERSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", fullmatch=True)
SLOTS = st.one_of(
    st.builds(Slot, VERSIONS, st.integers(1, 500), st.booleans()),
    st.builds(Slot, st.just(""), st.integers(1, 500), st.just(value=False)),
)
RINGS = st.lists(SLOTS, max_size=20).map(tuple)
LIVES = st.builds(
    Live,
    revision=st.binary().map(revision_of),
    salt=st.from_regex(r"[A-Za-z0-9]{1,64}", fullmatch=True),
    stable=VERSIONS,
    ring=RINGS,
    route_rings=st.dictionaries(st.text(max_size=20), RINGS, max_size=5).map(
        lambda rings: tuple(sorted(rings.items()))
    ),
)


@given(LIVES)
def test_what_is_stored_is_read_back(live: Live) -> None:
    assert decode_live(KEY, encode_live(live)) == live


STORED: dict[str, Any] = {
    "format": 1,
    "revision": REVISION,
    "salt": "abc",
    "stable": "v1",
    "ring": [["v2", 500, True], ["v3", 500, False]],
    "route_rings": {"vip": [["", 10, False], ["v2", 10, True]]},
}


def test_the_stored_form_stays_as_it_is() -> None:
    live = Live(
        revision=REVISION,
        salt="abc",
        stable="v1",
        ring=(Slot("v2", 500), Slot("v3", 500, held=False)),
        route_rings=(("vip", (Slot("", 10, held=False), Slot("v2", 10))),),
    )
    assert msgspec.json.decode(encode_live(live)) == STORED
    assert decode_live(KEY, msgspec.json.encode(STORED)) == live


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2, "salt": ["new", "shape"]}, "format 2; this grayctl knows 1. Upgrade grayctl"),
        ({"format": "1"}, "Expected `int`, got `str` - at `$.format`"),
        ({"added": 1}, "unknown field `added`"),
        ({"revision": "xyz"}, "at `$.revision`"),
        ({"revision": REVISION + "\n"}, "at `$.revision`"),
        ({"salt": "a b"}, "at `$.salt`"),
        ({"salt": ""}, "there are shares and no salt"),
        ({"stable": ""}, "at `$.stable`"),
        ({"stable": "v1; }"}, "at `$.stable`"),
        ({"ring": [["v2", 0, True]]}, "at `$.ring[0]"),
        ({"ring": [["v2\n", 5, True]]}, "at `$.ring[0]"),
        ({"ring": [["v2", 5, True, "more"]]}, "length"),
        ({"ring": [["", 5, True]]}, "`ring` holds a slot for nobody"),
        ({"route_rings": {"vip": [["v2", 6000, True], ["v2", 4001, False]]}}, "`route_rings.vip` is wider than 10000"),
    ],
)
def test_a_record_that_is_not_understood_is_refused_whole_and_named(change: dict[str, Any], complaint: str) -> None:
    found = decode_live(KEY, msgspec.json.encode(STORED | change))
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(f"{KEY}: ")
    assert complaint in found.reason


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b"\xff\xfe", b'{"format": 1}', b"[1]"])
def test_what_is_no_record_at_all_is_refused(value: bytes) -> None:
    found = decode_live(KEY, value)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(f"{KEY}: this is no live record: ")
    assert found.reason.endswith("delete it, then apply the policy again")


# ---------------------------------------------------------------- which of the two is there

OLD, NEW = b"stable: v1", b"stable: v2"
OF = {text: encode_live(Live(revision_of(text), "", "v1")) for text in (OLD, NEW)}


def entry(value: bytes, index: int, kind: str = "releases", service: str = "shop") -> Entry:
    return Entry(key=f"grayctl/{kind}/{service}", value=value, modify_index=index)


def live(value: bytes, index: int, service: str = "shop") -> Entry:
    return entry(value, index, "live", service)


@pytest.mark.parametrize(
    ("policies", "lives", "half"),
    [
        ([], [], False),
        ([entry(OLD, 5)], [live(OF[OLD], 5)], False),
        ([entry(NEW, 6)], [live(OF[OLD], 5)], True),
        ([entry(OLD, 5)], [live(OF[NEW], 6)], True),
        ([entry(NEW, 6)], [live(OF[NEW], 7)], False),  # adopted, or a step of a rollout: nothing else will come
        ([entry(NEW, 6)], [live(b"{}", 5)], True),
        ([entry(NEW, 6)], [], True),
        ([], [live(OF[NEW], 6)], True),
        ([entry(OLD, 5)], [live(encode_ended(), 6)], True),
        ([], [live(encode_ended(), 6)], False),
        # another service's halves are older: nobody waits for them
        ([entry(NEW, 4, service="x-shop"), entry(OLD, 5)], [live(OF[OLD], 3, "x-shop"), live(OF[OLD], 5)], False),
        ([entry(NEW, 6, service="x-shop"), entry(OLD, 5)], [live(OF[OLD], 3, "x-shop"), live(OF[OLD], 5)], True),
    ],
)
def test_the_newest_of_policies_and_live_records_is_half_of_a_pair_or_whole(
    policies: list[Entry], lives: list[Entry], half: object
) -> None:
    assert is_half(policies, lives) == half
