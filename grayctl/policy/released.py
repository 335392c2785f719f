"""A service with a Release -> its part of the Plan: an upstream for each version that may answer, and the tables."""

from collections.abc import Mapping

from grayctl.model.naming import service_id, service_slug
from grayctl.model.plan import (
    Compiled,
    Decision,
    Graph,
    Known,
    Refusal,
    Server,
    ServicePlan,
    Serving,
    refusal_address,
)
from grayctl.model.release import InForce, Protocol, Release
from grayctl.model.tables import Constant, Map, Split, Table, Value
from grayctl.model.tokens import Joined, MapKey, Text, Variable, Word
from grayctl.policy.admission import Admitted
from grayctl.policy.compile import compile_release
from grayctl.policy.upstreams import upstream
from grayctl.settings import Settings


def resolve_release(
    admitted: Admitted,
    known: Known | None,
    settings: Settings,
    in_force: InForce,
    lists: Mapping[str, tuple[str, ...]],
    *,
    guarded: tuple[Server, ...] = (),
    before: Compiled | None = None,
) -> ServicePlan:
    """One service's part of the Plan, by its policy.

    Args:
        admitted: the instances that may serve.
        known: what it served last, for `keep_last`.
        settings: the ports of the refusals.
        in_force: what decides.
        lists: name -> entries.
        guarded: absent servers that the guard keeps in use.
        before: what was compiled last; it is taken again when nothing it was made of is new.
    """
    release = in_force.release
    by_version: dict[str, list[Server]] = {}
    for server in sorted((*admitted.healthy, *guarded)):
        by_version.setdefault(server.version, []).append(server)
    nameless = len(by_version.pop("", []))
    last = tuple(one for one in known.servers if one.version == release.stable) if known else ()
    serving = Serving.LIVE
    if release.stable not in by_version:
        serving = Serving.KEPT if last and release.when_empty == "keep_last" else Serving.REFUSED
        if serving is Serving.KEPT:
            by_version[release.stable] = list(last)
    identity = service_id(release.service)
    compiled = _compiled(in_force, frozenset(by_version), lists, before)
    graph, tcp = compiled.graph, release.protocol is Protocol.TCP
    names = _names(release, graph)
    kept = tuple(server for servers in by_version.values() for server in servers)
    return ServicePlan(
        service=release.service,
        id=identity,
        upstreams=tuple(
            upstream(name, tuple(_of(version, by_version)), release.balance, release.upstream, settings.nginx, tcp=tcp)
            for version, name in sorted(names.items())
        ),
        tables=_tables(identity, graph, names, release, settings),
        serving=serving if by_version else Serving.REFUSED,
        known=tuple(sorted(kept)) or (known.servers if known else ()),
        findings=admitted.findings,
        notices=(*graph.warnings, *_notices(release, by_version, serving, admitted, nameless=nameless)),
        guarded=guarded,
        compiled=compiled,
        released=True,
        drained=admitted.drained,
    )


def _compiled(
    in_force: InForce, available: frozenset[str], lists: Mapping[str, tuple[str, ...]], before: Compiled | None
) -> Compiled:
    used = tuple((name, lists.get(name, ())) for name in sorted(in_force.release.lists))
    if (
        before is not None
        and before.in_force is in_force
        and before.available == available
        and all(old is new for (_, old), (_, new) in zip(before.lists, used, strict=True))
    ):
        return before
    identity = service_id(in_force.release.service)
    return Compiled(
        in_force, available, used, compile_release(in_force.release, in_force.live, identity, available, lists)
    )


def _of(version: str, by_version: Mapping[str, list[Server]]) -> list[Server]:
    """A version's servers; without a version those of all."""
    return by_version[version] if version else sorted(one for servers in by_version.values() for one in servers)


def _names(release: Release, graph: Graph) -> dict[str, Word]:
    """The upstreams that decisions lead to, by version; the one of all versions has none."""
    slug, names, taken = service_slug(release.service), dict[str, Word](), set[str]()
    for decision in graph.decisions.values():
        if decision.reject or decision.unavailable or decision.version in names:
            continue
        name = f"{slug}.{decision.version}.gray" if decision.version else f"{slug}.gray"
        while name.lower() in taken:  # nginx's names ignore case, versions do not
            name = f"{name}.{len(taken)}"
        taken.add(name.lower())
        names[decision.version] = Word(name)
    return names


