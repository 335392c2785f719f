"""What changes for whom between two releases, in sentences for whoever is about to apply one. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Any

from grayctl.model.release import HUNDRED_PERCENT, InForce, Input, Live, Predicate, Release, Ring, Route
from grayctl.policy.live import gives_shares
from grayctl.policy.predicates import text_of
from grayctl.policy.shares import percent

_LONGEST = 160  # letters of a condition; the policy itself says the rest


def difference(before: InForce | None, after: InForce | None) -> tuple[str, ...]:
    """One sentence a change, the most important first; none when nothing changes for anybody.

    Args:
        before: what is in force; None: no release.
        after: what would be; None: the release ends.
    """
    if after is None:
        return ("the release ends: all healthy instances share the requests by their weights, whatever their version",)
    if before is None:
        return tuple(_whole(after))
    return tuple(_changes(before, after))


def moves(before: Live, after: Live, route: str = "") -> tuple[tuple[str, str, int], ...]:
    """(from, to, hundredths of a percent of the users) of those who change their version, the most first.

    Args:
        before: what was in force, with the same salt or without shares.
        after: what will be.
        route: its name; empty for the general shares.
    """
    rings = _ring(before, route), _ring(after, route)
    ends = {0, HUNDRED_PERCENT}
    for ring in rings:
        ends.update(accumulate(slot.width for slot in ring))
    cuts = sorted(ends)
    found: Counter[tuple[str, str]] = Counter()
    served = zip(_served(rings[0], before.stable, cuts), _served(rings[1], after.stable, cuts), strict=True)
    for (start, end), (old, new) in zip(pairwise(cuts), served, strict=True):
        if old != new:
            found[old, new] += end - start
    return tuple((old, new, width) for (old, new), width in sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _served(ring: Ring, stable: str, cuts: list[int]) -> Iterator[str]:
    """Who serves each stretch between two cuts; every end of a slot is one."""
    slots = [(slot.owner if slot.held else stable, slot.width) for slot in ring]
    ends = list(accumulate(width for _, width in slots))
    number = 0
    for start in cuts[:-1]:
        while number < len(ends) and ends[number] <= start:
            number += 1
        yield slots[number][0] if number < len(ends) else stable


def _ring(live: Live, route: str) -> Ring:
    return dict(live.route_rings).get(route, ()) if route else live.ring


# ---------------------------------------------------------------- a release that is new


def _whole(after: InForce) -> Iterator[str]:
    release = after.release
    yield f"the release is new: {release.stable} gets every request that nothing else claims"
    if release.by_weights:
        yield "traffic: all versions share the requests by their instances' weights"
    elif release.shares:
        yield f"traffic: {_shares(release.shares)} of {_whom(release)}"
    for number, route in enumerate(release.routes, 1):
        yield f"route {route.name}: added as number {number}: {_route(release, route)}"
    yield from _fields(Release(service=release.service, stable=release.stable), release)


# ---------------------------------------------------------------- a release that changes


def _changes(before: InForce, after: InForce) -> Iterator[str]:
    old, new = before.release, after.release
    if old.stable != new.stable:
        yield f"stable: {old.stable} -> {new.stable}"
    anew = _placed_anew(before, after)
    if old.identity != new.identity:
        yield f"identity: {_identity(old.identity)} -> {_identity(new.identity)}"
    if anew:
        yield "every user is placed anew, and may change the version"
    if old.by_weights != new.by_weights:
        yield "traffic: by the instances' weights" + ("" if new.by_weights else " no more")
    if old.shares != new.shares:
        yield f"traffic: {_shares(old.shares)} -> {_shares(new.shares)} of {_whom(new)}"
    if not anew and not (old.by_weights or new.by_weights):
        yield from _moved(before, after, "")
    yield from _routes(before, after, anew=anew)
    yield from _fields(old, new)


def _placed_anew(before: InForce, after: InForce) -> bool:
    """Whether those who have a canary are others than before, whatever the shares."""
    alike = before.release.identity == after.release.identity and before.live.salt == after.live.salt
    return not alike and gives_shares(before.live) and gives_shares(after.live)


def _moved(before: InForce, after: InForce, route: str) -> Iterator[str]:
    where = f"route {route}: " if route else ""
    for old, new, width in moves(before.live, after.live, route):
        yield f"{where}{percent(width)}% of {_whom(after.release)} move from {old} to {new}"


def _routes(before: InForce, after: InForce, *, anew: bool) -> Iterator[str]:
    old, new = ({route.name: route for route in one.release.routes} for one in (before, after))
    for name in [name for name in old if name not in new]:
        yield f"route {name}: removed: {_route(before.release, old[name])}"
    for number, (name, route) in enumerate(new.items(), 1):
        if name not in old:
            yield f"route {name}: added as number {number}: {_route(after.release, route)}"
            continue
        if old[name].predicate != route.predicate:
            yield f"route {name}: {_asks(old[name].predicate)} -> {_asks(route.predicate)}"
        if (old[name].to, old[name].shares) != (route.to, route.shares):
            yield f"route {name}: {_leads(old[name])} -> {_leads(route)}"
        if route.shares and old[name].shares and not anew:
            yield from _moved(before, after, name)
    stay = [[name for name in one if name in old and name in new] for one in (old, new)]
    if stay[0] != stay[1]:
        yield f"routes are asked in another order: {', '.join(new)}"


def _fields(old: Release, new: Release) -> Iterator[str]:
    """What remains; in few words, since the text itself says it best."""
    if old.protocol != new.protocol:
        yield f"protocol: {old.protocol} -> {new.protocol}"
    if old.explicit != new.explicit:
        yield f"explicit: {_explicit(old)} -> {_explicit(new)}"
    if old.blue_green != new.blue_green:
        yield f"blue_green: {_preview(old)} -> {_preview(new)}"
    if old.regions != new.regions:
        names = sorted({one.name for one in {*old.regions} ^ {*new.regions}})
        yield f"regions: {', '.join(names)} changed"
    if old.balance != new.balance:
        yield f"balance: {_balance(old)} -> {_balance(new)}"
    if old.upstream != new.upstream:
        yield "upstream: " + ", ".join(
            f"{name} {getattr(old.upstream, name)} -> {getattr(new.upstream, name)}"
            for name in old.upstream.__struct_fields__
            if getattr(old.upstream, name) != getattr(new.upstream, name)
        )
    if old.when_empty != new.when_empty:
        yield f"when_empty: {old.when_empty} -> {new.when_empty}"


# ---------------------------------------------------------------- words


def _whom(release: Release) -> str:
    return "all requests" if release.identity is None else "all users"


def _shares(shares: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{version} {percent(share)}%" for version, share in shares) or "none"


def _leads(route: Route) -> str:
    return route.to or _shares(route.shares)


def _route(release: Release, route: Route) -> str:
    rest = "" if route.to else f", the rest {release.stable}"
    return f"where {_asks(route.predicate)} holds, {_leads(route)}{rest}"


def _asks(predicate: Predicate) -> str:
    text = text_of(predicate)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _identity(identity: tuple[Input, ...] | None) -> str:
    return "none" if identity is None else ", ".join(one.text for one in identity)


def _explicit(release: Release) -> str:
    one = release.explicit
    if one is None:
        return "none"
    where = f" from {', '.join(one.networks)}" if one.networks else ""
    return f"{one.input.text} names {', '.join(one.versions)}{where}, unknown: {one.unknown}"


def _preview(release: Release) -> str:
    one = release.blue_green
    return f"{one.preview} where {_asks(one.predicate)} holds" if one else "none"


def _balance(release: Release) -> str:
    key: Any = release.balance.key
    return f"{release.balance.method} {key.text}" if key else str(release.balance.method)
