"""Staged policies: who follows is decided by labels and a share of the nodes; a node follows all of it or nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.model.catalog import Entry
from grayctl.model.release import Live, Slot
from grayctl.policy.live import Unreadable, encode_ended, encode_live, revision_of
from grayctl.policy.staging import Scope, Staged, decode_staged, encode_staged, parse_scope
from grayctl.policy.standing import Here, Policies, Standing

KEY = "grayctl/staged/shop"
GENERAL = b"service: shop\nstable: v1"
TEXT = b"service: shop\nstable: v1\ntraffic: {v2: 5}"
NODES = [f"edge-{number}" for number in range(1000)]
FOLLOW_A_QUARTER = ["edge-6", "edge-12", "edge-18"]  # of the first 20, of shop


@pytest.mark.parametrize(
    ("words", "scope", "text"),
    [
        (["labels.env=staging"], Scope({"env": "staging"}), "labels.env=staging"),
        (["percent=10"], Scope(share=1000), "percent=10"),
        (["percent=0.5%"], Scope(share=50), "percent=0.5"),
        (["percent=100"], Scope(), "percent=100"),
        (
            ["labels.b=2=3", "percent=33.3", "labels.a="],
            Scope({"a": "", "b": "2=3"}, 3330),
            "labels.a=, labels.b=2=3, percent=33.3",
        ),
    ],
)
def test_a_scope_is_labels_and_a_share(words: list[str], scope: Scope, text: str) -> None:
    assert parse_scope(words) == scope
    assert scope.text == text
    assert parse_scope(text.split(", ")) == scope


@pytest.mark.parametrize(
    "words",
    [["percent=0"], ["percent=101"], ["percent=1.234"], ["percent=-5"], ["percent=5", "percent=6"], ["env=staging"],
     ["labels.=x"], ["labels.env=a", "labels.env=b"], [""]],
)  # fmt: skip
def test_what_is_no_scope_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"scope|percentage|label"):
        parse_scope(words)


def test_a_share_of_the_nodes_is_about_that_and_another_one_for_another_service() -> None:
    chosen = {
        service: {one for one in NODES if Scope(share=1000).covers(service, one, {})} for service in ("shop", "cart")
    }
    assert all(60 < len(some) < 140 for some in chosen.values()), "within five standard deviations of 100"
    assert chosen["shop"] != chosen["cart"]


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")))
def test_a_wider_scope_covers_all_that_it_covered(share: int, other: int, labels: dict[str, str]) -> None:
    narrow, wide = Scope(labels, min(share, other)), Scope(dict(list(labels.items())[:1]), max(share, other))
    assert wide.includes(narrow)
    assert narrow.includes(wide) == (narrow == wide)
    for node in NODES[:50]:
        assert wide.covers("shop", node, labels) >= narrow.covers("shop", node, labels)


def test_all_labels_must_be_there() -> None:
    scope = Scope({"env": "staging", "dc": "1"})
    assert scope.covers("shop", "edge-1", {"env": "staging", "dc": "1", "more": ""})
    assert not scope.covers("shop", "edge-1", {"env": "staging"})
    assert not scope.covers("shop", "edge-1", {"env": "staging", "dc": "2"})


# ---------------------------------------------------------------- as it is stored


def staged(text: bytes = TEXT, scope: Scope | None = None) -> Staged:
    return Staged(scope or Scope({"env": "staging"}), text, Live(revision_of(text), "abc", "v1", (Slot("v2", 500),)))


def test_what_is_stored_is_read_back() -> None:
    assert decode_staged(KEY, encode_staged(staged())) == staged()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "format 2; this grayctl knows 1. Upgrade grayctl"),
        ({"more": 1}, "unknown field `more`"),
        ({"scope": {"share": 0}}, "at `$.scope.share`"),
        ({"scope": {"zone": "x"}}, "unknown field `zone`"),
        ({"live": {}}, "this is no live record"),
        ({"live": {"format": 1, "ended": True}}, "says that it has ended"),
        ({"text": None}, "at `$.text`"),
    ],
)
def test_what_is_not_understood_is_refused_whole(change: dict[str, Any], complaint: str) -> None:
    found = decode_staged(KEY, msgspec.json.encode(msgspec.json.decode(encode_staged(staged())) | change))
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(f"{KEY}: ")
    assert complaint in found.reason


# ---------------------------------------------------------------- who follows


def judge(policies: Policies, kv: dict[str, bytes], env: str = "staging") -> Standing:
    """What stands for a node with this label; `kv` is name -> the value for the service shop."""
    entries = {name: (Entry(key=f"grayctl/{name}/shop", value=value, modify_index=1),) for name, value in kv.items()}
    return policies.judge(entries, Here("edge-1", {"env": env}))


GENERAL_KV = {"releases": GENERAL, "live": encode_live(Live(revision_of(GENERAL), "", "v1"))}


def test_only_a_node_in_scope_follows() -> None:
    found = {
        env: judge(Policies({}), GENERAL_KV | {"staged": encode_staged(staged())}, env).in_force
        for env in ("staging", "prod")
    }
    assert found["staging"]["shop"].live == staged().live
    assert found["staging"]["shop"].release.shares == (("v2", 500),)
    assert found["prod"]["shop"].release.shares == ()


def test_a_node_that_is_not_known_follows_nothing_staged() -> None:
    entries = (Entry(key=KEY, value=encode_staged(staged(scope=Scope())), modify_index=1),)
    assert Policies({}).judge({"staged": entries}).in_force == {}


def test_when_it_is_taken_back_the_release_is_followed_again() -> None:
    policies = Policies({})
    first = judge(policies, GENERAL_KV | {"staged": encode_staged(staged())}).in_force
    assert judge(policies, GENERAL_KV | {"staged": encode_staged(staged())}).in_force["shop"] is first["shop"]
    assert judge(policies, GENERAL_KV).in_force["shop"].release.shares == ()


@pytest.mark.parametrize("broken", [b"{}", encode_staged(staged(b"service: shop\nstable: [v1"))])
def test_one_that_breaks_changes_nothing_and_is_named(broken: bytes) -> None:
    policies = Policies({})
    judge(policies, GENERAL_KV | {"staged": encode_staged(staged())})
    found = judge(policies, GENERAL_KV | {"staged": broken})
    assert found.in_force["shop"].release.shares == (("v2", 500),)
    assert found.problems["shop"].startswith(KEY)
    fresh = judge(Policies({}), GENERAL_KV | {"staged": broken})
    assert fresh.in_force["shop"].release.shares == ()
    assert fresh.problems.keys() == {"shop"}


# ---------------------------------------------------------------- what Consul may lose, and a daemon forget


STAGED_KV = {"staged": encode_staged(staged())}
LIVE_KV = {"live": GENERAL_KV["live"]}
ENDED_KV = {"live": encode_ended()}
GENERAL_SHARES, STAGED_SHARES = (), (("v2", 500),)


@pytest.mark.parametrize(
    ("first", "then", "shares"),
    [
        (GENERAL_KV, GENERAL_KV, GENERAL_SHARES),
        (GENERAL_KV, LIVE_KV, GENERAL_SHARES),
        (GENERAL_KV, {}, STAGED_SHARES),
        (GENERAL_KV, {"releases": GENERAL}, STAGED_SHARES),
        ({}, {}, STAGED_SHARES),
        ({}, {"releases": b"no policy", **LIVE_KV}, STAGED_SHARES),
        ({}, GENERAL_KV, GENERAL_SHARES),
    ],
    ids=["release", "release-gone-by-hand", "all-lost", "live-lost", "no-release", "broken-release", "new-release"],
)
def test_what_was_staged_gives_way_only_to_a_release(
    first: dict[str, bytes], then: dict[str, bytes], shares: tuple[tuple[str, int], ...]
) -> None:
    policies = Policies({})
    judge(policies, first | STAGED_KV)
    found = judge(policies, then)
    assert found.in_force["shop"].release.shares == shares
    assert ("shop" in found.problems) == (then is not GENERAL_KV)
    assert (found.kept == ("shop",)) == ("releases" not in then)
    again = judge(policies, first | STAGED_KV)
    assert again.in_force["shop"].release.shares == STAGED_SHARES, "it is back"


def test_what_was_staged_goes_where_there_is_no_release_when_that_is_meant() -> None:
    policies = Policies({})
    assert not judge(policies, STAGED_KV).problems
    found = judge(policies, ENDED_KV)
    assert (found.in_force, found.problems, found.kept) == ({}, {}, ())


def test_a_restart_changes_nothing_where_what_is_staged_is_broken() -> None:
    served = judge(Policies({}), GENERAL_KV | STAGED_KV).in_force
    after = Policies(served)
    for _ in range(2):
        found = judge(after, GENERAL_KV | {"staged": b"{}"})
        assert found.in_force == served
        assert found.problems["shop"].startswith(KEY)
    assert judge(after, GENERAL_KV).in_force["shop"].release.shares == GENERAL_SHARES


def test_a_node_beyond_the_scope_follows_the_release_on_after_a_restart_where_what_is_staged_is_broken() -> None:
    after = Policies(judge(Policies({}), GENERAL_KV).in_force)
    judge(after, GENERAL_KV | {"staged": b"{}"})
    newer = {"releases": TEXT, "live": encode_live(staged().live)}
    assert judge(after, newer | {"staged": b"{}"}).in_force["shop"].release.shares == STAGED_SHARES


def test_a_service_with_nothing_but_a_staged_policy_misses_no_release_after_a_restart() -> None:
    served = judge(Policies({}), STAGED_KV).in_force
    after = Policies(served)
    found = judge(after, STAGED_KV)
    assert (found.in_force, found.problems) == (served, {})
    found = judge(after, {})
    assert found.in_force == served
    assert "what was staged for it is gone from Consul" in found.problems["shop"]
    assert judge(after, ENDED_KV).in_force == {}


def test_each_node_says_for_whom_another_policy_is_staged() -> None:
    kv = GENERAL_KV | STAGED_KV
    said = {env: judge(Policies({}), kv, env).staged["shop"] for env in ("staging", "prod")}
    assert said == {
        "staging": "the policy that is staged for labels.env=staging is followed here",
        "prod": "the policy that is staged for labels.env=staging is not followed here",
    }
    assert judge(Policies({}), GENERAL_KV).staged == {}


def test_who_follows_is_the_same_in_every_process_and_version() -> None:
    scope = Scope(share=2500)
    assert [name for name in NODES[:20] if scope.covers("shop", name, {})] == FOLLOW_A_QUARTER
