"""Builds what `grayctl status` shows, and puts outcomes into words."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from grayctl import __version__
from grayctl.assembly import Parts
from grayctl.consul.watch import Watcher
from grayctl.errors import EXIT_REFUSED, GrayctlError, NginxError, TemplateError
from grayctl.metrics import outcome_name
from grayctl.model.catalog import Catalog, Freeze
from grayctl.model.generation import Manifest
from grayctl.model.outcome import Applied, Held, HeldBy, Outcome, Rejected, RolledBack, Unchanged
from grayctl.model.plan import Compiled, Finding, Server, ServicePlan, Serving
from grayctl.model.release import HUNDRED_PERCENT
from grayctl.model.report import (
    ConsulReport,
    FlapperReport,
    FreezeReport,
    GenerationReport,
    GuardReport,
    NginxReport,
    ReleaseReport,
    Result,
    ServerReport,
    ServiceReport,
    Status,
)
from grayctl.nginx.generations import Store
from grayctl.nginx.site import Site
from grayctl.policy.damping import Damping
from grayctl.policy.guard import Hold
from grayctl.quarantine import Case, Ward
from grayctl.render.fileset import ObjectHeader, read_header
from grayctl.settings import DampingSettings, Settings

_EXIT_CODES: dict[type[Outcome], int] = {Unchanged: 0, Applied: 0, Held: 1, Rejected: 1, RolledBack: 3}


def summary(outcome: Outcome) -> str:
    """An outcome as one sentence."""
    match outcome:
        case Unchanged(generation=number):
            return f"generation {number} stands: nothing to change"
        case Applied(generation=number, proven=True, changed=changed):
            return f"generation {number} is served ({len(changed)} services changed)"
        case Applied(generation=number):
            return f"generation {number} is checked and stands; nginx does not run, its next start serves it"
        case Held(generation=number, by=by, reason=reason):
            return f"held at generation {number} ({by}): {reason}"
        case Rejected(generation=number, reason=reason):
            return f"refused by the check, generation {number} stays: {reason}"
        case RolledBack(generation=number, failed=failed, reason=reason, restored=restored):
            proof = "proven again" if restored else "NOT proven: look at nginx now"
            return f"generation {failed} was not served ({reason}); generation {number} is back, {proof}"


def fields(outcome: Outcome) -> dict[str, object]:
    """An outcome's own fields, for a log event."""
    return asdict(outcome)


def result(outcome: Outcome, ward: Ward, *, about: Collection[str] | None = None) -> Result:
    """An outcome as a command's answer, which names all services in quarantine.

    Args:
        outcome: what came of it.
        ward: who is in quarantine.
        about: the services that the command was to change, whose quarantine makes it a refusal; None for all.
    """
    reasons = ward.reasons()
    refused = reasons.keys() if about is None else reasons.keys() & set(about)
    return Result(
        outcome=outcome_name(outcome),
        message="\n".join([summary(outcome), *(f"{name} is in quarantine: {why}" for name, why in reasons.items())]),
        exit_code=_EXIT_CODES[type(outcome)] or (EXIT_REFUSED if refused else 0),
        generation=outcome.generation,
    )


def held_by(error: GrayctlError | OSError) -> HeldBy:
    """Which part of the machinery failed, as in Held."""
    if isinstance(error, NginxError):
        return "nginx"
    if isinstance(error, TemplateError):
        return "template"
    # StateError explains what the disk refused; a bare OSError is the machine's, such as too many open files
    return "disk" if isinstance(error, GrayctlError) else "machine"


