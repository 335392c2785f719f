"""What every fault of Consul's must leave as it is, beyond what an Ordeal demands."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.background import in_background
from tests.support.consul import Consul
from tests.support.edge import Edge
from tests.support.ordeal import Ordeal
from tests.support.process import wait_until
from tests.support.relay import Relay, relay_to
from tests.support.traffic import Traffic

PER_SECOND = 20  # PROMISES: requests in all, under any fault
LASTS = 5.0  # long enough for several attempts of everybody


@contextlib.contextmanager
def unshaken(ordeal: Ordeal, traffic: Traffic | None, *names: str) -> Iterator[None]:
    """Begin with instances of these names, or two; the body brings the fault and takes it away.

    No generation leaves out what was served at the beginning, and Consul is asked at most 20 times in any second.
    """
    edge = ordeal.edge
    ordeal.begin(*names)
    served = tuple(edge.backends)
    before, mark = edge.generation(), time.monotonic()
    with ordeal.endured():
        yield
    if traffic is not None:
        assert traffic.busiest_second(mark) <= PER_SECOND, traffic.timeline(mark)
    assert not missing(edge, before, *served)


@contextlib.contextmanager
def beside(edge: Edge, agent: Consul, **configured: str) -> Iterator[Relay]:
    """Let the node follow `agent` instead of the one that all tests share, through a relay."""
    edge.consul = agent
    with in_background(relay_to(agent.http_port)) as relay:
        edge.consul_address = relay.address
        edge.configure(**configured)
        yield relay


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


def hears(edge: Edge, event: str) -> None:
    """Wait until grayctl tells of it for the first time."""
    wait_until(lambda: edge.events(event), f"grayctl tells {event}", seconds=40)


def heartbeats(edge: Edge) -> None:
    """Have the agent keep the state of the TTL checks, or they are critical after its restart."""
    for name in edge.backends:
        edge.consul.set_check(name, "passing")
