"""Releases over a real Consul: nobody's change is lost, every text and every act is kept, all in one transaction."""

import asyncio
import getpass
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from grayctl.consul.client import ConsulClient
from grayctl.consul.releases import (
    KEPT_ACTS,
    Change,
    Conflict,
    Stored,
    Written,
    audit,
    author,
    get_release,
    history,
    list_releases,
    portions,
    version,
    write_releases,
)
from grayctl.errors import ConsulProtocolError, ConsulTooLarge, ConsulUnreachable
from grayctl.model.history import Act, Action
from grayctl.model.release import Live, Slot
from grayctl.policy.document import LARGEST
from grayctl.policy.live import Ended, decode_live, encode_live, revision_of
from grayctl.settings import ConsulSettings
from tests.support.consul import Consul
from tests.support.scripted import answer, script, scripted

NOW = 1_800_000_000.25
ACT = Act(author="ann", reason="why not", trace_id="t1", time=NOW)


def act(number: int) -> Act:
    return Act(author="ann", reason="", trace_id=f"t{number}", time=NOW + number)


def live_of(text: bytes, width: int = 500) -> Live:
    return Live(revision=revision_of(text), salt="abc", stable="v1", ring=(Slot("v2", width),))


def applying(seen: Stored, text: bytes, action: Action = Action.APPLY) -> Change:
    return Change(seen, action, text, live_of(text))


@pytest.fixture
async def client(consul: Consul, unique: str) -> AsyncIterator[ConsulClient]:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        yield client


async def apply(client: ConsulClient, text: bytes, by: Act = ACT, service: str = "shop") -> int:
    """Read, then write; the version's number."""
    written = await write_releases(client, [applying(await get_release(client, service), text)], by)
    assert isinstance(written, Written), written
    return written.numbers[0]


async def test_a_policy_its_live_record_its_history_and_its_audit_are_one(client: ConsulClient, unique: str) -> None:
    assert await get_release(client, "shop") == Stored("shop", None, None)
    assert await apply(client, b"stable: v1\n") == 1
    stored = await get_release(client, "shop")
    assert stored.policy is not None
    assert stored.live is not None
    assert stored.policy.value == b"stable: v1\n"
    assert decode_live(stored.live.key, stored.live.value) == live_of(b"stable: v1\n")
    assert stored.policy.key == f"{unique}/releases/shop"
    assert stored.live.key == f"{unique}/live/shop"
    assert stored.policy.modify_index == stored.live.modify_index, "one transaction"
    (kept,) = await history(client, "shop")
    assert (kept.number, kept.action, kept.text, kept.act) == (1, Action.APPLY, "stable: v1\n", ACT)
    assert kept.revision == stored.revision == revision_of(b"stable: v1\n")
    (done,) = await audit(client, "shop")
    assert (done.service, done.action, done.number, done.revision, done.act) == (
        "shop", Action.APPLY, 1, stored.revision, ACT
    )  # fmt: skip
    assert await client.keys(f"{unique}/") == (
        f"{unique}/audit/shop/20270115T080000.250000Z-000001-t1",
        f"{unique}/history/shop/000001",
        f"{unique}/live/shop",
        f"{unique}/releases/shop",
    )


async def test_of_two_writers_at_once_exactly_one_wins(client: ConsulClient) -> None:
    """Ten times, from nothing and from a policy that stands; the loser changes nothing, not even the history."""
    for turn in range(10):
        seen = await get_release(client, "shop")
        texts = f"stable: a{turn}".encode(), f"stable: b{turn}".encode()
        both = [write_releases(client, [applying(seen, text)], act(turn)) for text in texts]
        first, second = await asyncio.gather(*both)
        won = 0 if isinstance(first, Written) else 1
        lost = (first, second)[1 - won]
        assert isinstance(lost, Conflict)
        assert "/releases/shop" in lost.message
        stored = await get_release(client, "shop")
        assert stored.policy is not None
        assert stored.live is not None
        assert stored.policy.value == texts[won]
        assert stored.live.value == encode_live(live_of(texts[won]))
        assert [one.number for one in await history(client, "shop")] == list(range(1, turn + 2))
        assert len(await audit(client, "shop")) == turn + 1


async def test_a_live_record_that_changed_meanwhile_is_a_conflict_too(client: ConsulClient, consul: Consul) -> None:
    await apply(client, b"one")
    seen = await get_release(client, "shop")
    assert seen.live is not None
    consul.put(seen.live.key, encode_live(live_of(b"one", 700)))
    found = await write_releases(client, [applying(seen, b"two")], ACT)
    assert found == Conflict((seen.live.key,))
    unchanged = await get_release(client, "shop")
    assert unchanged.policy == seen.policy