def build_status(
    *,
    settings: Settings,
    started: float,
    parts: Parts,
    watcher: Watcher | None,
    catalog: Catalog | None,
    freeze: Freeze | None,
    last: str,
    trouble: str,
    unadopted: Mapping[str, str],
    caveats: tuple[str, ...],
) -> Status:
    """The daemon's own view."""
    converger, site = parts.converger, parts.site
    plan, ward = converger.plan, converger.ward
    services = tuple(
        _service(
            one,
            converger.served(name),
            len(catalog.services.get(name, ())) if catalog else 0,
            ward.cases.get(name),
            converger.standing.staged.get(name, ""),
            flappers=_flappers(name, converger.damping, settings.damping),
        )
        for name, one in (plan.services if plan else {}).items()
    )
    refused = tuple(f"{name}: {why}" for name, why in (plan.refused if plan else {}).items())
    policies = tuple(f"release of {service}: {why}" for service, why in converger.standing.problems.items())
    policies += tuple(
        f"release of {service}: edited by hand, and not yet adopted: {why}" for service, why in unadopted.items()
    )
    policies += tuple(
        f"release of {service}: the service is not watched here"
        for service in converger.standing.in_force
        if plan is not None and service not in plan.services and service not in plan.refused
    )
    unreported = (f"this node is not reported to the fleet: {trouble}",) if trouble else ()
    return Status(
        node=settings.node,
        version=__version__,
        daemon=True,
        pid=os.getpid(),
        started=started,
        generation=_generation(converger.serving, proven=site.proven),
        nginx=_nginx(site),
        consul=_consul(settings, watcher),
        freeze=_freeze(freeze),
        guard=_guard(converger.hold),
        last_outcome=last,
        services=services,
        warnings=(*filter(None, caveats), *_denied(watcher), *refused, *policies, *unreported),
    )


def _nginx(site: Site) -> NginxReport:
    return NginxReport(
        version=site.facts.version,
        binary=str(site.facts.binary),
        conf=str(site.facts.conf),
        pid=site.master.pid if site.master else None,
        staging=site.staging,
        orphans=len(site.orphans),
        old_workers=site.crew()[1],
    )


def disk_status(settings: Settings, freeze: Freeze | None) -> Status:
    """What the state directory tells when no daemon answers, or one that cannot begin."""
    store = Store(Path(settings.state_dir))
    serving = store.current()
    services = []
    for name, one in (store.objects(serving, whole=False) if serving else {}).items():
        header = read_header(one.content)
        servers = header.servers() if header else ()
        services.append(
            ServiceReport(
                service=name,
                id=header.id if header else "",
                serving="unknown" if header is None else "refused" if header.refused else "live",
                versions=_versions(servers),
                servers=_servers(servers),
                registered=0,
                dropped=0,
                quarantine=serving.quarantined.get(name, "") if serving else "",
            )
        )
    return Status(
        node=settings.node,
        version=__version__,
        daemon=False,
        generation=_generation(serving, proven=store.state().proven),
        freeze=_freeze(freeze),
        services=tuple(services),
        warnings=("no daemon answers: this is what the state directory says",),
    )


def _denied(watcher: Watcher | None) -> tuple[str, ...]:
    """A denial is an answer, so Consul counts as there; but what it hides gets old."""
    denied = watcher.state.denied if watcher else ()
    if not denied:
        return ()
    named = ", ".join(denied[:3]) + (", ..." if len(denied) > len(denied[:3]) else "")
    return (f"Consul denies the token {len(denied)} queries ({named}): `grayctl check` names the right it lacks",)


def _freeze(freeze: Freeze | None) -> FreezeReport | None:
    if freeze is None:
        return None
    return FreezeReport(
        reason=freeze.reason, author=freeze.author, since=freeze.since, until=freeze.until, scope=freeze.scope
    )


def _guard(hold: Hold | None) -> GuardReport | None:
    if hold is None:
        return None
    epoch = time.time() - time.monotonic()
    return GuardReport(lost=hold.lost, known=hold.known, since=epoch + hold.since, until=epoch + hold.until)


def _generation(manifest: Manifest | None, *, proven: bool) -> GenerationReport | None:
    if manifest is None:
        return None
    return GenerationReport(
        number=manifest.number,
        digest=manifest.digest,
        created=manifest.created,
        cause=manifest.cause,
        proven=proven,
    )


