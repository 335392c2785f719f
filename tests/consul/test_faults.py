"""Faults for real: an agent suspended, killed, restarted with and without its data, and a path that dies."""

import signal
import time
from functools import partial

import structlog

from grayctl.model.catalog import Health
from grayctl.settings import Duration
from tests.support.consul import Consul, MakeConsul
from tests.support.relay import relay_to
from tests.support.watching import Watching, make_settings, watching

RECOVERY = 20.0  # PROMISES: after the end of any fault of Consul
PER_SECOND = 20  # PROMISES: requests under any fault


def has_weight(watch: Watching, service: str, weight: int) -> bool:
    return any(("weight", str(weight)) in one.meta for one in watch.service(service))


def is_second(watch: Watching, service: str) -> bool:
    return any(("version", "v2") in one.meta for one in watch.service(service))


def has_health(watch: Watching, service: str, health: Health) -> bool:
    return any(one.health is health for one in watch.service(service))


def more_errors(watch: Watching, than: int) -> bool:
    return len(watch.recorder.errors) > than


async def sees_a_change(watch: Watching, agent: Consul, service: str, *, seconds: float = RECOVERY) -> float:
    """Register one more instance, and return how long it took to be published."""
    name, began = f"{service}-{time.monotonic_ns()}", time.monotonic()
    agent.register(service, name, "10.0.0.77", 80)
    await watch.until(lambda: name in watch.ids(service), "the new instance", seconds=seconds)
    return time.monotonic() - began


async def test_waking_takes_no_polling(consul: Consul, unique: str) -> None:
    """Each change costs one question for each query it wakes; quiet costs the path check alone."""
    consul.register(unique, unique, "10.0.0.1", 80, weight=1)
    async with relay_to(consul.http_port) as relay:
        settings = make_settings(relay.address, unique, consul={"prefix": unique}, watch={"wait": Duration(60.0)})
        async with watching(settings) as watch:
            await watch.complete()
            await watch.until(lambda: sum("index=" in path for _, path in relay.requests) >= 8, "all polls to wait")
            mark = time.monotonic()
            for weight in range(2, 7):
                consul.register(unique, unique, "10.0.0.1", 80, weight=weight)
                await watch.until(partial(has_weight, watch, unique, weight), "the weight")
            health = f"/v1/health/service/{unique}?"
            await watch.until(lambda: sum(health in path for path in relay.since(mark)) >= 5, "the next question")
            asked = relay.since(mark)
            assert sum(health in path for path in asked) == 5
            assert not [path for path in asked if "/v1/kv/" in path]
            assert relay.open <= watch.watcher.state.long_polls + 8


async def test_a_suspended_agent(make_consul: MakeConsul) -> None:
    """Nothing is published while it hangs; what it learns afterwards is."""
    agent = make_consul()
    agent.register("shop", "shop-1", "10.0.0.1", 80)
    settings = make_settings(agent.address, "shop", consul={"read_timeout": Duration(1.0)})
    with structlog.testing.capture_logs() as logs:
        async with watching(settings) as watch:
            await watch.complete()
            wakes = len(watch.wakes)
            agent.suspend()
            await watch.until(lambda: not watch.watcher.state.connected, "the silence to be noticed")
            assert len(watch.wakes) == wakes
            assert watch.ids("shop") == ["shop-1"]
            agent.resume()
            await sees_a_change(watch, agent, "shop")
            await watch.until(lambda: watch.watcher.state.connected, "the line to be regained")
    events = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert events == ["consul_connected", "consul_lost", "consul_regained"], "each change of state is one event"


async def test_an_agent_killed_and_back_with_its_data(make_consul: MakeConsul) -> None:
    agent = make_consul(persistent=True)
    agent.register("shop", "shop-1", "10.0.0.1", 80)
    agent.put("grayctl/releases/shop", "stable: v1")
    async with watching(make_settings(agent.address, "shop")) as watch:
        await watch.complete()
        agent.stop(signal.SIGKILL)
        await watch.until(lambda: not watch.watcher.state.connected, "the loss to be noticed")
        agent.start()
        await sees_a_change(watch, agent, "shop")
        assert "shop-1" in watch.ids("shop")
        assert all(wake.catalog.services["shop"] and wake.catalog.kv["releases"] for wake in watch.wakes)


async def test_an_agent_back_without_its_data(make_consul: MakeConsul) -> None:
    """Lower indexes, an empty catalog: that is told as it is, and what is registered anew is found."""
    agent = make_consul()
    agent.register("shop", "shop-1", "10.0.0.1", 80)
    for number in range(20):
        agent.put("grayctl/releases/shop", str(number))
    async with watching(make_settings(agent.address, "shop", "web-*")) as watch:
        await watch.until(lambda: watch.value("releases") == [b"19"], "the last write")
        agent.restart(signal.SIGKILL)
        await sees_a_change(watch, agent, "shop")
        assert len(watch.ids("shop")) == 1
        agent.put("grayctl/releases/shop", "new")
        await watch.until(lambda: watch.value("releases") == [b"new"], "the new release", seconds=RECOVERY)
        agent.register("web-1", "web-1", "10.0.0.1", 80)
        await watch.until(lambda: watch.ids("web-1"), "a service that is new", seconds=RECOVERY)


