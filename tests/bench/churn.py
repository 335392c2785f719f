"""Half an hour without rest: what grayctl, its nginx and its state directory take meanwhile, and whether it grows."""

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from tests.bench.machines import WORKERS, Grayctl, Stage, address, stage
from tests.bench.resources import Sample, sample, unused_objects
from tests.support.process import wait_until

SERVICES, INSTANCES = 20, 10
_FEWEST, _MOST = 6, 14
_BRIEF, _BRIEF_INSTANCES = "brief-*", 3  # services that come, go and are forgotten
_FORGOTTEN_WITHIN = 30.0
_SETTLED_WITHIN = 60.0
_BUSY, _SLOW = 10.0, 1.0  # changes a second, in turns: coalesced reloads, and a reload for each change
_PHASE = 10.0
_BROKEN = ("bogus_directive on;\n", "{% if %}\n")  # nginx refuses one, Jinja2 the other
_HOSTILE: tuple[dict[str, str], ...] = (
    {"weight": "abc"},
    {"weight": "-1"},
    {"version": "v1; } evil"},
    {"address": "unix:/tmp/x"},
    {"address": "127.0.0.1; server 127.0.0.9"},
)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run.

    Attributes:
        keep: `keep_generations`.
        done: what was changed, by kind.
        events: what grayctl logged, by event.
        final: the sample after all came to rest.
        unused: objects on disk that no generation uses then.
    """

    seconds: float
    keep: int
    samples: list[Sample]
    done: dict[str, int]
    events: dict[str, int]
    final: Sample
    unused: list[str]

    @property
    def left(self) -> list[str]:
        """What should not be there when all is at rest."""
        found = {
            "journal files": self.final.pending,
            "temporary files": self.final.leftovers,
            "ended children that nobody waited for": self.final.zombies,
            "objects that no generation uses": len(self.unused),
        }
        return [f"{count} {name} left" for name, count in found.items() if count]


@dataclass(frozen=True, slots=True)
class Instance:
    """One registration as it should be in Consul."""

    id: str
    service: str
    address: str
    version: str = "v1"
    weight: int = 10
    passing: bool = True


class Churn:
    """Twenty services that never rest. The order of the changes is the same in every run; their timing is not."""

    def __init__(self, grayctl: Grayctl, here: Stage, keep: int) -> None:
        self.done: dict[str, int] = {}
        self._grayctl = grayctl
        self._keep = keep
        self._consul = here.consul
        self._port = here.backends.port
        self._templates = here.folder / "templates"
        (self._templates / "services").mkdir(parents=True)
        self.configure()
        self._random = random.Random(20)
        self._instances: dict[str, Instance] = {}
        self._made = 0
        self._later: list[tuple[float, Callable[[], None]]] = []
        # what happens by the clock: name -> (seconds between two, what is done)
        self._timetable: dict[str, tuple[float, Callable[[], None]]] = {
            "hostile registration": (15.0, self._hostile),
            "new service": (15.0, self._found),
            "reload by hand": (20.0, self._reload_by_hand),
            "all of one service critical": (25.0, self._vanish),
            "grayctl status": (30.0, self._status),
            "template broken": (40.0, self._break_template),
            "watcher started over": (50.0, self._watch_anew),
        }
        self._next = dict.fromkeys(self._timetable, 0.0)
        for service in grayctl.services:
            for _ in range(INSTANCES):
                self._arrive(service)

    def run(self, seconds: float) -> None:
        """Change something until the time is over."""
        began = time.monotonic()
        self._next = {name: began + period / 2 for name, (period, _) in self._timetable.items()}
        common = {
            "weight": (6, self._weigh),
            "version": (4, self._promote),
            "flap": (6, self._flap),
            "arrival": (3, lambda: self._arrive(self._any_service())),
            "departure": (3, self._leave),
            "check output": (4, self._chatter),
            "key": (3, self._write_key),
        }
        names, shares = list(common), [share for share, _ in common.values()]
        while (now := time.monotonic()) < began + seconds:
            self._follow_timetable(now)
            name = self._random.choices(names, shares)[0]
            common[name][1]()
            self._count(name)
            rate = _SLOW if int((now - began) / _PHASE) % 2 else _BUSY
            time.sleep(self._random.expovariate(rate))

    def settle(self) -> dict[str, set[str]]:
        """Mend everything; returns service -> the addresses that should serve it in the end."""
        while self._later:
            self._later.pop(0)[1]()  # what puts something off again has its turn again
        for one in list(self._instances.values()):
            self._register(replace(one, weight=10))
            self._set_health(one.id, passing=True)  # a registration leaves a check that is there as it is
        return {
            service: {one.address for one in self._instances.values() if one.service == service}
            for service in self._grayctl.services
        }

    def _follow_timetable(self, now: float) -> None:
        for at, act in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove((at, act))
            act()
        for name, (period, act) in self._timetable.items():
            if now >= self._next[name]:
                self._next[name] = now + period
                act()
                self._count(name)

    def _count(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    # ------------------------------------------------------------ what changes all the time

    def _any_service(self) -> str:
        return self._random.choice(self._grayctl.services)

    def _any(self) -> Instance:
        return self._random.choice(list(self._instances.values()))

    def _of(self, service: str) -> list[Instance]:
        return [one for one in self._instances.values() if one.service == service]

    def _register(self, one: Instance) -> None:
        self._instances[one.id] = one
        health = "passing" if one.passing else "critical"
        self._consul.register(
            one.service, one.id, one.address, self._port, version=one.version, weight=one.weight, health=health
        )

    def _weigh(self) -> None:
        self._register(replace(self._any(), weight=self._random.randint(1, 50)))

    def _promote(self) -> None:
        self._register(replace(self._any(), version=f"v{self._random.randint(1, 9)}"))

    def _flap(self) -> None:
        one = self._any()
        self._set_health(one.id, passing=not one.passing)

    def _set_health(self, id: str, *, passing: bool) -> None:  # noqa: A002 -- Consul's word
        if id in self._instances:
            self._instances[id] = replace(self._instances[id], passing=passing)
            self._consul.set_check(id, "passing" if passing else "critical")

    def _arrive(self, service: str) -> None:
        if len(self._of(service)) < _MOST:
            self._made += 1  # a new address each time, so that what is remembered by address or content would pile up
            self._register(Instance(f"{service}-{self._made}", service, address(self._made)))

    def _leave(self) -> None:
        one = self._any()
        if len(self._of(one.service)) > _FEWEST:
            del self._instances[one.id]
            self._consul.deregister(one.id)

    def _chatter(self) -> None:
        one = self._any()
        self._consul.set_check(
            one.id, "passing" if one.passing else "critical", output=self._random.randbytes(99).hex()
        )

    def _write_key(self) -> None:
        number = self._random.randrange(9)
        key = f"grayctl/{self._random.choice(('lists/people', 'staged', 'drains'))}/{number}"
        if self._random.random() < 1 / 3:
            self._consul.delete(key)
        else:
            self._consul.put(key, self._random.randbytes(self._random.randrange(9999)).hex())

    # ------------------------------------------------------------ what happens by the clock

    def _hostile(self) -> None:
        service = self._any_service()
        name, what = f"{service}-hostile", self._random.choice(_HOSTILE)
        valid = {"address": address(0), "version": "v1", "weight": "1"}
        body = valid | what
        self._consul.register(
            service, name, body["address"], self._port, version=body["version"], weight=body["weight"]
        )
        self._after(8, partial(self._consul.deregister, name))

    def _vanish(self) -> None:
        """A service without a healthy instance: the last known ones serve on."""
        for one in self._of(self._any_service()):
            self._set_health(one.id, passing=False)
            self._after(4, partial(self._set_health, one.id, passing=True))

    def _found(self) -> None:
        """A service that lives for ten seconds, then goes, and is forgotten."""
        name = _BRIEF.replace("*", str(self.done.get("new service", 0)))
        for _ in range(_BRIEF_INSTANCES):
            self._arrive(name)
        self._after(10, partial(self._dissolve, name))

    def _dissolve(self, service: str) -> None:
        for one in self._of(service):
            del self._instances[one.id]
            self._consul.deregister(one.id)
        self._after(2, partial(self._forget, service, time.monotonic() + _FORGOTTEN_WITHIN))

    def _forget(self, service: str, deadline: float) -> None:
        """Forget it as an operator would; that its end has not been heard of yet is no fault."""
        done = self._grayctl.edge.cli("forget", service, "--json")
        if done.stdout and json.loads(done.stdout)["outcome"] == "applied":
            self._count("service forgotten")
        elif time.monotonic() > deadline:
            raise AssertionError(f"grayctl forget {service}: {done.stdout}{done.stderr}")
        else:
            self._after(2, partial(self._forget, service, deadline))

    def _reload_by_hand(self) -> None:
        self._grayctl.nginx.reload()

    def _status(self) -> None:
        assert self._grayctl.edge.status() is not None

    def _hang_up(self) -> None:
        assert self._grayctl.edge.process is not None
        self._grayctl.edge.process.send_signal(signal.SIGHUP)

    def _break_template(self) -> None:
        own = self._templates / "services" / f"{self._any_service()}.conf.j2"
        own.write_text(_BROKEN[self.done.get("template broken", 0) % len(_BROKEN)], encoding="utf-8")
        self._hang_up()

        def mend() -> None:
            own.unlink()
            self._hang_up()

        self._after(12, mend)

    def _watch_anew(self) -> None:
        self.configure(wait=50 + self.done.get("watcher started over", 0) % 2)
        self._hang_up()

    def configure(self, *, wait: int = 50) -> None:
        """Write grayctl's settings; another `wait` makes it start its watcher over at SIGHUP."""
        self._grayctl.configure(
            _BRIEF,
            top=f'templates_dir = "{self._templates}"\nkeep_generations = {self._keep}',
            watch=f'wait = "{wait}s"',
        )


