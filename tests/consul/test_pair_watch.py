"""A policy and its live record, written in one transaction, come by two answers and are published as one change."""

import asyncio
import time
from functools import partial

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient
from grayctl.model.release import Live
from grayctl.policy.live import encode_live, is_half, revision_of
from tests.support.consul import Consul
from tests.support.watching import Watching, make_settings, watching

_TURNS = 12
_LONGEST = 0.05  # seconds; who waits for no longer waits for the other half


async def _patient(seconds: float) -> None:
    await asyncio.sleep(3600 if seconds < _LONGEST else seconds)


def _has(watch: Watching, name: str, value: bytes) -> bool:
    return watch.value(name) == [value]


def _halves(watch: Watching) -> int:
    """How many of the catalogs have one of the two alone."""
    return sum(is_half(one.catalog.kv["releases"], one.catalog.kv["live"]) for one in watch.wakes)


async def test_what_is_written_together_is_published_together(consul: Consul, unique: str) -> None:
    settings = make_settings(consul.address, f"{unique}*", consul={"prefix": unique})
    async with watching(settings, sleep=_patient) as watch, ConsulClient(settings.consul, connections=1) as client:
        await watch.complete()
        for turn in range(_TURNS):
            text = f"stable: v{turn}".encode()
            live = encode_live(Live(revision_of(text), "", f"v{turn}"))
            keys = {f"{unique}/releases/shop": text, f"{unique}/live/shop": live}
            seen = [await client.entry(key) for key in keys]
            indexes = [one.modify_index if one else 0 for one in seen]
            written = zip(keys.items(), indexes, strict=True)
            assert not await client.transact([transaction.write(*item, seen=index) for item, index in written])
            await watch.until(partial(_has, watch, "releases", text), "the policy")
            assert watch.value("live") == [live]
        assert _halves(watch) == 0


async def test_half_of_a_pair_is_published_after_a_moment(consul: Consul, unique: str) -> None:
    """Edited by hand: nothing that is served changes, but people and the adopter are told of it."""
    settings = make_settings(consul.address, f"{unique}*", consul={"prefix": unique})
    async with watching(settings) as watch:
        await watch.complete()
        for name, value in (("releases", b"stable: v1"), ("live", encode_live(Live("0" * 16, "", "v1")))):
            began = time.monotonic()
            consul.put(f"{unique}/{name}/shop", value)
            await watch.until(partial(_has, watch, name, value), name)
            assert time.monotonic() - began < 5
            assert watch.wakes[-1].changed == {f"kv:{name}"}
        assert _halves(watch) == 2