def _consul(settings: Settings, watcher: Watcher | None) -> ConsulReport | None:
    if watcher is None:
        return None
    state = watcher.state
    return ConsulReport(
        address=settings.consul.address,
        connected=state.connected,
        since=state.since,
        last_error=state.last_error,
        services_watched=state.services_watched,
        cold=state.cold,
        long_polls=state.long_polls,
    )


def _service(
    plan: ServicePlan,
    served: ObjectHeader | None,
    registered: int,
    case: Case | None,
    staged: str,
    *,
    flappers: tuple[FlapperReport, ...],
) -> ServiceReport:
    """What is served, from the object that stands; what is wanted shows only where it differs."""
    instances = {one.address: one.instance for one in plan.known}
    refused = served is None or served.refused
    servers = tuple(
        replace(one, instance=instances.get(one.address, ""))
        for one in (() if served is None or refused else served.servers())
    )
    applied = refused == (plan.serving is Serving.REFUSED) and set(servers) == set(_wanted(plan))
    serving = plan.serving if applied else Serving.REFUSED if refused else Serving.LIVE
    waiting = () if applied else (_waiting(plan),)
    staging = (staged,) if staged else ()
    return ServiceReport(
        service=plan.service,
        id=plan.id,
        serving=serving,
        versions=_versions(servers),
        servers=_servers(servers),
        registered=registered,
        dropped=len({finding.instance for finding in plan.findings if finding.dropped}),
        findings=tuple(_words(finding) for finding in plan.findings),
        notices=(*plan.notices, *staging, *waiting),
        quarantine=case.reason if case else "",
        quarantined_since=case.since if case else None,
        release=_release(plan.compiled),
        flappers=flappers,
    )


def _flappers(service: str, damping: Damping, settings: DampingSettings) -> tuple[FlapperReport, ...]:
    epoch = time.time() - time.monotonic()
    return tuple(
        FlapperReport(
            node=one.node,
            instance=one.id,
            since=epoch + (found.since or 0.0),
            until=epoch + found.flips[-1] + settings.calm,
            kept=settings.keep if one in damping.kept else "",
        )
        for one, found in damping.flappers.items()
        if one.service == service
    )


def _release(compiled: Compiled | None) -> ReleaseReport | None:
    if compiled is None:
        return None
    release, live = compiled.in_force.release, compiled.in_force.live
    return ReleaseReport(
        revision=live.revision,
        stable=release.stable,
        shares={version: share / HUNDRED_PERCENT for version, share in release.shares},
        routes=tuple(route.name for route in release.routes),
        fallback=compiled.fallback,
    )


def _wanted(plan: ServicePlan) -> tuple[Server, ...]:
    return () if plan.serving is Serving.REFUSED else plan.known


def _waiting(plan: ServicePlan) -> str:
    return f"not applied yet: {len(_wanted(plan))} servers, {plan.serving}"


def _words(finding: Finding) -> str:
    what = "dropped" if finding.dropped else "noted"
    return f"{finding.instance}: {what}: {finding.field} {finding.value!r}: {finding.why}"


def _total(servers: tuple[Server, ...]) -> int:
    return sum(one.weight for one in servers if not one.backup) or 1


def _servers(servers: tuple[Server, ...]) -> tuple[ServerReport, ...]:
    total = _total(servers)
    return tuple(
        ServerReport(
            address=one.address.text,
            instance=one.instance,
            version=one.version,
            weight=one.weight,
            share=0.0 if one.backup else one.weight / total,
            backup=one.backup,
        )
        for one in servers
    )


def _versions(servers: tuple[Server, ...]) -> dict[str, float]:
    total = _total(servers)
    versions: dict[str, float] = {}
    for one in servers:
        versions[one.version] = versions.get(one.version, 0.0) + (0 if one.backup else one.weight / total)
    return dict(sorted(versions.items()))
