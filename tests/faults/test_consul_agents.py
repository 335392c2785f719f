"""Agents that die, hang, forget or are full; a cluster that loses its servers; tokens that are worth nothing."""

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul, make_cluster
from tests.support.edge import Edge
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until
from tests.support.relay import Relay
from tests.support.unshaken import LASTS, beside, hears, heartbeats, missing, unshaken

# Below guard.min_instances the first that registers again would for a moment stand alone.
SMALL = "[guard]\nmin_instances = 2\nmax_loss = 0.3\n"


@pytest.mark.parametrize(
    "sig",
    [
        fault("consul", "killed, restarted with its data", signal.SIGKILL),
        fault("consul", "stopped gracefully, started again", signal.SIGTERM),
    ],
)
def test_a_restart_with_its_data(make_consul: MakeConsul, ordeal: Ordeal, sig: signal.Signals) -> None:
    """Connections are refused meanwhile."""
    edge, agent = ordeal.edge, make_consul(persistent=True)
    edge.consul, edge.consul_address = agent, agent.address
    edge.configure()
    with unshaken(ordeal, None):
        heartbeats(edge)
        agent.stop(sig)
        hears(edge, "consul_lost")
        time.sleep(LASTS)
        agent.start()
        ordeal.change()


@pytest.mark.fault("consul", "away while grayctl is killed and started again")
def test_a_start_without_consul(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    """What is on disk is all there is to know."""
    edge, agent = ordeal.edge, make_consul(persistent=True)
    ordeal.grayctl = "restarted"
    with beside(edge, agent) as relay, unshaken(ordeal, relay):
        heartbeats(edge)
        agent.stop(signal.SIGKILL)
        edge.down(signal.SIGKILL)
        edge.run()
        time.sleep(LASTS)
        assert edge.serves("one", "two")
        agent.start()
        ordeal.change()


@pytest.mark.fault("consul", "restarted without its data; the instances register again")
def test_a_restart_without_its_data(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    """All are gone at once: they stay in nginx until they come back."""
    edge, agent = ordeal.edge, make_consul()
    with beside(edge, agent, more=SMALL) as relay, unshaken(ordeal, relay):
        before = edge.generation()
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
    with beside(edge, agent) as relay, unshaken(ordeal, relay):
        agent.suspend()
        hears(edge, "consul_lost")
        time.sleep(LASTS)
        agent.resume()
        ordeal.change()


@pytest.mark.fault("consul", "the agent's connections are taken by another client when it restarts")
def test_the_connection_limit(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    limit = 30
    edge = ordeal.edge
    agent = make_consul(persistent=True, config={"limits": {"http_max_conns_per_client": limit}})
    with beside(edge, agent) as relay, unshaken(ordeal, relay):
        heartbeats(edge)
        agent.stop()
        hears(edge, "consul_lost")
        agent.start(wait=False)
        with all_connections(agent.http_port, limit):
            # the words of 1.8, and of newer agents, which answer 429 before they close
            refused = re.compile("closed without an answer|too many concurrent connections|reset by peer")
            wait_until(lambda: refused.search((edge.status() or {})["consul"]["last_error"]), "the limit bites")
            time.sleep(LASTS)
        agent.wait_ready()
        ordeal.change()


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
    servers, client = make_cluster(make_consul)
    with beside(ordeal.edge, client) as relay, unshaken(ordeal, relay):
        leader = next(one for one in servers if one.is_leader)
        leader.stop(signal.SIGKILL)
        ordeal.change()


@pytest.mark.fault("consul", "a cluster of three loses two, and so its quorum, and gets them back")
def test_a_lost_quorum(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    servers, client = make_cluster(make_consul)
    with beside(edge, client) as relay, unshaken(ordeal, relay):
        before = edge.generation()
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


@pytest.mark.fault("consul", "a cluster of three loses all its data; the instances register again")
def test_a_lost_state(make_consul: MakeConsul, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    servers, client = make_cluster(make_consul)
    with beside(edge, client, more=SMALL) as relay, unshaken(ordeal, relay):
        for one in servers:
            one.stop(signal.SIGKILL)
        for one in servers:
            one.lose_data()
            one.start(wait=False)
        servers[0].wait_ready()
        for name in ("one", "two"):
            edge.backend(name)  # the agent itself takes up to a minute


# ---------------------------------------------------------------- tokens


@pytest.fixture
def guarded(make_consul: MakeConsul) -> Consul:
    """An agent that denies by default."""
    return make_consul(token=ACL_TOKEN, config=ACL_CONFIG)


@pytest.fixture
def relay(guarded: Consul, ordeal: Ordeal) -> Iterator[Relay]:
    """The node beside it has its token in a file."""
    edge = ordeal.edge
    give_token(edge, new_token(edge, guarded))
    watch = 'services = ["sho*"]\nwait = "2s"'  # so that no long poll outlives its token for long
    with beside(edge, guarded, consul=f'token_file = "{edge.folder}/token"', watch=watch) as found:
        yield found


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
def test_a_revoked_token(guarded: Consul, ordeal: Ordeal, relay: Relay) -> None:
    edge = ordeal.edge
    with unshaken(ordeal, relay):
        before = edge.generation()
        guarded.revoke((edge.folder / "token").read_text())
        hears(edge, "consul_denied")
        ordeal.change()
        time.sleep(LASTS)
        assert edge.generation() == before
        give_token(edge, new_token(edge, guarded))


@pytest.mark.fault("consul", "an anonymous token: every answer is empty, politely")
def test_an_anonymous_token(relay: Relay, ordeal: Ordeal) -> None:
    edge = ordeal.edge
    with unshaken(ordeal, relay):
        before = edge.generation()
        good = (edge.folder / "token").read_text()
        give_token(edge, "anonymous")
        hears(edge, "consul_denied")
        ordeal.change()
        time.sleep(LASTS)
        assert edge.generation() == before
        give_token(edge, good)
