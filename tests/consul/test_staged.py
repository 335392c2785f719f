"""Staging over a real Consul: by check-and-set, with the audit; whoever comes second is told and changes nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from grayctl.consul.client import ConsulClient
from grayctl.consul.releases import Change, Conflict, Stored, Written, audit, get_release, history, write_releases
from grayctl.consul.staged import discard, get_staged, list_staged, promote, write_staged
from grayctl.model.catalog import Entry
from grayctl.model.history import Act, Action
from grayctl.model.release import Live
from grayctl.policy.live import revision_of
from grayctl.policy.staging import Scope, Staged, decode_staged
from grayctl.settings import ConsulSettings
from tests.support.consul import Consul


@pytest.fixture
async def client(consul: Consul, unique: str) -> AsyncIterator[ConsulClient]:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        yield client


def act(number: int) -> Act:
    return Act(author="ann", reason="", trace_id=f"t{number}", time=1_800_000_000.0 + number)


def staged(text: bytes) -> Staged:
    return Staged(Scope(share=1000), text, Live(revision_of(text), "", "v1"))


def change(text: bytes, seen: Stored) -> Change:
    return Change(seen, Action.PROMOTE, text, Live(revision_of(text), "", "v1"))


async def stage(client: ConsulClient, text: bytes, number: int, seen: Entry | None) -> Conflict | None:
    return await write_staged(client, "shop", staged(text), Action.STAGE, act(number), seen=seen)


async def test_of_two_who_stage_at_once_one_wins(client: ConsulClient) -> None:
    for turn in range(5):
        seen = await get_staged(client, "shop")
        texts = [b"a%d" % turn, b"b%d" % turn]
        results = await asyncio.gather(*(stage(client, text, 2 * turn + n, seen) for n, text in enumerate(texts)))
        assert sorted(one is None for one in results) == [False, True]
        found = await get_staged(client, "shop")
        assert found is not None
        assert decode_staged(found.key, found.value) == staged(texts[results.index(None)])
    assert [one.action for one in await audit(client, "shop")] == [Action.STAGE] * 5
    assert (await list_staged(client)).keys() == {"shop"}


async def test_what_was_staged_anew_is_neither_promoted_nor_discarded_by_who_saw_the_old(client: ConsulClient) -> None:
    await stage(client, b"one", 1, None)
    old = await get_staged(client, "shop")
    assert old is not None
    await stage(client, b"two", 2, old)
    new = await get_staged(client, "shop")
    assert new is not None
    nothing = await get_release(client, "shop")
    assert await promote(client, change(b"one", nothing), act(3), seen=old) == Conflict((old.key,))
    assert await discard(client, nothing, act(4), seen=old) == Conflict((old.key,))
    assert (await get_staged(client, "shop"), await get_release(client, "shop")) == (new, nothing)

    assert await promote(client, change(b"two", nothing), act(5), seen=new) == Written((3,))
    assert await get_staged(client, "shop") is None
    release = await get_release(client, "shop")
    assert release.policy is not None
    assert release.policy.value == b"two"
    assert await promote(client, change(b"two", release), act(6), seen=new) == Conflict((new.key,)), "not twice"
    kept = [(one.action, one.text) for one in await history(client, "shop")]
    assert kept == [(Action.STAGE, "one"), (Action.STAGE, "two"), (Action.PROMOTE, "two")]


async def test_what_is_staged_has_a_version_of_its_own_and_the_release_is_no_edit_for_it(client: ConsulClient) -> None:
    live = Live(revision_of(b"one"), "", "v1")
    first = Change(await get_release(client, "shop"), Action.APPLY, b"one", live)
    assert await write_releases(client, [first], act(1)) == Written((1,))
    await stage(client, b"two", 2, None)
    seen = await get_staged(client, "shop")
    await write_staged(client, "shop", staged(b"two"), Action.WIDEN, act(3), seen=seen)
    third = Change(await get_release(client, "shop"), Action.APPLY, b"three", Live(revision_of(b"three"), "", "v1"))
    assert await write_releases(client, [third], act(4)) == Written((3,))
    seen = await get_staged(client, "shop")
    await write_staged(client, "shop", staged(b"two"), Action.WIDEN, act(5), seen=seen)
    again = Change(await get_release(client, "shop"), Action.APPLY, b"three", Live(revision_of(b"three"), "x", "v1"))
    assert await write_releases(client, [again], act(6)) == Written((3,)), "it stands already"
    kept = [(one.action, one.text) for one in await history(client, "shop")]
    assert kept == [("apply", "one"), ("stage", "two"), ("apply", "three"), ("widen", "two")]
    assert [one.number for one in await audit(client, "shop")] == [1, 2, 2, 3, 4, 3]


async def test_a_discard_leaves_the_release_alone_and_ends_one_that_is_none(client: ConsulClient) -> None:
    await stage(client, b"one", 1, None)
    seen = await get_staged(client, "shop")
    assert seen is not None
    assert await promote(client, change(b"one", await get_release(client, "shop")), act(2), seen=seen) == Written((2,))
    release = await get_release(client, "shop")
    await stage(client, b"two", 3, None)
    seen = await get_staged(client, "shop")
    assert seen is not None
    assert await discard(client, release, act(4), seen=seen) is None
    assert await get_release(client, "shop") == release
    other = Stored("cart", None, None)
    await write_staged(client, "cart", staged(b"x"), Action.STAGE, act(5), seen=None)
    seen = await get_staged(client, "cart")
    assert seen is not None
    assert await discard(client, other, act(6), seen=seen) is None
    ended = await get_release(client, "cart")
    assert (ended.nothing, ended.live is not None) == (True, True)


async def test_a_discard_does_not_end_a_release_whose_policy_was_only_lost(client: ConsulClient) -> None:
    await stage(client, b"one", 1, None)
    seen = await get_staged(client, "shop")
    assert seen is not None
    await promote(client, change(b"one", await get_release(client, "shop")), act(2), seen=seen)
    whole = await get_release(client, "shop")
    assert whole.policy is not None
    await client.delete(whole.policy.key, cas=whole.policy.modify_index)
    await stage(client, b"two", 3, None)
    seen = await get_staged(client, "shop")
    assert seen is not None
    assert await discard(client, await get_release(client, "shop"), act(4), seen=seen) is None
    assert (await get_release(client, "shop")).live == whole.live
