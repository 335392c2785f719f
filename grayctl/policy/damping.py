"""Flap damping: an instance that keeps flipping stays out, or in, until it is calm. Pure.

A flip is a change from healthy to anything else, gone included, or back. More than `damping.max_flips` of them within
`damping.window` make an instance a flapper; it is one until `damping.calm` has passed without a flip. It is kept out:
healthy or not, it gets no traffic. But only beside others that serve its version, so that damping never empties a
service or a version. Or, where the operator has chosen so, it is kept in: critical or gone, it stays as it was when it
was last healthy, unless people took it out (maintenance, a drain), its node failed, or the guard keeps absent instances
of the service already.

Flips are counted in what Consul says, whether or not it was applied. What is kept out is still registered, so for the
guard it is present.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.identity import differing
from grayctl.model.identity import kept as unchanged
from grayctl.policy.admission import admit, is_healthy
from grayctl.settings import DampingSettings, WatchSettings

Services = Mapping[str, tuple[Registration, ...]]


class Instance(NamedTuple):
    """An instance across registrations: its id is unique on its node."""

    service: str
    node: str
    id: str


@dataclass(frozen=True, slots=True)
class Flipping:
    """An instance that flipped lately.

    Attributes:
        flips: when, monotonic seconds, oldest first: no more than it takes to be a flapper.
        last: as it was when it was last healthy.
        since: since when it is a flapper, monotonic seconds; None while it is none.
    """

    flips: tuple[float, ...]
    last: Registration
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Damping:
    """Who flipped lately, and who is a flapper. Times are monotonic seconds.

    Attributes:
        seen: the services that were looked at last; None before the first look.
        flipping: those that flipped within the window, and the flappers.
        until: when the first flapper is calm, unless it flips again; None without flappers. A converge is due then.
        kept: the flappers that the last `apply` kept out or in; the others are what they are in Consul.
        made: service -> its instances as the last `apply` left them, where they are not Consul's.
    """

    seen: Services | None = None
    flipping: Mapping[Instance, Flipping] = field(default_factory=dict)
    until: float | None = None
    kept: frozenset[Instance] = frozenset()
    made: Services = field(default_factory=dict)

    @property
    def flappers(self) -> dict[Instance, Flipping]:
        """Those that are damped, in order."""
        return {one: found for one, found in sorted(self.flipping.items()) if found.since is not None}

    def look(self, services: Services, settings: DampingSettings, watch: WatchSettings, now: float) -> "Damping":
        """Count the flips since the last look, and let the calm go.

        Args:
            services: complete, as Consul has them; what did not change is the same objects as last time.
            settings: how often is too often, and how long calm is.
            watch: whether `warning` counts as healthy.
            now: monotonic seconds.
        """
        if not settings.max_flips:
            return self if self.seen is None else Damping()
        found = dict(self.flipping)
        for service in differing(services, self.seen) if self.seen is not None else ():
            for one, registration in _flipped(service, (self.seen or {}), services, watch).items():
                earlier = found.get(one)
                flips = (*earlier.flips[-settings.max_flips :], now) if earlier else (now,)
                found[one] = Flipping(flips, registration, earlier.since if earlier else None)
        judged = {one: after for one, before in found.items() if (after := _judged(before, settings, now)) is not None}
        ends = [one.flips[-1] + settings.calm for one in judged.values() if one.since is not None]
        return replace(self, seen=services, flipping=judged, until=min(ends, default=None))

    def apply(
        self,
        catalog: Catalog,
        settings: DampingSettings,
        watch: WatchSettings,
        *,
        drained: Mapping[str, frozenset[str]],
        guarded: AbstractSet[str],
    ) -> tuple["Damping", Catalog]:
        """The catalog as it is to be served: flappers kept out are critical in it, flappers kept in are passing.

        Args:
            catalog: the one that `look` saw last.
            settings: out or in.
            watch: which registrations may serve.
            drained: ids of the instances that people took out, by service.
            guarded: the services whose absent instances the guard keeps.
        """
        flappers = self.flappers
        if not flappers:
            return (replace(self, kept=frozenset(), made={}) if self.kept else self), catalog
        kept: set[Instance] = set()
        made: dict[str, tuple[Registration, ...]] = {}
        for service in {one.service for one in flappers}:
            here = {one: found.last for one, found in flappers.items() if one.service == service}
            rows = catalog.services.get(service, ())
            if settings.keep == "out":
                changed = _kept_out(rows, here.keys(), catalog, watch, drained.get(service, frozenset()))
            else:
                changed = _kept_in(rows, here, watch, bring_back=service not in guarded)
            if changed:
                kept.update(changed)
                left = [changed.get(_instance(row), row) for row in rows]
                known = {_instance(row) for row in rows}
                left += [row for one, row in changed.items() if one not in known]
                made[service] = unchanged(self.made, service, tuple(sorted(left)))
        served = msgspec.structs.replace(catalog, services={**catalog.services, **made}) if made else catalog
        return replace(self, kept=frozenset(kept), made=made), served


def _instance(one: Registration) -> Instance:
    return Instance(one.service, one.node, one.id)


def _flipped(service: str, then: Services, now: Services, watch: WatchSettings) -> dict[Instance, Registration]:
    """Who was healthy and is no more, or the other way round; as it is, or was, when healthy."""
    before, after = (
        {_instance(one): one for one in some.get(service, ()) if is_healthy(one, include_warning=watch.include_warning)}
        for some in (then, now)
    )
    return {one: after.get(one) or before[one] for one in before.keys() ^ after.keys()}


def _judged(one: Flipping, settings: DampingSettings, now: float) -> Flipping | None:
    """With the flips that count still; None when there is nothing left to remember."""
    calm = now - one.flips[-1]
    if one.since is not None:
        return None if calm >= settings.calm else one
    if calm >= settings.window:
        return None
    flips = tuple(at for at in one.flips if now - at < settings.window)
    return Flipping(flips, one.last, now if len(flips) > settings.max_flips else None)


def _kept_out(
    rows: tuple[Registration, ...],
    flappers: AbstractSet[Instance],
    catalog: Catalog,
    watch: WatchSettings,
    drained: frozenset[str],
) -> dict[Instance, Registration]:
    """The healthy flappers beside which others serve their version, as critical."""
    steady = [row for row in rows if _instance(row) not in flappers]
    versions = {server.version for server in admit(steady, catalog.names, watch, drained).healthy if not server.backup}
    found: dict[Instance, Registration] = {}
    for row in rows:
        if _instance(row) in flappers and is_healthy(row, include_warning=watch.include_warning):
            serves = admit([row], catalog.names, watch, drained).healthy
            if serves and serves[0].version in versions:
                found[_instance(row)] = msgspec.structs.replace(row, health=Health.CRITICAL)
    return found


def _kept_in(
    rows: tuple[Registration, ...],
    flappers: Mapping[Instance, Registration],
    watch: WatchSettings,
    *,
    bring_back: bool,
) -> dict[Instance, Registration]:
    """The flappers that are not healthy now, as passing."""
    found = {one: last for one, last in flappers.items() if bring_back}
    for row in rows:
        one = _instance(row)
        if one in flappers:
            found.pop(one, None)
            lost = row.node_failed or row.health is Health.MAINTENANCE
            if not lost and not is_healthy(row, include_warning=watch.include_warning):
                found[one] = msgspec.structs.replace(row, health=Health.PASSING)
    return found