async def test_several_services_change_together_or_not_at_all(
    client: ConsulClient, consul: Consul, unique: str
) -> None:
    seen = [await get_release(client, service) for service in ("cart", "shop", "till")]
    consul.put(f"{unique}/releases/shop", "edited meanwhile")
    found = await write_releases(client, [applying(one, b"stable: v1") for one in seen], ACT)
    assert found == Conflict((f"{unique}/releases/shop",))
    assert [one.service for one in await list_releases(client)] == ["shop"]
    seen = [await get_release(client, service) for service in ("cart", "shop", "till")]
    found = await write_releases(client, [applying(one, b"stable: v1") for one in seen], ACT)
    assert found == Written((1, 2, 1)), "what was edited by hand is the shop's first version"
    assert [one.service for one in await list_releases(client)] == ["cart", "shop", "till"]
    assert all(one.live is not None for one in await list_releases(client))
    assert len(await audit(client)) == 4


async def test_an_edit_by_hand_is_kept_before_it_is_replaced_or_deleted(
    client: ConsulClient, consul: Consul, unique: str
) -> None:
    await apply(client, b"one", act(1))
    consul.put(f"{unique}/releases/shop", "edited")
    assert await apply(client, b"two", act(2)) == 3
    consul.put(f"{unique}/releases/shop", b"\xff edited")
    change = Change(await get_release(client, "shop"), Action.DELETE)
    assert await write_releases(client, [change], act(3)) == Written((5,))
    found = [(one.action, one.text, one.act.author) for one in await history(client, "shop")]
    assert found == [
        (Action.APPLY, "one", "ann"),
        (Action.EDIT, "edited", ""),
        (Action.APPLY, "two", "ann"),
        (Action.EDIT, "\N{REPLACEMENT CHARACTER} edited", ""),
        (Action.DELETE, "", "ann"),
    ]
    assert [one.number for one in await audit(client, "shop")] == [1, 2, 3, 4, 5]


async def test_an_edit_by_hand_is_adopted_by_writing_the_live_record_alone(
    client: ConsulClient, consul: Consul, unique: str
) -> None:
    consul.put(f"{unique}/releases/shop", "stable: v1")
    seen = await get_release(client, "shop")
    assert await write_releases(client, [applying(seen, b"stable: v1", Action.EDIT)], ACT) == Written((1,))
    adopted = await get_release(client, "shop")
    assert adopted.policy == seen.policy, "the policy itself is not touched"
    assert adopted.live is not None
    assert [one.action for one in await history(client, "shop")] == [Action.EDIT]
    consul.put(f"{unique}/releases/shop", "stable: v2")
    late = await write_releases(client, [applying(adopted, b"stable: v1", Action.EDIT)], act(2))
    assert late == Conflict((f"{unique}/releases/shop",)), "it changed while it was being adopted"


async def test_the_same_text_again_is_an_act_but_no_version(client: ConsulClient) -> None:
    assert [await apply(client, text, act(n)) for n, text in enumerate([b"one", b"one", b"two", b"two"])] == [
        1,
        1,
        2,
        2,
    ]
    assert [one.text for one in await history(client, "shop")] == ["one", "two"]
    assert [one.number for one in await audit(client, "shop")] == [1, 1, 2, 2]


async def test_deleting_ends_the_release_and_a_new_release_goes_on_counting(client: ConsulClient, unique: str) -> None:
    await apply(client, b"one")
    stale = await get_release(client, "shop")
    await apply(client, b"two", act(2))
    deletion = Change(stale, Action.DELETE)
    refused = await write_releases(client, [deletion], act(3))
    assert isinstance(refused, Conflict)
    deletion = Change(await get_release(client, "shop"), Action.DELETE)
    assert await write_releases(client, [deletion], act(4)) == Written((3,))
    ended = await get_release(client, "shop")
    assert (ended.policy, ended.nothing) == (None, True)
    assert ended.live is not None, "whoever follows the release must learn that it has ended on purpose"
    assert isinstance(decode_live(ended.live.key, ended.live.value), Ended)
    assert await list_releases(client) == (ended,)
    assert [(one.action, one.revision) for one in (await audit(client, "shop"))[-1:]] == [(Action.DELETE, "")]
    assert await apply(client, b"two", act(5)) == 4
    assert len(await client.keys(f"{unique}/history/shop/")) == 4


async def test_a_rollback_is_an_apply_of_an_old_text(client: ConsulClient) -> None:
    for number, text in enumerate([b"one", b"two"], 1):
        await apply(client, text, act(number))
    old = await version(client, "shop", 1)
    assert old is not None
    change = applying(await get_release(client, "shop"), old.text.encode(), Action.ROLLBACK)
    assert await write_releases(client, [change], act(3)) == Written((3,))
    assert [(one.action, one.text) for one in await history(client, "shop")] == [
        (Action.APPLY, "one"),
        (Action.APPLY, "two"),
        (Action.ROLLBACK, "one"),
    ]
    assert await version(client, "shop", 4) is None


