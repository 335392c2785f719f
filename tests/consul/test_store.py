"""The fleet's brake, and a catalog read once."""

import pytest
from aiohttp import web

from grayctl.consul.client import ConsulClient
from grayctl.consul.names import Resolver
from grayctl.consul.once import read_catalog
from grayctl.consul.store import delete_freeze, put_freeze, read_freeze
from grayctl.errors import ConsulDenied, ConsulUnreachable
from grayctl.model.catalog import Freeze
from grayctl.settings import ConsulSettings
from tests.support.consul import Consul
from tests.support.ports import free_ports
from tests.support.scripted import script, scripted
from tests.support.watching import make_settings, watching


async def test_the_brake_is_pulled_and_released_and_nobody_overwrites_another(consul: Consul, unique: str) -> None:
    settings = ConsulSettings(address=consul.address, prefix=unique)
    consul.put(f"{unique}/freezer", "something else")
    async with ConsulClient(settings, connections=2) as client:
        assert await read_freeze(client) is None
        assert await put_freeze(client, Freeze(reason="audit", author="ann", scope="fleet"), seen=None)
        assert not await put_freeze(client, Freeze(reason="mine"), seen=None)
        seen = await read_freeze(client)
        assert seen is not None
        assert b"audit" in seen.value
        assert await put_freeze(client, Freeze(reason="longer"), seen=seen)
        assert not await delete_freeze(client, seen=seen), "it changed since it was read"
        newest = await read_freeze(client)
        assert newest is not None
        assert await delete_freeze(client, seen=newest)
        assert await read_freeze(client) is None
    assert consul.get(f"{unique}/freezer") == b"something else"


async def test_a_catalog_read_once_is_what_the_watcher_publishes(consul: Consul, unique: str) -> None:
    consul.register(f"{unique}-a", f"{unique}-a1", "localhost", 80, weight=3)
    consul.register(f"{unique}-b", f"{unique}-b1", "10.0.0.1", 80, tags=["grayctl.enable=true"])
    consul.register(f"{unique}-c", f"{unique}-c1", "10.0.0.1", 80)
    consul.put(f"{unique}/releases/shop", "stable: v1")
    consul.put(f"{unique}/freeze", "{}")
    settings = make_settings(consul.address, f"{unique}-a*", f"{unique}-never", consul={"prefix": unique})
    async with ConsulClient(settings.consul, connections=2) as client:
        once = await read_catalog(client, settings, Resolver())
    async with watching(settings) as watch:
        await watch.complete()
        mine = {name for name in once.services if name.startswith(unique)}
        assert mine == {f"{unique}-a", f"{unique}-b", f"{unique}-never"}
        for name in mine:
            assert watch.wakes[0].catalog.services[name] == once.services[name]
        assert once.kv == watch.wakes[0].catalog.kv
        assert set(once.names) == {"localhost"}
    consul.deregister(f"{unique}-b1")  # by its tag everybody would watch it


async def test_no_part_of_a_catalog_is_returned() -> None:
    """One read that fails is the whole failing, as the error itself."""
    settings = make_settings(f"http://127.0.0.1:{free_ports(1)[0]}", "shop")
    async with ConsulClient(settings.consul, connections=2) as client:
        with pytest.raises(ConsulUnreachable):
            await read_catalog(client, settings)
    async with scripted() as fake:
        fake.handlers["/v1/kv/grayctl/live/"] = script(web.Response(status=403))
        settings = make_settings(fake.address, "shop")
        async with ConsulClient(settings.consul, connections=2) as client:
            with pytest.raises(ConsulDenied):
                await read_catalog(client, settings)
