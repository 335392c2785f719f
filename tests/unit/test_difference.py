"""What changes for whom: every change of a policy is a sentence, and the users who move are counted by the rings."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grayctl.model.release import InForce, Live, Ring
from grayctl.policy.difference import difference, moves
from grayctl.policy.document import read_release
from grayctl.policy.live import follow, revision_of
from grayctl.policy.slots import allot

BASE = "service: shop\nstable: v1\n"


def in_force(text: str, before: InForce | None = None) -> InForce:
    release = read_release(text, "shop.yaml")
    live = follow(release, revision_of(text.encode()), before.live if before else None, lambda: "salt")
    return InForce(release, live)


def changes(before: str, after: str) -> list[str]:
    old = in_force(before)
    return list(difference(old, in_force(after, old)))


def test_nothing_is_said_where_nothing_changes() -> None:
    assert changes(BASE + "traffic: {v2: 5}", BASE + "# five\ntraffic:\n  v2: 5.0%") == []


def test_a_new_release_is_told_whole() -> None:
    vip = "{name: vip, match: {header: {X-Tag: vip}}, to: v3}"
    routes = f"routes: [{vip}, {{name: ios, match: {{device: ios}}, traffic: {{v2: 20}}}}]"
    assert list(difference(None, in_force(f"{BASE}traffic: {{v2: 5}}\n{routes}\nbalance: least_conn"))) == [
        "the release is new: v1 gets every request that nothing else claims",
        "traffic: v2 5% of all users",
        'route vip: added as number 1: where header("X-Tag") in ["vip"] holds, v3',
        'route ios: added as number 2: where device in ["ios"] holds, v2 20%, the rest v1',
        "balance: round_robin -> least_conn",
    ]


def test_the_end_of_a_release_is_told() -> None:
    assert difference(in_force(BASE), None) == (
        "the release ends: all healthy instances share the requests by their weights, whatever their version",
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "traffic: {v2: 5}", ["traffic: none -> v2 5% of all users", "5% of all users move from v1 to v2"]),
        (
            "traffic: {v2: 5, v3: 10}",
            "traffic: {v2: 0.5, v3: 12}",
            [
                "traffic: v2 5%, v3 10% -> v2 0.5%, v3 12% of all users",
                "4.5% of all users move from v2 to v1",
                "2% of all users move from v1 to v3",
            ],
        ),
        (
            "identity: none\ntraffic: {v2: 5}",
            "identity: none\ntraffic: {v2: 6}",
            ["traffic: v2 5% -> v2 6% of all requests", "1% of all requests move from v1 to v2"],
        ),
        (
            "traffic: {v2: 5}",
            "identity: [{header: X-User-ID}, client_ip]\ntraffic: {v2: 6}",
            [
                'identity: client_ip -> header("X-User-ID"), client_ip',
                "every user is placed anew, and may change the version",
                "traffic: v2 5% -> v2 6% of all users",
            ],
        ),
        ("", "identity: [{cookie: uid}]", ['identity: client_ip -> cookie("uid")']),
        (
            "traffic: {v2: 5}",
            "traffic: weights",
            ["traffic: by the instances' weights", "traffic: v2 5% -> none of all users"],
        ),
        ("traffic: weights", "", ["traffic: by the instances' weights no more"]),
        (
            "routes: [{name: a, match: {path: /a}, to: v2}, {name: b, match: {path: /b}, to: v3}]",
            "routes: [{name: b, match: {path: /b}, traffic: {v2: 20}}, {name: a, match: {path: /x}, to: v2}]",
            [
                "route b: v3 -> v2 20%",
                'route a: path in ["/a"] -> path in ["/x"]',
                "routes are asked in another order: b, a",
            ],
        ),
        (
            "routes: [{name: a, match: {path: /a}, traffic: {v2: 20}}]",
            "routes: [{name: a, match: {path: /a}, traffic: {v2: 30}}]",
            ["route a: v2 20% -> v2 30%", "route a: 10% of all users move from v1 to v2"],
        ),
        (
            "routes: [{name: a, match: {path: /a}, to: v2}]",
            "",
            ['route a: removed: where path in ["/a"] holds, v2'],
        ),
        (
            "",
            "explicit: {header: X-V, versions: [v1, v2], from: [10.0.0.0/8], unknown: reject}",
            ['explicit: none -> header("X-V") names v1, v2 from 10.0.0.0/8, unknown: reject'],
        ),
        (
            "",
            "blue_green: {preview: v2, match: {header: {X-P: '1'}}}",
            ['blue_green: none -> v2 where header("X-P") in ["1"] holds'],
        ),
        (
            "regions: {east: [10.1.0.0/16], west: [10.2.0.0/16]}",
            "regions: {east: [10.1.0.0/16], west: [10.3.0.0/16]}",
            ["regions: west changed"],
        ),
        (
            "upstream: {max_fails: 3}",
            "upstream: {keepalive: 8}\nwhen_empty: reject\nprotocol: grpc",
            [
                "protocol: http -> grpc",
                "upstream: keepalive 32 -> 8, max_fails 3 -> 1",
                "when_empty: keep_last -> reject",
            ],
        ),
        ("", "balance: {hash: $request_uri}", ["balance: round_robin -> hash $request_uri"]),
    ],
)
def test_each_change_is_a_sentence(before: str, after: str, expected: list[str]) -> None:
    assert changes(BASE + before, BASE + after) == expected


def test_a_promotion_says_who_moves() -> None:
    assert changes(BASE + "traffic: {v2: 25, v3: 5}", "service: shop\nstable: v2\ntraffic: {v3: 5}") == [
        "stable: v1 -> v2",
        "traffic: v2 25%, v3 5% -> v3 5% of all users",
        "70% of all users move from v1 to v2",
    ]


def test_shares_with_a_salt_of_their_own_place_every_user_anew() -> None:
    old, new = in_force(BASE + "traffic: {v2: 5}"), in_force(BASE + "traffic: {v2: 10}")
    other = msgspec.structs.replace(new, live=msgspec.structs.replace(new.live, salt="another"))
    assert difference(old, other) == (
        "every user is placed anew, and may change the version",
        "traffic: v2 5% -> v2 10% of all users",
    )


def test_a_long_condition_is_cut() -> None:
    routes = f"routes: [{{name: a, match: {{path: [{', '.join(f'/p{n}' for n in range(999))}]}}, to: v2}}]"
    (sentence,) = changes(BASE, f"{BASE}{routes}")
    assert len(sentence) < 250
    assert "..." in sentence


SHARES = st.dictionaries(st.sampled_from(["v2", "v3", "v4"]), st.integers(1, 3000), max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(SHARES, min_size=2, max_size=6), st.sampled_from(["v1", "v5"]))
def test_who_moves_is_counted_place_by_place(sequence: list[dict[str, int]], stable: str) -> None:
    ring: Ring = ()
    rings = [ring := allot(ring, shares.items()) for shares in sequence]
    before, after = Live("", "s", "v1", rings[-2]), Live("", "s", stable, rings[-1])
    places = [
        [slot.owner if slot.held else live.stable for slot in live.ring for _ in range(slot.width)]
        + [live.stable] * (10_000 - sum(slot.width for slot in live.ring))
        for live in (before, after)
    ]
    pairs = Counter(zip(*places, strict=True))
    assert {(old, new): width for old, new, width in moves(before, after)} == {
        pair: count for pair, count in pairs.items() if pair[0] != pair[1]
    }
