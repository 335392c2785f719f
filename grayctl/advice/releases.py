"""What releases let decide: conditions on what a client writes, and on its address."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grayctl.advice.decisions import chosen_by, is_address
from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import Decision
from grayctl.errors import ReleaseError
from grayctl.model.release import AnyOf, Condition, Input, Not, Predicate, Release, Source
from grayctl.policy.document import Document, read_document

UNREADABLE = Rule(
    "release-unreadable", Level.FAILURE, "decisions", "what a release says is not followed until it can be read"
)

_NETWORK = "10.0.0.0/8"
_WRITTEN = {Source.HEADER: "header", Source.COOKIE: "cookie", Source.QUERY: "argument"}


@dataclass(frozen=True, slots=True)
class _Reach:
    """How a predicate is reached: by what the client writes, by its address, and whether the latter must hold too."""

    chosen: tuple[str, ...] = ()
    address: bool = False
    guarded: bool = False


def read(policies: Mapping[str, bytes]) -> tuple[tuple[Decision, ...], tuple[Finding, ...]]:
    """What the policies let decide, and those that cannot be read.

    Args:
        policies: key in Consul -> text.
    """
    decisions: list[Decision] = []
    findings: list[Finding] = []
    for key, text in policies.items():
        try:
            decisions += of(read_document(text, key, service=key.rpartition("/")[2]))
        except ReleaseError as error:
            advice = "mend what is named, then apply the release again"
            findings.append(UNREADABLE.found(str(error), how=How.DO, advice=advice, where=key))
    return tuple(decisions), tuple(findings)


def of(document: Document) -> Iterator[Decision]:
    """Everything in one release that decides by a request, with the line that takes the choice from the client."""
    release = document.release
    for number, route in enumerate(release.routes):
        what = f"route {route.name} of {release.service}"
        yield _decision(document, what, f"routes[{number}]", _reach(route.predicate, release))
    if release.blue_green:
        what = f"the preview of {release.service}"
        yield _decision(document, what, "blue_green", _reach(release.blue_green.predicate, release))
    if release.explicit:
        reach = _Reach(_written(release.explicit.input), bool(release.explicit.networks))
        what, guard = f"the explicit version of {release.service}", f"from: [{_NETWORK}]"
        yield _made(document, what, "explicit", reach, "" if release.explicit.networks else guard)
    if release.shares or any(route.shares for route in release.routes):
        address = Input(Source.CLIENT_IP) in (release.identity or ())
        yield _made(document, f"the identity of {release.service}", "identity", _Reach(address=address), "")
    if release.balance.key:
        key = release.balance.key.text
        reach = _Reach(chosen_by(key), is_address(key))
        yield _made(document, f"the balance of {release.service}", "balance", reach, "balance: {hash: $remote_addr}")
    elif release.balance.method.value == "ip_hash":
        yield _made(document, f"the balance of {release.service}", "balance", _Reach(address=True), "")


def _decision(document: Document, what: str, path: str, reach: _Reach) -> Decision:
    """Of a predicate: `match` and `when` must both hold, so the one that is not there takes the guard."""
    places = document.places
    if f"{path}.match" not in places:
        guard = f"match: {{client_ip: [{_NETWORK}]}}"
    elif f"{path}.match[0]" in places and f"{path}.when" not in places:
        guard = f'when: client_ip in ["{_NETWORK}"]'
    else:
        guard = f"client_ip: [{_NETWORK}]"
    return _made(document, what, path, reach, "" if reach.guarded else guard)


def _made(document: Document, what: str, path: str, reach: _Reach, guard: str) -> Decision:
    place = document.places.get(path)
    return Decision(
        what=what,
        chosen=reach.chosen,
        by_address=reach.address,
        where=f"{document.file}:{place.line}" if place else document.file,
        how=How.RELEASE if guard else How.NONE,
        guard=guard,
    )


def _reach(predicate: Predicate, release: Release) -> _Reach:
    if isinstance(predicate, Condition):
        return _atom(predicate, release)
    if isinstance(predicate, Not):  # anybody can leave something out; an address that must not be is no guard
        return _Reach(address=_reach(predicate.part, release).address)
    parts = [_reach(part, release) for part in predicate.parts]
    open_ones = [part for part in parts if not part.guarded]
    guarded = not open_ones if isinstance(predicate, AnyOf) else len(open_ones) < len(parts)
    counted = open_ones if isinstance(predicate, AnyOf) else parts
    chosen = dict.fromkeys(name for part in counted for name in part.chosen)
    return _Reach(tuple(chosen), any(part.address for part in parts), guarded)


def _atom(condition: Condition, release: Release) -> _Reach:
    source = condition.input.source
    if source is Source.CLIENT_IP:
        return _Reach(address=True, guarded=True)
    if source is Source.REGION:
        networks = all(one.networks for one in release.regions if one.name in condition.values)
        return _Reach(address=networks, guarded=networks)
    if source is Source.IDENTITY:
        chain = release.identity or ()
        written = tuple(word for one in chain for word in _written(one))
        return _Reach(written, address=Input(Source.CLIENT_IP) in chain)
    return _Reach(_written(condition.input))


def _written(one: Input) -> tuple[str, ...]:
    return (f"{_WRITTEN[one.source]} {one.name}",) if one.source in _WRITTEN else ()