async def test_the_last_50_versions_are_kept_and_the_acts_of_90_days(
    client: ConsulClient, consul: Consul, unique: str
) -> None:
    """What stands below the history and is no version, or belongs to a service below, is left alone."""
    for number in range(1, 70):
        text = json.dumps({"number": number, "action": "apply", "revision": "", "text": str(number), "act": _json(ACT)})
        consul.put(f"{unique}/history/shop/{number:06d}", text)
    entry = {"service": "shop", "action": "apply", "number": 1, "revision": "", "act": _json(ACT)}
    for key in ("20200101T000000.000000Z-000001-old", "20260101T000000.000000Z-000001-old", "below/20200101"):
        consul.put(f"{unique}/audit/shop/{key}", json.dumps(entry))
    edge = act(1 - int(KEPT_ACTS))
    await apply(client, b"on the edge", edge, service="till")
    for key in await client.keys(f"{unique}/audit/till/"):
        consul.put(key.replace("till", "shop"), json.dumps(entry))
    assert await apply(client, b"newest", act(1)) == 70
    assert await apply(client, b"newer still", act(2)) == 71
    assert await apply(client, b"the last", act(3)) == 72
    numbers = [one.number for one in await history(client, "shop")]
    assert numbers == list(range(23, 73)), "20 + 3 too many go in three steps of at most 8"
    acts = await client.keys(f"{unique}/audit/shop/")
    assert [key.rpartition("/")[2] for key in acts if "-old" in key] == []
    assert f"{unique}/audit/shop/below/20200101" in acts
    assert len(acts) == 5, "the one within 90 days, the one below, and three new ones"


def _json(value: Act) -> dict[str, Any]:
    return {"author": value.author, "reason": value.reason, "trace_id": value.trace_id, "time": value.time}


async def test_the_largest_policy_fits_in_one_transaction_and_so_do_its_edits(
    client: ConsulClient, consul: Consul, unique: str
) -> None:
    """A policy of 128 KiB replaces one of 128 KiB that was edited by hand."""
    line = b'when: header("X-Age") > 18\n'
    text = (line * (LARGEST // len(line) + 1))[:LARGEST]
    assert await apply(client, text) == 1
    consul.put(f"{unique}/releases/shop", text[::-1])
    assert await apply(client, text, act(2)) == 3
    assert [len(one.text) for one in await history(client, "shop")] == [LARGEST] * 3


async def test_what_no_transaction_holds_is_refused_and_portions_hold_it(client: ConsulClient, unique: str) -> None:
    text = b"x" * 100_000
    changes = [applying(await get_release(client, f"shop-{number}"), text) for number in range(4)]
    with pytest.raises(ConsulTooLarge, match=f"{unique}/releases/shop-0 and 15 more keys: 16 operations"):
        await write_releases(client, changes, ACT)
    assert await list_releases(client) == ()
    parts = portions(changes)
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    small = [applying(Stored(f"shop-{number}", None, None), b"stable: v1") for number in range(40)]
    assert [len(part) for part in portions(small)] == [16, 16, 8]
    for part in portions(small):
        assert isinstance(await write_releases(client, part, ACT), Written)
    with pytest.raises(ConsulTooLarge, match="68 operations"):
        await write_releases(client, [applying(await get_release(client, f"s{n}"), b"x") for n in range(17)], ACT)


async def test_names_that_begin_alike_do_not_meet(client: ConsulClient) -> None:
    for service in ("shop", "shop-admin", "shop/admin", "löwe & söhne"):
        assert await apply(client, service.encode(), service=service) == 1
    for service in ("shop", "shop-admin", "shop/admin", "löwe & söhne"):
        assert [one.text for one in await history(client, service)] == [service]
        assert [one.service for one in await audit(client, service)] == [service]
    assert [one.service for one in await list_releases(client)] == sorted(
        ["shop", "shop-admin", "shop/admin", "löwe & söhne"]
    )


async def test_an_entry_that_grayctl_did_not_write_is_named(client: ConsulClient, consul: Consul, unique: str) -> None:
    consul.put(f"{unique}/history/shop/000001", "{}")
    with pytest.raises(ConsulProtocolError, match=rf"{unique}/history/shop/000001: .* Delete the key"):
        await history(client, "shop")


async def test_without_acls_the_author_is_the_user_of_the_machine(client: ConsulClient) -> None:
    assert await author(client) == getpass.getuser()


async def test_a_write_whose_answer_is_lost_is_not_tried_again(unique: str) -> None:
    async with scripted() as fake:
        fake.handlers["/v1/txn"] = script(answer({"Errors": []}, 1, status=409))
        async with ConsulClient(ConsulSettings(address=fake.address, prefix=unique), connections=2) as client:
            with pytest.raises(ConsulProtocolError, match=f"{unique}/releases/shop: Consul refused the transaction"):
                await write_releases(client, [applying(Stored("shop", None, None), b"x")], ACT)
        settings = ConsulSettings(address=fake.address, prefix=unique, read_timeout=0.2)  # type: ignore[arg-type]  # -- a Duration is a float
        async with ConsulClient(settings, connections=2) as client:
            with pytest.raises(ConsulUnreachable):
                await write_releases(client, [applying(Stored("shop", None, None), b"x")], ACT)
        assert len(fake.queries("/v1/txn")) == 2
