"""A staged policy that is promoted is never seen gone before the release that it became."""

import asyncio
from functools import partial
from typing import Any

import pytest

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient
from grayctl.consul.once import read_catalog
from grayctl.model.catalog import Catalog
from grayctl.settings import Settings
from tests.support.consul import Consul
from tests.support.watching import Watching, make_settings, watching

_TURNS = 8


def _is_staged(watch: Watching, text: bytes) -> bool:
    return text in watch.value("staged")


async def test_what_is_staged_is_not_seen_gone_before_its_release_is_seen(consul: Consul, unique: str) -> None:
    """One transaction reaches a node by three queries, in any order: between them nobody may move back and forth."""
    settings = make_settings(consul.address, f"{unique}*", consul={"prefix": unique})
    consul.put(f"{unique}/staged/other", "stays")  # so that what is gone leaves something, and nobody asks twice
    async with watching(settings) as watch, ConsulClient(settings.consul, connections=1) as client:
        await watch.complete()
        for turn in range(_TURNS):
            text = f"{turn}".encode()
            consul.put(f"{unique}/staged/shop", text)
            await watch.until(partial(_is_staged, watch, text), "what is staged")
            seen = {name: await client.entry(f"{unique}/{name}/shop") for name in ("releases", "live", "staged")}
            write = [
                transaction.write(f"{unique}/{name}/shop", text, seen=one.modify_index if one else 0)
                for name, one in list(seen.items())[:2]
            ]
            assert not await client.transact([*write, transaction.prune(f"{unique}/staged/shop")])
            await watch.until(lambda: watch.value("staged") == [b"stays"], "nothing is staged")
            gone = next(wake for wake in reversed(watch.wakes) if "kv:staged" in wake.changed)
            for name in ("releases", "live"):
                assert [one.value for one in gone.catalog.kv[name]] == [text], name


async def _watched(settings: Settings) -> Catalog:
    async with watching(settings) as watch:
        await watch.complete()
        return watch.wakes[0].catalog


async def _read(settings: Settings) -> Catalog:
    async with ConsulClient(settings.consul, connections=1) as client:
        return await read_catalog(client, settings)


@pytest.mark.parametrize("look", [_watched, _read])
async def test_a_promotion_while_the_first_answers_come_is_seen_whole(
    look: Any, consul: Consul, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for what is staged after it was promoted, and for the release before, saw neither."""
    plain, asked = ConsulClient.kv, asyncio.Event()
    consul.put(f"{unique}/staged/shop", "new")
    consul.put(f"{unique}/releases/shop", "old")

    async def promote_between(self: ConsulClient, prefix: str, **more: Any) -> Any:
        if prefix.endswith("/staged/") and not asked.is_set():
            await asyncio.sleep(0.2)  # the others have answered, where they were asked at once
            consul.put(f"{unique}/releases/shop", "new")
            consul.delete(f"{unique}/staged/shop")
            asked.set()
        reply = await plain(self, prefix, **more)
        if more.get("index") is not None:
            await asyncio.sleep(1.0)  # a long poll's answer is late
        return reply

    monkeypatch.setattr(ConsulClient, "kv", promote_between)
    catalog = await look(make_settings(consul.address, f"{unique}*", consul={"prefix": unique}))
    assert [[one.value for one in catalog.kv[name]] for name in ("staged", "releases")] == [[], [b"new"]]
