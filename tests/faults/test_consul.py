"""Consul away, slow, lying, refusing, restarted: nginx serves on, and all is well again within 20 s."""

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fault_proxy
from tests.support.background import in_background
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul, make_cluster
from tests.support.edge import Edge
from tests.support.fault_proxy import Fault, say, with_index
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until
from tests.support.relay import relay_to
from tests.support.traffic import Traffic

PER_SECOND = 20  # PROMISES: requests in all, under any fault
LASTS = 5.0  # long enough for several attempts of everybody
HEALTH = "/v1/health/"
JSON = {"Content-Type": "application/json", "X-Consul-Index": "77"}
SIGN_IN = say(200, b"<html>Sign in</html>", {"Content-Type": "text/html", "X-Consul-Index": "9"})
FAR_AHEAD = with_index(lambda asked, _: max(asked or 0, 1_000_000) + 1)
NO_LEADER = say(500, b"No cluster leader", {"X-Consul-Index": "1"})


def beside(edge: Edge, agent: Consul, **configured: str) -> None:
    """Let the node follow `agent` instead of the one that all tests share."""
    edge.consul, edge.consul_address = agent, agent.address
    edge.configure(**configured)


def missing(edge: Edge, since: int, *names: str) -> list[str]:
    """What the generations after number `since` took out of nginx, of these instances."""
    found = []
    for folder in sorted((edge.nginx.state_dir / "generations").iterdir()):
        if folder.name.isdigit() and int(folder.name) > since:
            objects = re.findall(r'include "(\S+/objects/\S+)";', (folder / "http.conf").read_text())
            assert objects, f"{folder} serves nothing"
            text = "".join(Path(one).read_text() for one in objects)
            gone = [name for name in names if f"127.0.0.1:{edge.backends[name].port}" not in text]
            found += [f"{folder.name}: {name}" for name in gone]
    return found


def heartbeats(edge: Edge) -> None:
    """Have the agent keep the state of the TTL checks, or they are critical after its restart."""
    for name in edge.backends:
        edge.consul.set_check(name, "passing")


def never_a_storm(traffic: Traffic, mark: float) -> None:
    assert traffic.busiest_second(mark) <= PER_SECOND, traffic.timeline(mark)


def hears(edge: Edge, event: str) -> None:
    """Wait until grayctl has told of it once more than before the fault began, which is never."""
    wait_until(lambda: edge.events(event), f"grayctl tells {event}", seconds=40)


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
        ordeal.begin()
        before, mark = edge.generation(), time.monotonic()
        with ordeal.endured():
            proxy.bring(breaks, only)
            wait_until(lambda: proxy.bitten > 3, "the fault bites")
            ordeal.change()
            time.sleep(LASTS)
            proxy.heal()
        never_a_storm(proxy, mark)
        assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "no service, instance or key any more, politely")
def test_empty_answers(ordeal: Ordeal) -> None:
    """Confirmed by a second read, and still: an upstream that had instances is not emptied."""
    edge = ordeal.edge
    with fault_proxy.fault_proxy(edge.consul.address) as proxy:
        edge.consul_address = proxy.address
        edge.configure(watch='services = ["sho*"]')
        ordeal.begin()
        before, mark = edge.generation(), time.monotonic()
        with ordeal.endured():
            proxy.bring(fault_proxy.empty)
            ordeal.change()
            time.sleep(LASTS)
            assert edge.serves("one", "two")
            proxy.heal()
        never_a_storm(proxy, mark)
        assert not missing(edge, before, "one", "two")


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
        ordeal.begin()
        before, mark = edge.generation(), time.monotonic()
        with ordeal.endured():
            relay.blackhole()
            ordeal.change()
            if lasts == "long":
                hears(edge, "consul_lost")
                swallowed = len(relay.requests)
                wait_until(lambda: len(relay.requests) > swallowed, "one more attempt that will hang: the worst moment")
            relay.heal()
        never_a_storm(relay, mark)
        assert not missing(edge, before, "one", "two")
    for number in range(others):
        edge.consul.deregister(f"{prefix}-{number:02}")


# ---------------------------------------------------------------- an agent that dies, hangs, forgets


@pytest.mark.parametrize(
    "sig",
    [
        fault("consul", "killed, restarted with its data", signal.SIGKILL),
        fault("consul", "stopped gracefully, started again", signal.SIGTERM),
    ],
)
def test_a_restart_with_its_data(make_consul: MakeConsul, ordeal: Ordeal, sig: signal.Signals) -> None:
    edge, agent = ordeal.edge, make_consul(persistent=True)
    beside(edge, agent)
    ordeal.begin()
    before = edge.generation()
    heartbeats(edge)
    with ordeal.endured():
        agent.stop(sig)
        hears(edge, "consul_lost")
        time.sleep(LASTS)
        agent.start()
        ordeal.change()
    assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "restarted without its data; the instances register again")
