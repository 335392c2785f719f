"""Catalog -> Plan: what nginx shall do for each service.

A service without a Release is one upstream of its healthy instances with their weights, and the constant
`$gray_<id>` that names it.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from grayctl.model.catalog import Catalog
from grayctl.model.identity import Renewed, differing, kept, renewed
from grayctl.model.naming import service_id, service_slug
from grayctl.model.plan import (
    Known,
    Plan,
    Server,
    ServicePlan,
    Serving,
)
from grayctl.model.release import UpstreamOptions
from grayctl.model.tables import Constant
from grayctl.model.tokens import Variable, Word
from grayctl.policy.admission import Admitted, admit
from grayctl.policy.released import constant_faces, resolve_release
from grayctl.policy.standing import NO_RELEASES, Standing
from grayctl.policy.upstreams import parse_balance, upstream
from grayctl.settings import ServiceSettings, Settings

# A hash bucket's element: a pointer, the length (2 bytes) and the name, rounded up to the pointer's size; the
# bucket ends with one more pointer (ngx_hash.c). So 46 bytes fit into nginx's default bucket of 64.
_POINTER = 8
_LONGEST_PREFIX = len("gray_")
_LONGEST_ID = 123  # what the tokens for variables take, whatever nginx would


@dataclass(frozen=True, slots=True)
class Limits:
    """What nginx's hashes take: `variables_hash_bucket_size` of the user's configuration, in bytes."""

    variables_hash_bucket_size: int = 64

    @property
    def longest_id(self) -> int:
        """The longest service id whose variables fit into a bucket."""
        return min(_LONGEST_ID, self.variables_hash_bucket_size - 2 * _POINTER - 2 - _LONGEST_PREFIX)

    def overlong(self, plan: ServicePlan) -> str | None:
        """Why a table's variable is too long for nginx, and what to do; None when none is."""
        length = max((len(table.variable.name) for table in plan.tables), default=0)
        if length <= self.variables_hash_bucket_size - 2 * _POINTER - 2:
            return None
        bucket = self.variables_hash_bucket_size
        while length > bucket - 2 * _POINTER - 2:
            bucket *= 2
        return (
            f"its release needs variables of {length} characters, nginx's variables hash takes "
            f"{self.variables_hash_bucket_size - 2 * _POINTER - 2}; "
            f"set 'variables_hash_bucket_size {bucket};' in the http block"
        )

    def refusal(self, service: str) -> str | None:
        """Why a service's name is too long, and what to do; None when it is not."""
        length, bucket = len(service_id(service)), self.bucket_for(service)
        if bucket == self.variables_hash_bucket_size:
            return None
        if bucket is None:
            return f"its id has {length} characters, {_LONGEST_ID} are allowed; rename the service"
        return (
            f"its id has {length} characters, nginx's variables hash takes {self.longest_id}; "
            f"set 'variables_hash_bucket_size {bucket};' in the http block"
        )

    def bucket_for(self, service: str) -> int | None:
        """The bucket size that takes a service's name: the one at hand, doubled as needed; None when none would."""
        length, bucket = len(service_id(service)), self.variables_hash_bucket_size
        if length > _LONGEST_ID:
            return None
        while Limits(bucket).longest_id < length:
            bucket *= 2
        return bucket


def resolve(
    catalog: Catalog,
    known: Mapping[str, Known],
    settings: Settings,
    limits: Limits,
    before: Plan | None = None,
    *,
    guarded: Mapping[str, tuple[Server, ...]] | None = None,
    standing: Standing = NO_RELEASES,
) -> Plan:
    """Decide what nginx shall do for every service that is watched or was published.

    Args:
        catalog: complete.
        known: what each published service served last; a name once published stays.
        settings: the services' own settings, the watch rules, the ports of the refusals.
        limits: of the nginx at hand.
        before: the previous Plan. A service whose part of all this is the same objects as then is not planned again;
            one whose plan comes out equal keeps its very object, so that whoever caches by identity need not compare.
        guarded: absent servers that the guard keeps in use, by service.
        standing: the releases; a service without one is a single upstream.

    Returns:
        A plan for every service, or the reason why one cannot have any (an id taken by another, a name too long).
    """
    given = Given(catalog, known, settings, limits, guarded or {}, standing)
    earlier: Mapping[str, ServicePlan] = before.services if before else Renewed()
    stale = given.stale(before.given, earlier) if before and isinstance(before.given, Given) else None
    # nobody came or went and all had a plan: so each id belongs to whom it belonged
    settled = stale is not None and before is not None and not before.refused and _all_stay(stale, earlier, given)
    candidates = stale if settled and stale is not None else catalog.services.keys() | known.keys()
    services: dict[str, ServicePlan] = {}
    owner = {} if settled else {one.id: service for service, one in sorted(known.items())}
    refused: dict[str, str] = {}
    for service in sorted(candidates):
        identity = service_id(service)
        first = owner.setdefault(identity, service)
        if first != service:
            refused[service] = f"its id {identity!r} belongs to {first!r}; rename one of the two services"
        elif (too_long := limits.refusal(service)) is not None:
            refused[service] = too_long
        elif stale is not None and service not in stale and service in earlier:
            services[service] = earlier[service]
        else:
            try:
                plan = _plan(service, given, earlier.get(service))
            except ValueError as error:  # a token that nginx could not take: this service's, and no other's
                refused[service] = f"its release cannot be written for nginx: {error}"
                continue
            if (longest := limits.overlong(plan)) is not None:
                refused[service] = longest
            else:
                services[service] = kept(earlier, service, plan)
    # whoever was not looked at is as he was
    gone = candidates if settled else earlier.keys() - services.keys()
    return Plan(renewed(earlier, gone, services), refused, given)


