"""Instances that vanish by the dozen although they live: what Consul says is not believed at once."""

import signal
import time

import pytest

from tests.support.consul import MakeConsul, make_cluster
from tests.support.edge import Backend
from tests.support.ordeal import Ordeal
from tests.support.process import wait_until
from tests.support.unshaken import LASTS, beside, hears, missing, unshaken

GROWN = 12.0

TWELVE = tuple("abcdefghijkl")  # more than guard.min_instances


@pytest.mark.fault("guards", "ten of twelve instances are deregistered at once, then registered again")
def test_a_mass_disappearance(ordeal: Ordeal) -> None:
    """The first of them leave; when there are too many of them all are back."""
    edge = ordeal.edge
    ordeal.begin(*TWELVE)
    with ordeal.endured():
        for name in TWELVE[2:]:
            edge.consul.deregister(name)
        hears(edge, "guard_holds")
        ordeal.change()
        wait_until(lambda: edge.serves(*edge.backends), "a newcomer is served beside the kept ones")
        for name in TWELVE[2:]:
            edge.backend(name)


@pytest.mark.fault("guards", "Consul restarts without its data; twelve instances register again, one after another")
def test_a_lost_state(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge, agent = ordeal.edge, make_consul()
    with beside(edge, agent) as relay, unshaken(ordeal, relay, *TWELVE):
        # a young daemon's long polls come back every few seconds: beside twelve pieces of news that is 22 in a second
        time.sleep(GROWN)
        before = edge.generation()
        agent.restart(signal.SIGKILL)
        hears(edge, "consul_regained")
        for name in TWELVE:
            edge.backend(name)
            time.sleep(LASTS / len(TWELVE))
            assert not missing(edge, before, *TWELVE)


@pytest.mark.fault("guards", "every instance fails its check, then passes again")
def test_all_are_critical(ordeal: Ordeal) -> None:
    """Who fails leaves at once, except who is the last."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured():
        edge.consul.set_check("one", "critical")
        wait_until(lambda: edge.serves("two"), "the first is out")
        edge.consul.set_check("two", "critical")
        time.sleep(LASTS)
        assert edge.serves("two")
        for name in ("one", "two"):
            edge.consul.set_check(name, "passing")


@pytest.mark.fault("guards", "the agent of a node with most of the instances dies, and is started again")
def test_a_node_that_only_seems_dead(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    """Its instances still answer, but for Consul the node has failed."""
    edge = ordeal.edge
    servers, there = make_cluster(make_consul)
    far = {name: Backend(name) for name in ("far-1", "far-2", "far-3", "far-4", "far-5")}
    try:
        for name, backend in far.items():
            there.register("shop", name, "127.0.0.1", backend.port)
            there.set_check(name, "passing")
        edge.backends |= far
        with beside(edge, servers[0], more="[guard]\nmin_instances = 4\n") as relay, unshaken(ordeal, relay):
            there.stop(signal.SIGKILL)
            hears(edge, "guard_holds")
            ordeal.change()
            time.sleep(LASTS)
            there.start()
            wait_until(lambda: edge.events("guard_released"), "the guard holds nothing any more", seconds=40)
    finally:
        for name, backend in far.items():
            edge.backends.pop(name, None)
            backend.close()