def _tables(
    identity: str, graph: Graph, names: Mapping[str, Word], release: Release, settings: Settings
) -> tuple[Table, ...]:
    """The graph, and behind it the three variables that people use: where to, which version, by which rule."""
    bad_request, unavailable = _refusals(release.protocol, settings)

    def target(decision: Decision) -> str:
        if decision.reject:
            return bad_request
        if decision.unavailable:
            return unavailable
        return names[decision.version].text

    meanings = {
        Variable(f"gray_{identity}"): {code: target(one) for code, one in graph.decisions.items()},
        Variable(f"grayver_{identity}"): {code: one.version for code, one in graph.decisions.items()},
        Variable(f"grayroute_{identity}"): {code: one.route for code, one in graph.decisions.items()},
    }
    split = next((one for one in graph.tables if isinstance(one, Split) and one.variable == graph.root), None)
    if split is None:
        return (*graph.tables, *(_face(variable, graph, said) for variable, said in meanings.items()))
    # Shares and nothing else: each variable splits for itself, since each `map` costs a reload a millisecond
    faces = (_split_face(variable, split, said) for variable, said in meanings.items())
    return (*(one for one in graph.tables if one is not split), *faces)


def _refusals(protocol: Protocol, settings: Settings) -> tuple[str, str]:
    """Where a request goes that is answered 400, and one that is answered 503."""
    if protocol is Protocol.TCP:  # it has no answers: nobody listens there, so nginx closes the connection
        return (f"unix:{settings.state_dir}/refused",) * 2
    grpc = protocol is Protocol.GRPC
    return (
        refusal_address(settings.nginx, Refusal.GRPC_BAD_REQUEST if grpc else Refusal.BAD_REQUEST).text,
        refusal_address(settings.nginx, Refusal.GRPC_UNAVAILABLE if grpc else Refusal.UNAVAILABLE).text,
    )


def constant_faces(identity: str) -> tuple[Table, ...]:
    """Version and route of a service whose Release was ended: its owner's configuration may still name them."""
    return (
        Constant(Variable(f"grayver_{identity}"), Text("")),
        Constant(Variable(f"grayroute_{identity}"), Text("stable")),
    )


def _face(variable: Variable, graph: Graph, meanings: Mapping[str, str]) -> Table:
    if isinstance(graph.root, Text):
        return Constant(variable, Text(meanings[graph.root.text]))
    texts = list(meanings.values())
    default = max(texts, key=texts.count)
    entries: tuple[tuple[MapKey, Value], ...] = tuple(
        (MapKey(code), Text(text)) for code, text in meanings.items() if text != default
    )
    return (
        Map(variable, Joined((graph.root,)), entries, Text(default)) if entries else Constant(variable, Text(default))
    )


def _split_face(variable: Variable, split: Split, meanings: Mapping[str, str]) -> Table:
    """The very cuts of `split`, so that the three variables agree on every user; the version's tells of the slot."""
    if len(set(meanings.values())) == 1:
        return Constant(variable, Text(meanings[split.rest.text]))
    shares = tuple((share, Text(meanings[text.text])) for share, text in split.shares)
    rule = split.rule if variable.name.startswith("grayver_") else None
    return Split(variable, split.source, shares, Text(meanings[split.rest.text]), rule)


def _notices(
    release: Release, by_version: Mapping[str, list[Server]], serving: Serving, admitted: Admitted, *, nameless: int
) -> tuple[str, ...]:
    notices = []
    if serving is Serving.KEPT:
        notices.append(f"stable {release.stable} has no healthy instance: the last known stay in use")
    if serving is Serving.REFUSED:
        notices.append(f"stable {release.stable} has no healthy instance: what it should answer is answered 503")
    notices += [
        f"{version} has no healthy instance: its share goes to {release.stable}"
        for version in release.versions[1:]
        if version not in by_version
    ]
    if nameless:
        notices.append(f"{nameless} healthy without a version: no traffic; register a version")
    if admitted.drained:
        notices.append(f"drained by hand: {', '.join(admitted.drained)}")
    if admitted.idle:
        notices.append(f"{admitted.idle} healthy with weight 0: no traffic")
    return tuple(notices)