async def test_an_agent_that_stops_and_starts_gracefully(make_consul: MakeConsul) -> None:
    """A stopping agent answers all long polls early; a daemon that starts before Consul waits for it."""
    agent = make_consul()
    agent.stop()
    async with watching(make_settings(agent.address, "shop")) as watch:
        await watch.until(lambda: watch.recorder.errors, "the first failure")
        assert not watch.wakes
        assert not watch.watcher.state.connected
        agent.start()
        await watch.complete()
        assert watch.wakes[0].catalog.services == {"shop": ()}
        await sees_a_change(watch, agent, "shop")


async def test_an_outage_is_no_storm_and_leaks_nothing(make_consul: MakeConsul) -> None:
    """25 long polls lose their agent twice: never more than 20 requests a second, never more connections."""
    agent = make_consul()
    names = [f"shop-{number}" for number in range(25)]
    for name in names:
        agent.register(name, name, "10.0.0.1", 80)
    async with relay_to(agent.http_port) as relay, watching(make_settings(relay.address, "shop-*")) as watch:
        await watch.complete()
        for _ in range(2):
            # young long polls come back often, and less so as they grow older
            await watch.until(partial(relay.is_quiet, 1.0), "peace", seconds=120)
            mark = time.monotonic()
            agent.stop(signal.SIGKILL)
            await watch.until(lambda: not watch.watcher.state.connected, "the loss to be noticed")
            await watch.until(partial(more_errors, watch, len(watch.recorder.errors) + 5), "a few attempts")
            agent.start()
            for name in names:
                agent.register(name, name, "10.0.0.1", 80, version="v2")
            await watch.until(lambda: all(is_second(watch, name) for name in names), "all", seconds=RECOVERY)
            await watch.until(lambda: watch.watcher.state.connected, "the line to be regained")
            assert relay.busiest_second(mark) <= PER_SECOND, relay.timeline(mark)
            assert relay.open <= watch.watcher.state.long_polls + 8
            for name in names:
                agent.register(name, name, "10.0.0.1", 80, version="v1")
            await watch.until(lambda: not any(is_second(watch, name) for name in names), "v1 again: peace")


async def test_a_path_that_dies_for_good_is_left(consul: Consul, unique: str) -> None:
    """A firewall forgets the connections: they stay silent for ever, new ones work."""
    consul.register(unique, f"{unique}-1", "10.0.0.1", 80)
    async with relay_to(consul.http_port) as relay:
        settings = make_settings(relay.address, unique, watch={"wait": Duration(300.0)})
        async with watching(settings) as watch:
            await watch.complete()
            relay.blackhole()
            relay.heal()  # at once: shorter than any timeout
            mark = time.monotonic()
            took = await sees_a_change(watch, consul, unique)
            assert took < RECOVERY
            assert relay.busiest_second(mark) <= PER_SECOND, relay.timeline(mark)
            await watch.until(lambda: relay.open <= watch.watcher.state.long_polls + 8, "dead connections to be closed")


async def test_a_black_hole(consul: Consul, unique: str) -> None:
    """Everything vanishes for longer than a timeout; within 20 s after its end everything is known again."""
    consul.register(unique, f"{unique}-1", "10.0.0.1", 80)
    async with relay_to(consul.http_port) as relay:
        settings = make_settings(
            relay.address, unique, consul={"read_timeout": Duration(2.0)}, watch={"wait": Duration(300.0)}
        )
        async with watching(settings) as watch:
            await watch.complete()
            mark = time.monotonic()
            relay.blackhole()
            await watch.until(lambda: not watch.watcher.state.connected, "the silence to be noticed")
            await watch.until(partial(more_errors, watch, len(watch.recorder.errors)), "one more attempt to fail")
            assert watch.ids(unique) == [f"{unique}-1"]
            relay.heal()
            await sees_a_change(watch, consul, unique)
            assert relay.busiest_second(mark) <= PER_SECOND, relay.timeline(mark)


async def test_services_beyond_the_budget_are_followed_too(make_consul: MakeConsul) -> None:
    """30 services, 12 long polls: registrations, weights, failing checks and deregistrations all arrive."""
    agent = make_consul()
    names = [f"shop-{number:02}" for number in range(30)]
    for name in names:
        agent.register(name, name, "10.0.0.1", 80, weight=1)
    async with (
        relay_to(agent.http_port) as relay,
        watching(make_settings(relay.address, "shop-*", watch={"max_long_polls": 12})) as watch,
    ):
        await watch.complete()
        state = watch.watcher.state
        assert (state.services_watched, state.cold, state.long_polls) == (30, 28, 12)
        assert all(watch.ids(name) == [name] for name in names)
        for name in (names[0], names[-1]):
            agent.register(name, name, "10.0.0.1", 80, weight=2)
            await watch.until(partial(has_weight, watch, name, 2), "the weight")
            agent.set_check(name, "critical")
            await watch.until(partial(has_health, watch, name, Health.CRITICAL), "the check")
            agent.set_check(name, "warning")
            await watch.until(partial(has_health, watch, name, Health.WARNING), "the warning")
        agent.deregister(names[-1])
        await watch.until(lambda: not watch.service(names[-1]), "the deregistration")
        await watch.until(lambda: watch.watcher.state.services_watched == 29, "it to be let go")
        agent.deregister(names[0])
        await watch.until(lambda: watch.watcher.state.services_watched == 28, "a hot one to be let go")
        assert watch.watcher.state.long_polls == 12, "another service took its long poll"
        agent.register("shop-new", "shop-new", "10.0.0.1", 80)
        await watch.until(lambda: watch.ids("shop-new"), "a new cold service")
        assert relay.open <= 12 + 8