def run(seconds: float, every: float, *, keep: int = 20) -> Run:
    """Churn for `seconds` with a sample each `every` seconds, then let it come to rest and look once more.

    Raises:
        AssertionError: what is registered in the end is not served.
    """
    with stage() as here:
        grayctl = Grayctl(here.folder / "grayctl", here.consul, *(f"churn-{number:02}" for number in range(SERVICES)))
        with closing(grayctl):
            churn = Churn(grayctl, here, keep)
            grayctl.start()
            wait_until(lambda: all(grayctl.ask(1, one) for one in grayctl.services), "every service is served")
            began = time.monotonic()
            with _sampled(grayctl, began, every) as samples:
                churn.run(seconds)
            wanted = churn.settle()
            _wait_until_served(grayctl, wanted)
            (final,) = wait_until(partial(_at_rest, grayctl, began), "all is at rest", seconds=30, interval=0.5)
            return Run(
                seconds=seconds,
                keep=keep,
                samples=samples,
                done=churn.done,
                events=_events(grayctl.edge.log),
                final=final,
                unused=sorted(unused_objects(grayctl.nginx.state_dir)),
            )


def _wait_until_served(grayctl: Grayctl, wanted: dict[str, set[str]]) -> None:
    """Return when exactly the wanted services are published, and of each exactly the wanted addresses answer.

    Raises:
        AssertionError: it did not come to that.
    """
    deadline = time.monotonic() + _SETTLED_WITHIN
    while wrong := _wrong(grayctl, wanted):
        if time.monotonic() > deadline:
            raise AssertionError(f"{_SETTLED_WITHIN:g} s after the last change: {wrong}; {grayctl.edge.status()}")
        time.sleep(0.1)


