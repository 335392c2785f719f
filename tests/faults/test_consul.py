"""Answers of Consul that are broken, slow or lies, and a path that is dead."""

import json
import time

import pytest

from tests.support import fault_proxy
from tests.support.background import in_background
from tests.support.fault_proxy import Fault, say, with_index
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until
from tests.support.relay import relay_to
from tests.support.unshaken import LASTS, hears, unshaken

HEALTH = "/v1/health/"
JSON = {"Content-Type": "application/json", "X-Consul-Index": "77"}
SIGN_IN = say(200, b"<html>Sign in</html>", {"Content-Type": "text/html", "X-Consul-Index": "9"})
FAR_AHEAD = with_index(lambda asked, _: max(asked or 0, 1_000_000) + 1)
NO_LEADER = say(500, b"No cluster leader", {"X-Consul-Index": "1"})


# ---------------------------------------------------------------- a proxy that breaks answers

FAULTS = [
    fault("consul", "every answer comes 3 s late", fault_proxy.late(3.0), ""),
    fault("consul", "nothing is answered, connections stay open", fault_proxy.hang, ""),
    fault("consul", "every connection is closed without a word", fault_proxy.drop, ""),
    fault("consul", "every answer is cut in half, and the connection closed", fault_proxy.truncate, ""),
    fault("consul", "every answer announces half its length", fault_proxy.announce_half, ""),
    fault("consul", "half of the JSON", fault_proxy.halve, ""),
    fault("consul", "403", say(403, b"ACL not found"), ""),
    fault("consul", "429 with Retry-After", say(429, b"Too many requests", {"Retry-After": "1"}), ""),
    fault("consul", "500 No cluster leader, index 1", NO_LEADER, ""),
    fault("consul", "500 to health queries alone", NO_LEADER, HEALTH),
    fault("consul", "an HTML page", SIGN_IN, ""),
    fault("consul", "binary garbage", say(200, bytes(range(256)) * 40, JSON), ""),
    fault("consul", "JSON of other types", say(200, json.dumps({"ID": 7, "Node": [7]}).encode(), JSON), ""),
    fault("consul", "a lower index at every answer", with_index(lambda asked, _: max(1, (asked or 900) - 1)), ""),
    fault("consul", "the same index at once, for ever", with_index(lambda asked, true: asked or true), ""),
    fault("consul", "an index from far ahead at once, for ever", FAR_AHEAD, ""),
    fault("consul", "no index", with_index(lambda *_: None), ""),
    fault("consul", "index 0", with_index(lambda *_: 0), ""),
    fault("consul", "an index that is no number", with_index(lambda *_: "seven"), ""),
]


@pytest.mark.parametrize(("breaks", "only"), FAULTS)
def test_answers_that_are_broken(ordeal: Ordeal, breaks: Fault, only: str) -> None:
    """While it lasts an instance joins; nothing leaves nginx, and there are never more than 20 requests a second."""
    edge = ordeal.edge
    with fault_proxy.fault_proxy(edge.consul.address) as proxy:
        edge.consul_address = proxy.address
        edge.configure()
        with unshaken(ordeal, proxy):
            proxy.bring(breaks, only)
            wait_until(lambda: proxy.bitten > 3, "the fault bites")
            ordeal.change()
            time.sleep(LASTS)
            proxy.heal()


@pytest.mark.fault("consul", "no service, instance or key any more, politely")
def test_empty_answers(ordeal: Ordeal) -> None:
    """Confirmed by a second read, and still: an upstream that had instances is not emptied."""
    edge = ordeal.edge
    with fault_proxy.fault_proxy(edge.consul.address) as proxy:
        edge.consul_address = proxy.address
        edge.configure(watch='services = ["sho*"]')
        with unshaken(ordeal, proxy):
            proxy.bring(fault_proxy.empty)
            ordeal.change()
            time.sleep(LASTS)
            assert edge.serves("one", "two")
            proxy.heal()


# ---------------------------------------------------------------- a path that is dead


@pytest.mark.parametrize(
    ("others", "lasts"),
    [
        fault("consul", "black hole", 0, "long"),
        fault("consul", "black hole, 80 more services on a long poll each", 80, "long"),
        fault("consul", "all connections die silently, new ones work", 0, "a moment"),
    ],
)
def test_a_black_hole(ordeal: Ordeal, others: int, lasts: str) -> None:
    edge = ordeal.edge
    prefix = f"a-{edge.folder.name}"  # sorted before the shop, which is heard last
    for number in range(others):
        edge.consul.register(f"{prefix}-{number:02}", f"{prefix}-{number:02}", "127.0.0.1", 9)
    with in_background(relay_to(edge.consul.http_port)) as relay:
        edge.consul_address = relay.address
        edge.configure(watch=f'services = ["shop", "{prefix}-*"]')
        with unshaken(ordeal, relay):
            relay.blackhole()
            ordeal.change()
            if lasts == "long":
                hears(edge, "consul_lost")
                swallowed = len(relay.requests)
                wait_until(lambda: len(relay.requests) > swallowed, "one more attempt that will hang: the worst moment")
            relay.heal()
    for number in range(others):
        edge.consul.deregister(f"{prefix}-{number:02}")
