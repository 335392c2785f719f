"""Host names: bounded, cached, and the last good answer stays."""

import asyncio
import socket

import pytest
from aiohttp import web

from grayctl.consul.names import Resolver
from tests.support.consul import Consul
from tests.support.scripted import answer, instance, scripted
from tests.support.watching import make_settings, watching


class Zone:
    """Answers from a table; None hangs, a missing name does not resolve."""

    def __init__(self, **names: tuple[str, ...] | None) -> None:
        self.names = {name.replace("_", "-"): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> tuple[str, ...]:
        self.asked.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        addresses = self.names[name]
        if addresses is None:
            await asyncio.Event().wait()
        return addresses or ()


async def test_answers_are_sorted_and_asked_for_once() -> None:
    zone = Zone(a=("10.0.0.2", "10.0.0.1", "10.0.0.2"))
    resolver = Resolver(zone)
    await resolver.ensure(["a", "nobody"])
    await resolver.ensure(["nobody", "a"])
    assert resolver.answers == {"a": ("10.0.0.1", "10.0.0.2"), "nobody": ()}
    assert sorted(zone.asked) == ["a", "nobody"]


async def test_a_name_that_hangs_does_not_hold_up_the_others_for_ever() -> None:
    zone = Zone(good=("10.0.0.1",), dead=None)
    resolver = Resolver(zone, one=0.05)
    await asyncio.wait_for(resolver.ensure(["dead", "good"]), 10)
    assert resolver.answers == {"good": ("10.0.0.1",), "dead": ()}
    resolver = Resolver(zone, one=60, everything=0.05)
    await asyncio.wait_for(resolver.ensure(["dead", "good"]), 10)
    assert resolver.answers == {"good": ("10.0.0.1",), "dead": ()}


async def test_a_refresh_tells_what_changed_keeps_the_last_good_and_forgets_the_unused() -> None:
    zone = Zone(same=("1.1.1.1",), moved=("2.2.2.2",), fails=("3.3.3.3",), unused=("4.4.4.4",))
    resolver = Resolver(zone, one=0.05)
    await resolver.ensure(["same", "moved", "fails", "unused", "late"])
    zone.names |= {"moved": ("5.5.5.5",), "late": ("6.6.6.6",)}
    del zone.names["fails"]
    assert await resolver.refresh(["same", "moved", "fails", "late"]) == {"moved", "late"}
    assert resolver.answers == {
        "same": ("1.1.1.1",),
        "moved": ("5.5.5.5",),
        "fails": ("3.3.3.3",),
        "late": ("6.6.6.6",),
    }


@pytest.mark.parametrize("name", ["localhost"])
async def test_the_system_is_asked_by_default(name: str) -> None:
    resolver = Resolver()
    await resolver.ensure([name, "does-not-exist.invalid", "a" * 70])
    assert "127.0.0.1" in resolver.answers[name]
    assert resolver.answers["does-not-exist.invalid"] == ()
    assert resolver.answers["a" * 70] == ()


async def test_a_catalog_is_published_with_its_names_resolved(consul: Consul, unique: str) -> None:
    consul.register(unique, f"{unique}-1", "backend", 80)
    consul.register(unique, f"{unique}-2", "10.0.0.1", 80)
    async with watching(make_settings(consul.address, unique), resolver=Resolver(Zone(backend=("10.0.0.7",)))) as watch:
        await watch.complete()
        assert watch.wakes[0].catalog.names == {"backend": ("10.0.0.7",)}


async def test_a_name_that_moves_is_found_at_the_next_reread() -> None:
    zone = Zone(backend=("10.0.0.7",))
    async with scripted() as fake:

        async def health(request: web.Request) -> web.StreamResponse:
            if "index" in request.query:
                await asyncio.sleep(3600)
            return answer([instance("shop", Address="backend")], 5)

        fake.handlers["/v1/health/service/shop"] = health
        settings = make_settings(fake.address, "shop", watch={"full_reread": 0.2})
        async with watching(settings, resolver=Resolver(zone)) as watch:
            await watch.complete()
            zone.names["backend"] = ("10.0.0.8",)
            await watch.until(lambda: watch.wakes[-1].catalog.names == {"backend": ("10.0.0.8",)}, "the new address")
            assert watch.wakes[-1].changed == {"shop"}
            assert watch.wakes[-1].cause == "host names resolved anew"