def _wrong(grayctl: Grayctl, wanted: dict[str, set[str]]) -> dict[str, set[str]]:
    """Service -> addresses that should answer and do not, or the other way round; `published` -> services."""
    status = grayctl.edge.status()
    published = {one["service"] for one in status["services"]} if status else set()
    answering = {service: set().union(*(grayctl.ask(8, service) for _ in range(8))) for service in wanted}
    found = {service: addresses ^ answering[service] for service, addresses in wanted.items()}
    found["published"] = published ^ set(wanted)
    return {name: difference for name, difference in found.items() if difference}


def _events(log: Path) -> dict[str, int]:
    """How often grayctl logged what."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return dict(Counter(str(msgspec.json.decode(line)["event"]) for line in lines if line.startswith("{")))


def _at_rest(grayctl: Grayctl, began: float) -> list[Sample]:
    """The sample, when nothing is under way any more."""
    now = sample(grayctl, began)
    return [now] if (now.children, now.leaving, now.workers) == (0, 0, WORKERS) else []


@contextmanager
def _sampled(grayctl: Grayctl, began: float, every: float) -> Iterator[list[Sample]]:
    """Sample from a thread meanwhile; what fails there is raised at the end."""
    samples: list[Sample] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            samples.append(sample(grayctl, began))

    with ThreadPoolExecutor(1, "sampler") as pool:
        looking = pool.submit(look)
        try:
            yield samples
        finally:
            over.set()
        looking.result()
