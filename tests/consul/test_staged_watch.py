"""A staged policy that is promoted is never seen gone before the release that it became."""

from functools import partial

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient
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
            gone = next(wake for wake in reversed(watch.wakes) if wake.changed == {"kv:staged"})
            for name in ("releases", "live"):
                assert [one.value for one in gone.catalog.kv[name]] == [text], name
