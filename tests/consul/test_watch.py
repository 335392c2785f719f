"""The watcher against a real Consul."""

from grayctl.model.catalog import Health
from tests.support.consul import Consul
from tests.support.watching import make_settings, watching


async def test_follows_registrations_health_weights_and_keys(consul: Consul, unique: str) -> None:
    """Every kind of change is published, whole, without a new question being asked in between."""
    consul.register(unique, f"{unique}-1", "10.0.0.1", 80, version="v1", weight=10)
    settings = make_settings(consul.address, f"{unique}*", consul={"prefix": unique})
    async with watching(settings) as watch:
        await watch.complete()
        assert watch.ids(unique) == [f"{unique}-1"]
        first = watch.wakes[0]
        assert first.cause == "first complete answer"
        assert first.changed >= {unique, "kv:releases", "kv:freeze"}
        assert set(first.catalog.kv) == {"releases", "staged", "live", "lists", "drains", "freeze"}

        consul.register(unique, f"{unique}-2", "10.0.0.2", 80, version="v2")
        await watch.until(lambda: len(watch.ids(unique)) == 2, "the second instance")
        consul.register(unique, f"{unique}-1", "10.0.0.1", 80, version="v1", weight=20)
        await watch.until(lambda: ("weight", "20") in watch.service(unique)[0].meta, "the weight")
        consul.set_check(f"{unique}-2", "critical")
        await watch.until(lambda: watch.service(unique)[1].health is Health.CRITICAL, "the failing check")
        consul.maintenance(f"{unique}-1", enable=True)
        await watch.until(lambda: watch.service(unique)[0].health is Health.MAINTENANCE, "maintenance")
        consul.deregister(f"{unique}-1")
        await watch.until(lambda: watch.ids(unique) == [f"{unique}-2"], "the deregistration")

        consul.put(f"{unique}/releases/shop", "stable: v1")
        await watch.until(lambda: watch.value("releases") == [b"stable: v1"], "the release")
        assert watch.wakes[-1].changed == {"kv:releases"}
        consul.put(f"{unique}/freezer", "not the brake")
        consul.put(f"{unique}/freeze", "{}")
        await watch.until(lambda: watch.value("freeze") == [b"{}"], "the freeze")
        consul.delete(f"{unique}/releases/shop")
        await watch.until(lambda: watch.value("releases") == [], "the deletion, confirmed")
        assert watch.watcher.state.connected
        assert not watch.recorder.errors
