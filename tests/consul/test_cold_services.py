"""Services beyond the budget of long polls, with a real Consul: what is asked for which change."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grayctl.model.catalog import Health
from grayctl.settings import Duration
from tests.support.consul import Consul, MakeConsul
from tests.support.relay import Relay, relay_to
from tests.support.watching import Watching, make_settings, watching

NAMES = [f"shop-{number:02}" for number in range(30)]
COLD = NAMES[-1]
POLLS = 12
HOT = set(NAMES[:2])  # one that loses its long poll to a cold one that changed is looked at then
_HEALTH = re.compile(r"/v1/health/service/(shop-\d\d)(\?tag=)?(?!\?index)")


class Followed:
    """30 services, of which two have a long poll; a relay counts what is asked."""

    def __init__(self, agent: Consul, relay: Relay, watch: Watching) -> None:
        self.agent = agent
        self.relay = relay
        self.watch = watch

    async def peace(self) -> float:
        """Wait until nobody is looked at any more."""
        await self.watch.until(lambda: not self.looks(time.monotonic() - 1.5), "peace")
        return time.monotonic()

    def looks(self, since: float) -> set[str]:
        """The services that were asked about beside the long polls."""
        found = [_HEALTH.match(path) for path in self.relay.since(since) if "index=" not in path]
        return {match[1] for match in found if match}


@asynccontextmanager
async def followed(make_consul: MakeConsul, wait: float = 60.0) -> AsyncIterator[Followed]:
    agent = make_consul()
    for name in NAMES:
        agent.register(name, name, "10.0.0.1", 80, weight=1)
    async with relay_to(agent.http_port) as relay:
        # the re-read looks, too
        budget = {"max_long_polls": POLLS, "wait": Duration(wait), "full_reread": Duration(3600)}
        settings = make_settings(relay.address, "shop-*", watch=budget)
        async with watching(settings) as watch:
            await watch.complete()
            yield Followed(agent, relay, watch)
            assert relay.open <= POLLS + 8


async def test_a_failing_check_is_looked_at_alone(make_consul: MakeConsul) -> None:
    async with followed(make_consul) as here:
        mark = await here.peace()
        here.agent.set_check(COLD, "critical")
        await here.watch.until(lambda: here.watch.service(COLD)[0].health is Health.CRITICAL, "the check")
        here.agent.set_check(COLD, "passing")
        await here.watch.until(lambda: here.watch.service(COLD)[0].health is Health.PASSING, "the check again")
        assert here.looks(mark) - HOT == {COLD}


async def test_output_alone_makes_nobody_look(make_consul: MakeConsul) -> None:
    async with followed(make_consul) as here:
        here.agent.set_check(COLD, "critical", "once")
        await here.watch.until(lambda: here.watch.service(COLD)[0].health is Health.CRITICAL, "the check")
        mark = await here.peace()
        for number in range(10):
            here.agent.set_check(COLD, "critical", f"output {number}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        assert any("state/critical" in path for path in here.relay.since(mark)), "it woke"
        assert here.looks(mark) == set()


async def test_a_node_that_moves_is_looked_at_alone(make_consul: MakeConsul) -> None:
    """Its address stands in the answers of its services; catalog/services does not wake for it."""
    async with followed(make_consul) as here:
        body = {"Node": "far-away", "Address": "10.9.9.1", "Service": {"ID": "far", "Service": COLD, "Port": 80}}
        here.agent.call("PUT", "/v1/catalog/register", body)
        await here.watch.until(lambda: len(here.watch.service(COLD)) == 2, "the instance")
        mark = await here.peace()
        here.agent.call("PUT", "/v1/catalog/register", {"Node": "far-away", "Address": "10.9.9.2"})
        await here.watch.until(
            lambda: "10.9.9.2" in {one.node_address for one in here.watch.service(COLD)}, "the new address", seconds=5
        )
        assert here.looks(mark) <= {COLD} | HOT


async def test_a_weight_is_found_by_a_sweep(make_consul: MakeConsul) -> None:
    async with followed(make_consul) as here:
        mark = await here.peace()
        here.agent.register(COLD, COLD, "10.0.0.1", 80, weight=7)
        await here.watch.until(lambda: ("weight", "7") in here.watch.service(COLD)[0].meta, "the weight", seconds=5)
        assert len(here.looks(mark)) > 20, "nothing says who has changed"


async def test_who_changed_last_gets_a_long_poll_and_connections_never_exceed_the_budget(
    make_consul: MakeConsul,
) -> None:
    async with followed(make_consul, wait=4.0) as here:
        here.agent.register(COLD, COLD, "10.0.0.1", 80, weight=7)
        asked = f"/v1/health/service/{COLD}?index="
        await here.watch.until(lambda: any(asked in path for path in here.relay.since(0)), "a long poll", seconds=20)
        assert here.watch.watcher.state.long_polls == POLLS
        await here.peace()
        here.agent.register(COLD, COLD, "10.0.0.1", 80, weight=8)
        await here.watch.until(lambda: ("weight", "8") in here.watch.service(COLD)[0].meta, "the weight", seconds=5)
        assert here.relay.open <= POLLS + 8