def test_a_restart_without_its_data(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    """All are gone at once: they stay in nginx until they come back."""
    edge, agent = ordeal.edge, make_consul()
    beside(edge, agent)
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        agent.restart(signal.SIGKILL)
        hears(edge, "consul_regained")
        time.sleep(LASTS)
        assert edge.serves("one", "two")
        assert not missing(edge, before, "one", "two")
        for name in ("one", "two"):
            edge.backend(name)


@pytest.mark.fault("consul", "suspended for longer than a call may take")
def test_a_suspended_agent(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge, agent = ordeal.edge, make_consul()
    beside(edge, agent)
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        agent.suspend()
        hears(edge, "consul_lost")
        time.sleep(LASTS)
        agent.resume()
    assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "the agent's connections are taken by another client when it restarts")
def test_the_connection_limit(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    limit = 30
    edge = ordeal.edge
    agent = make_consul(persistent=True, config={"limits": {"http_max_conns_per_client": limit}})
    beside(edge, agent)
    ordeal.begin()
    before = edge.generation()
    heartbeats(edge)
    with ordeal.endured():
        agent.stop()
        hears(edge, "consul_lost")
        agent.start(wait=False)
        with all_connections(agent.http_port, limit):
            refused = "closed without an answer"
            wait_until(lambda: refused in (edge.status() or {})["consul"]["last_error"], "the limit bites")
            time.sleep(LASTS)
        agent.wait_ready()
        ordeal.change()
    assert not missing(edge, before, "one", "two")


@contextlib.contextmanager
def all_connections(port: int, count: int) -> Iterator[None]:
    """Take every connection that an agent gives, from before it gives the first."""
    with contextlib.ExitStack() as stack:

        def take() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                return True
            return False

        wait_until(take, "the agent listens", interval=0.002)
        for _ in range(count):
            assert take()
        yield


# ---------------------------------------------------------------- a cluster


@pytest.mark.fault("consul", "a cluster of three loses its leader")
def test_a_lost_leader(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    servers, client = make_cluster(make_consul)
    beside(edge, client)
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        leader = next(one for one in servers if one.is_leader)
        leader.stop(signal.SIGKILL)
        ordeal.change()
    assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "a cluster of three loses two, and so its quorum, and gets them back")
def test_a_lost_quorum(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    servers, client = make_cluster(make_consul)
    beside(edge, client)
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        leader = next(one for one in servers if one.is_leader)
        other = next(one for one in servers if one is not leader)
        for one in (leader, other):
            one.stop(signal.SIGKILL)
        hears(edge, "consul_lost")
        ordeal.change()
        time.sleep(LASTS)
        assert edge.generation() == before, "nobody can have known anything new"
        for one in (leader, other):
            one.start(wait=False)
        client.wait_ready()
    assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "a cluster of three loses all its data; the instances register again")
def test_a_lost_state(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    """They come back one after another: below guard.min_instances the first would for a moment stand alone."""
    edge = ordeal.edge
    servers, client = make_cluster(make_consul)
    beside(edge, client, more="[guard]\nmin_instances = 2\nmax_loss = 0.3")
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        for one in servers:
            one.stop(signal.SIGKILL)
        for one in servers:
            one.lose_data()
            one.start(wait=False)
        servers[0].wait_ready()
        for name in ("one", "two"):
            edge.backend(name)  # the agent itself takes up to a minute
    assert not missing(edge, before, "one", "two")


# ---------------------------------------------------------------- tokens


@pytest.fixture
def guarded(make_consul: MakeConsul, ordeal: Ordeal) -> Consul:
    """An agent that denies by default; the node beside it has its token in a file."""
    edge, agent = ordeal.edge, make_consul(token=ACL_TOKEN, config=ACL_CONFIG)
    give_token(edge, new_token(edge, agent))
    watch = 'services = ["sho*"]\nwait = "2s"'  # so that no long poll outlives its token for long
    beside(edge, agent, consul=f'token_file = "{edge.folder}/token"', watch=watch)
    return agent


def give_token(edge: Edge, secret: str) -> None:
    (edge.folder / "token").write_text(secret)


def new_token(edge: Edge, agent: Consul) -> str:
    """A token with the rights that the node needs."""
    rules = f"""
        service_prefix "sho" {{ policy = "read" }}
        node_prefix "" {{ policy = "read" }}
        key_prefix "{edge.folder.name}/" {{ policy = "read" }}
    """
    return agent.make_token(rules)[0]


@pytest.mark.fault("consul", "the token is revoked, and a new one given")
def test_a_revoked_token(guarded: Consul, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    before = edge.generation()
    with ordeal.endured():
        guarded.revoke((edge.folder / "token").read_text())
        hears(edge, "consul_denied")
        ordeal.change()
        time.sleep(LASTS)
        assert edge.generation() == before
        give_token(edge, new_token(edge, guarded))
    assert not missing(edge, before, "one", "two")


@pytest.mark.fault("consul", "an anonymous token: every answer is empty, politely")
@pytest.mark.usefixtures("guarded")
def test_an_anonymous_token(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    before = edge.generation()
    good = (edge.folder / "token").read_text()
    with ordeal.endured():
        give_token(edge, "anonymous")
        hears(edge, "consul_denied")
        ordeal.change()
        time.sleep(LASTS)
        assert edge.generation() == before
        give_token(edge, good)
    assert not missing(edge, before, "one", "two")
