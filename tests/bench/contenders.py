"""All that are compared, on the same services: grayctl, consul-template in three forms, and the floor."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.bench.fleet import CHANGING, Fleet
from tests.bench.floor import Floor
from tests.bench.machines import ConsulTemplate, Contender, Grayctl, Stage, Upstreams
from tests.support.process import wait_until

WAIT = 'wait {\n  min = "200ms"\n  max = "2s"\n}'
OURS, CHECKED, FLOOR = "grayctl", "checked", "floor"
LABELS: Mapping[str, str] = {
    OURS: "grayctl",
    "plain": "CT documented",
    CHECKED: "CT `-t`",
    "wait": "CT `-t`, `wait`",
    FLOOR: "floor",
}
PEERS = tuple(name for name in LABELS if name != OURS)
MISSING = "missing"
_SETTLED_WITHIN = 180.0


@dataclass(frozen=True, slots=True)
class Lane:
    """A contender and its own services."""

    name: str
    one: Contender
    fleet: Fleet

    @property
    def prefix(self) -> str | None:
        """grayctl's, in Consul."""
        return self.one.name if isinstance(self.one, Grayctl) else None

    def wait_served(self) -> None:
        """Return when every located service answers."""
        for service in self.one.services[: self.one.located]:
            what = f"{self.one.name} serves {service}"
            wait_until(partial(self.answers, service), what, seconds=_SETTLED_WITHIN, interval=0.005)

    def answers(self, service: str) -> bool:
        """Whether one of a service's instances answers for it."""
        return bool(self.one.ask(1, service) & {one.address for one in self.fleet.instances[service]})


def present() -> tuple[str, ...]:
    """The names of those that can run here."""
    return tuple(name for name in LABELS if name in {OURS, FLOOR} or ConsulTemplate.binary() is not None)


def make(
    name: str,
    folder: Path,
    here: Stage,
    fleet: Fleet,
    *,
    locations: int = 0,
    own_zones: bool = True,
    watch: str | None = None,
    agent: str = "",
) -> Lane:
    """A contender that is not started. Its nginx has `locations`, else one for each service that may change.

    Args:
        own_zones: each upstream has one, but for grayctl's, which share theirs.
        watch: grayctl's settings of that section; None for a long poll for each service, as consul-template has.
        agent: the URL of what stands before the agent.
    """
    makers: Mapping[str, Callable[[], Contender]] = {
        OURS: lambda: Grayctl(folder, here.consul, *fleet.services),
        "plain": lambda: _peer(folder, here, fleet, checked=False),
        CHECKED: lambda: _peer(folder, here, fleet),
        "wait": lambda: _peer(folder, here, fleet, wait=WAIT),
        FLOOR: lambda: Floor(folder, here.consul, fleet),
    }
    one = makers[name]()
    one.agent = agent or one.agent
    one.located = min(len(fleet.services), 1 + (locations or CHANGING))
    if isinstance(one, Upstreams):
        one.zone = "64k" if own_zones else ""  # enough for ten instances
    if isinstance(one, Grayctl):
        one.configure(watch=f"max_long_polls = {len(fleet.services) + 20}" if watch is None else watch)
        fleet.release(one.name)
    return Lane(name, one, fleet)


def _peer(folder: Path, here: Stage, fleet: Fleet, *, checked: bool = True, wait: str = "") -> ConsulTemplate:
    more = {"released": fleet.released, "key": fleet.key}
    return ConsulTemplate(folder, here.consul, *fleet.services, checked=checked, wait=wait, **more)


def lanes(here: Stage, stack: ExitStack, size: int, locations: int = 0, *, own_zones: bool = True) -> Iterator[Lane]:
    """Each contender that can run here, started and serving, with services of its own."""
    numbers = count()
    for name in present():
        fleet = Fleet(name, size, here, numbers, 1 if name == FLOOR else CHANGING)
        fleet.register()
        lane = make(name, here.folder / name, here, fleet, locations=locations, own_zones=own_zones)
        stack.callback(lane.one.close)
        lane.one.start()
        lane.wait_served()
        yield lane
