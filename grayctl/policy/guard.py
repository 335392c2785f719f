"""The guard: instances that are suddenly absent, many at once, are kept until it has lasted. Pure.

An instance that its own check calls critical leaves at once, and so do a few that were deregistered. But when more
than `guard.max_loss` of everything known is gone at once, or lost with the check of its node, then rather Consul, the
network or a site has failed than each of these instances: they stay in use beside whatever else there is, until as
many are there as before, until it has lasted `guard.hold`, or until somebody says that it is meant (`grayctl guard
accept`).

"At once" is within `guard.window`: nodes that fail together are declared dead one after another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from grayctl.model.identity import differing, renewed
from grayctl.model.plan import Server
from grayctl.model.tokens import Address
from grayctl.settings import GuardSettings


@dataclass(frozen=True, slots=True)
class Sight:
    """What was lately seen of one service.

    Attributes:
        present: the addresses registered now, healthy or not, on nodes that live.
        counts: (since, how many were present), oldest first; the first may have begun before the window.
        servers: address -> the server as it was when it was last healthy, and since when it is absent.
        learnt: the very `present` that `servers` was last learnt with.
    """

    present: frozenset[Address] = frozenset()
    counts: tuple[tuple[float, int], ...] = ()
    servers: Mapping[Address, tuple[Server, float | None]] = field(default_factory=dict)
    learnt: frozenset[Address] | None = field(default=None, compare=False)

    @property
    def most(self) -> int:
        """The most that were present at one time."""
        return max((count for _, count in self.counts), default=0)

    @property
    def lost(self) -> int:
        """How many fewer there are now: a redeployment under new addresses is no loss."""
        return self.most - len(self.present)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing changes here by time alone: there were never more in the window, nobody is absent.

        Smaller numbers that grow too old meanwhile make no difference, and go when it is looked at again.
        """
        return self.lost == 0 and self.is_learnt

    @property
    def is_learnt(self) -> bool:
        """Whether learning it again changes nothing, as long as the same servers serve: nobody is absent."""
        return self.learnt is self.present and not any(gone is not None for _, gone in self.servers.values())

    def absent(self) -> tuple[Server, ...]:
        """The servers that were healthy and are registered no more, sorted."""
        return tuple(sorted(server for address, (server, _) in self.servers.items() if address not in self.present))


@dataclass(frozen=True, slots=True)
class Hold:
    """A disappearance that is not believed yet: `lost` of `known` instances, since and until monotonic seconds."""

    since: float
    until: float
    lost: int
    known: int


@dataclass(frozen=True, slots=True)
class Guard:
    """What was seen, and whether something is held. Times are monotonic seconds.

    Attributes:
        due: the services that time alone may change, or that were not learnt yet; all others are at rest until
            another object says who is present, or who serves.
        learnt: who served when it was last learnt.
        seen: who was present when it last judged.
    """

    sights: Mapping[str, Sight] = field(default_factory=dict)
    hold: Hold | None = None
    due: frozenset[str] = frozenset()
    learnt: Mapping[str, tuple[Server, ...]] = field(default_factory=dict)
    seen: Mapping[str, frozenset[Address]] = field(default_factory=dict)

    @classmethod
    def after_start(cls, known: Mapping[str, tuple[Server, ...]], now: float) -> "Guard":
        """What was served before a restart counts as present until now."""
        return cls(
            {
                service: Sight(
                    frozenset(server.address for server in servers),
                    ((now, len(servers)),),
                    {server.address: (server, None) for server in servers},
                )
                for service, servers in known.items()
            },
            due=frozenset(known),
        )

    def judge(self, present: Mapping[str, frozenset[Address]], settings: GuardSettings, now: float) -> "Guard":
        """Look at who is present.

        Args:
            present: every watched service's addresses, healthy or not; those on a node that failed are left out.
            settings: how much is too much, and for how long.
            now: monotonic seconds.
        """
        # what a hold holds on to does not grow old
        horizon = (self.hold.since if self.hold else now) - settings.window
        due = self.due | differing(present, self.seen)
        seen = {
            service: _seen(self.sights.get(service, Sight()), present.get(service, frozenset()), now, horizon)
            for service in due
        }
        sights = renewed(self.sights, due, seen)
        looked = replace(self, sights=sights, hold=None, due=due, seen=present)
        lost = sum(sight.lost for sight in seen.values())
        if lost == 0:
            return looked
        known = sum(sight.most for sight in sights.values())
        # A hold that has begun waits for all: when half of them are back the others are no less alive.
        believable = 0 if self.hold else settings.max_loss * known
        if known < settings.min_instances or lost <= believable:
            return looked
        since = self.hold.since if self.hold else now
        hold = Hold(since, since + settings.hold, lost, known)
        held = replace(looked, hold=hold)
        return held if now < hold.until else held.accept(now)

    def accept(self, now: float) -> "Guard":
        """Believe it: what is absent now was never there."""
        return Guard(
            {
                service: Sight(
                    sight.present,
                    ((now, len(sight.present)),),
                    {address: seen for address, seen in sight.servers.items() if address in sight.present},
                )
                for service, sight in self.sights.items()
            },
            due=frozenset(self.sights),
            seen=self.seen,
        )

    def kept(self) -> dict[str, tuple[Server, ...]]:
        """The absent servers that stay in use, by service; empty while nothing is held."""
        if self.hold is None:
            return {}
        return {service: absent for service, sight in self.sights.items() if (absent := sight.absent())}

    def learn(self, healthy: Mapping[str, tuple[Server, ...]], settings: GuardSettings, now: float) -> "Guard":
        """Remember who serves now; who is absent is remembered for the window, or as long as a hold lasts.

        Args:
            healthy: what each service serves, the kept ones included.
            settings: the window.
            now: monotonic seconds.
        """
        horizon = (self.hold.since if self.hold else now) - settings.window
        known = self.sights
        stale = differing(healthy, self.learnt) & known.keys()
        stale.update(service for service in self.due if not known[service].is_learnt)
        made = {
            service: replace(
                known[service],
                servers=_remembered(known[service], healthy.get(service, ()), now, horizon),
                learnt=known[service].present,
            )
            for service in stale
        }
        sights = renewed(known, stale, made)
        restless = frozenset(service for service in self.due | stale if not sights[service].is_at_rest)
        return replace(self, sights=sights, due=restless, learnt=healthy)

    def forget(self, service: str) -> "Guard":
        """A service that is published no more."""
        return replace(self, sights=renewed(self.sights, {service}, {}), due=self.due - {service}, seen={})


def _seen(sight: Sight, present: frozenset[Address], now: float, horizon: float) -> Sight:
    counts = sight.counts
    if not counts or counts[-1][1] != len(present):
        counts = (*counts, (now, len(present)))
    # a count held until the next one began
    while len(counts) > 1 and counts[1][0] <= horizon:
        counts = counts[1:]
    return replace(sight, present=present, counts=counts)


def _remembered(
    sight: Sight, healthy: tuple[Server, ...], now: float, horizon: float
) -> dict[Address, tuple[Server, float | None]]:
    found: dict[Address, tuple[Server, float | None]] = {}
    for address, (server, gone) in sight.servers.items():
        if address not in sight.present and (gone is None or gone > horizon):
            found[address] = (server, now if gone is None else gone)
    for server in healthy:
        if server.address in sight.present:
            found[server.address] = (server, None)
    return found