@dataclass(frozen=True, slots=True)
class Given:
    """All that a Plan is made of: see `resolve`."""

    catalog: Catalog
    known: Mapping[str, Known]
    settings: Settings
    limits: Limits
    guarded: Mapping[str, tuple[Server, ...]]
    standing: Standing

    def stale(self, then: "Given", plans: Mapping[str, ServicePlan]) -> AbstractSet[str] | None:
        """The services of which any part that counts is another object than then; None when all shall be planned again.

        Args:
            then: what `plans` were made of.
            plans: by service.
        """
        if self.settings is not then.settings or self.limits != then.limits or self.catalog.names != then.catalog.names:
            return None
        now, before = self.standing, then.standing
        found = (
            differing(self.catalog.services, then.catalog.services)
            | {name for name in differing(self.known, then.known) if not self._matters_little(name, plans.get(name))}
            | differing(self.guarded, then.guarded)
            | differing(now.in_force, before.in_force)
            | differing(now.drained, before.drained)
        )
        return found | now.in_force.keys() if differing(now.lists, before.lists) else found

    def _matters_little(self, service: str, plan: ServicePlan | None) -> bool:
        """Whether what a service served last says nothing new: it has healthy instances and no release."""
        known = self.known.get(service)
        if plan is None or known is None:
            return False
        return plan.serving is Serving.LIVE and plan.compiled is None and plan.released == known.released


def _all_stay(services: Iterable[str], earlier: Mapping[str, ServicePlan], given: Given) -> bool:
    """Whether each had a plan before and shall have one now."""
    return all(one in earlier and (one in given.catalog.services or one in given.known) for one in services)


def _plan(service: str, given: Given, before: ServicePlan | None) -> ServicePlan:
    """One service's part, with its release where it has one."""
    settings, standing = given.settings, given.standing
    known, guarded = given.known.get(service), given.guarded.get(service, ())
    found = given.catalog.services.get(service, ())
    admitted = admit(found, given.catalog.names, settings.watch, standing.drained.get(service, frozenset()))
    in_force = standing.in_force.get(service)
    if in_force is None:
        return resolve_service(service, admitted, known, settings, guarded=guarded)
    compiled = before.compiled if before else None
    return resolve_release(admitted, known, settings, in_force, standing.lists, guarded=guarded, before=compiled)


def resolve_service(
    service: str,
    admitted: Admitted,
    known: Known | None,
    settings: Settings,
    *,
    guarded: tuple[Server, ...] = (),
) -> ServicePlan:
    """One service's part of the Plan."""
    own = settings.service(service)
    last = known.servers if known else ()
    usable = tuple(sorted((*admitted.healthy, *guarded)))
    if usable:
        serving, servers = (Serving.LIVE if admitted.healthy else Serving.KEPT), usable
    elif last and own.when_empty == "keep_last":
        serving, servers = Serving.KEPT, last
    else:
        serving, servers = Serving.REFUSED, ()
    released = known is not None and known.released
    identity, name = service_id(service), Word(f"{service_slug(service)}.gray")
    return ServicePlan(
        service=service,
        id=identity,
        upstreams=(upstream(name, servers, parse_balance(own.balance), _options(own), settings.nginx),),
        tables=(Constant(Variable(f"gray_{identity}"), name), *(constant_faces(identity) if released else ())),
        serving=serving,
        known=usable or last,
        released=released,
        drained=admitted.drained,
        findings=admitted.findings,
        notices=_notices(serving, servers, admitted, own, guarded),
        guarded=guarded,
    )


def stub(service: str, settings: Settings) -> ServicePlan:
    """The plan of a service of which nothing is known: it answers 503."""
    return resolve_service(service, admit((), {}, settings.watch), None, settings)


def _options(own: ServiceSettings) -> UpstreamOptions:
    return UpstreamOptions(own.keepalive, own.max_fails, own.fail_timeout, own.zone)


def _notices(
    serving: Serving,
    servers: tuple[Server, ...],
    admitted: Admitted,
    own: ServiceSettings,
    guarded: tuple[Server, ...],
) -> tuple[str, ...]:
    notices = []
    if guarded:
        notices.append(f"{len(guarded)} absent instances are kept by the guard")
    elif serving is Serving.KEPT:
        notices.append(f"no healthy instance: the last {len(servers)} known stay in use")
    if serving is Serving.REFUSED:
        why = "when_empty is reject" if own.when_empty == "reject" else "none was ever healthy"
        notices.append(f"no healthy instance, and {why}: answering 503")
    versions = sorted({server.version for server in servers if server.version})
    if len(versions) > 1:
        notices.append(f"serves several versions without a release: {', '.join(versions)}")
    if any(server.backup for server in servers) and not parse_balance(own.balance).method.knows_backup:
        notices.append(f"balance {own.balance} knows no backup servers: they are left out while others are healthy")
    if admitted.drained:
        notices.append(f"drained by hand: {', '.join(admitted.drained)}")
    if admitted.idle:
        notices.append(f"{admitted.idle} healthy with weight 0: no traffic")
    return tuple(notices)
