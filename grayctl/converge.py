"""The way of one change: Catalog -> Plan -> FileSet -> candidate -> checked -> served -> recorded.

`Converger.converge` reads top to bottom. Everything before the candidate is pure; everything after it is
`grayctl.nginx`. It compares what shall be with what is, never what changed: a change that failed is not lost.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from grayctl.errors import StateError, TemplateError
from grayctl.model.catalog import Catalog, Freeze
from grayctl.model.generation import FileSet, Manifest, Object
from grayctl.model.identity import Derived, Renewed, differing, renewed
from grayctl.model.outcome import Applied, Held, Outcome, Rejected, RolledBack, Unchanged
from grayctl.model.plan import Known, Plan
from grayctl.nginx.cause import Cause, cause_of
from grayctl.nginx.check import Checked
from grayctl.nginx.generations import Store
from grayctl.nginx.site import Site
from grayctl.policy.admission import Presence
from grayctl.policy.damping import Damping
from grayctl.policy.guard import Guard, Hold
from grayctl.policy.resolve import Limits, resolve, stub
from grayctl.policy.standing import NO_RELEASES, Here, Policies
from grayctl.quarantine import Ward, culprit, substitute
from grayctl.render.fileset import ObjectHeader, Renderer, in_force_of, known_of, read_header
from grayctl.settings import Settings

# A generation that nginx took and did not serve is signalled again after this many seconds, doubling up to the
# ceiling: unlike a check, a reload costs running requests.
_RELOAD_AGAIN, _RELOAD_CEILING = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the world asks for.

    Attributes:
        catalog: complete.
        freeze: the brake, where one stands.
        cause: what woke us, in one line.
        trace_id: runs from Consul's wake to the proof.
        retry: try again what was refused before: its cause may have gone.
    """

    catalog: Catalog
    freeze: Freeze | None
    cause: str
    trace_id: str
    retry: bool = False


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A digest that nginx did not take: not tried again before `until` (monotonic seconds), or `cause` is gone."""

    outcome: Rejected | RolledBack
    until: float
    delay: float
    cause: Cause | None = None


class Converger:
    """Holds what must be remembered from one change to the next; writes nothing itself.

    Args:
        settings: the settings in force.
        renderer: templates and what they rendered before.
        store: the generations on disk.
        site: the nginx that serves them.
        limits: what that nginx's hashes take.
        clock: wall clock, for records only.
        monotonic: decides about retries.
    """

    def __init__(
        self,
        settings: Settings,
        renderer: Renderer,
        store: Store,
        site: Site,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._renderer = renderer
        self._store = store
        self._site = site
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._refusals: dict[str, _Refusal] = {}
        self._candidate: Manifest | None = None
        self._good: Mapping[str, Object] = Renewed()
        self._known: Mapping[str, Known] = Renewed()
        self._healthy = Derived(attrgetter("known"))
        self._present: Presence | None = None
        self._serving: Manifest | None = None
        self.plan: Plan | None = None
        self.ward = Ward()
        self.damping = Damping()
        self.standing = NO_RELEASES
        self.load()
        self._policies = Policies(in_force_of(self._good))
        self._guard = Guard.after_start({name: one.servers for name, one in self._known.items()}, monotonic())

    def load(self) -> None:
        """Take what the current generation serves as the last good state."""
        self._serving = self._store.current()
        # what is damaged is left out and written anew: a start must not fail for it
        self._remember(self._store.objects(self._serving, whole=False) if self._serving else {})
        cases = self._serving.quarantined if self._serving else {}
        for service, reason in cases.items():
            self.ward = self.ward.admit(service, reason, self._serving.created if self._serving else 0.0)

    def reconfigure(self, settings: Settings, renderer: Renderer, limits: Limits) -> None:
        """Use other settings and templates from the next change on; what was refused may pass with them."""
        self._settings, self._renderer, self._limits = settings, renderer, limits
        self._refusals.clear()
        self.plan, self.ward = None, Ward()

    @property
    def serving(self) -> Manifest | None:
        """The generation that stands; None before the first."""
        return self._serving

    def drift(self) -> list[str]:
        """What somebody else changed on disk of the generation that stands, a line each; the next converge mends it."""
        serving, current = self._serving, self._store.root / "current"
        if serving is None or self._store.stands(serving):
            return []
        return self._store.damage(serving) or [f"{current}: does not lead to generation {serving.number}"]

    def served(self, service: str) -> ObjectHeader | None:
        """What nginx serves for a service now, which a freeze or a quarantine may keep from what is wanted."""
        one = self._good.get(service)
        return read_header(one.content) if one else None

    async def converge(self, wanted: Wanted) -> Outcome:
        """One change, from a complete catalog to an nginx that provably serves it.

        Returns:
            What came of it. Whatever it is, what nginx served before is served still, or the new is proven.

        Raises:
            StateError: the state directory cannot be written; nginx serves on.
            NginxError: nginx cannot be asked (binary missing, configuration unreadable); nginx serves on.
            TemplateError: the entry template, which all services share, fails; nginx serves on.
        """
        began = self._monotonic()
        self.plan = self._resolve(wanted.catalog, began)
        rendered, failed = self._renderer.objects(self.plan)
        ward = self._judge(self.plan, rendered, failed, retry=wanted.retry)
        while True:
            files = self._choose(rendered, ward)
            if settled := self._settled(files, ward, wanted):
                return settled
            rendered_at = self._monotonic()
            candidate = self._write(files, wanted.cause, wanted.trace_id, ward)
            written_at = self._monotonic()
            checked = await self._site.check(candidate)
            if checked.ok:
                timings = {"render": rendered_at - began, "write": written_at - rendered_at, "check": checked.seconds}
                return await self._activate(candidate, files, ward, timings)
            if held := await self._user_at_fault():
                return held
            guilty = await self._find_culprit(checked, files)
            if guilty is None:
                return self._reject(files, "; ".join(checked.messages))
            ward = self._admit(ward, guilty, "; ".join(checked.messages), files.objects[guilty].sha)

    async def roll_back_to(self, number: int, cause: str, trace_id: str) -> Outcome:
        """Serve what generation `number` served, as a new generation.

        Raises:
            StateError: when there is no such generation, or it is damaged.
        """
        files = self._renderer.file_set(self._store.objects(self._store.read(number)))
        candidate = self._write(files, cause, trace_id, self.ward)
        checked = await self._site.check(candidate)
        if not checked.ok:
            return self._reject(files, "; ".join(checked.messages))
        return await self._activate(candidate, files, self.ward, {"check": checked.seconds})

    async def forget(self, service: str, wanted: Wanted) -> Outcome:
        """Converge without a published service whose name nothing needs any more.

        Returns:
            As `converge`; Rejected when nginx refuses to go without it, since its configuration still refers to it.
        """
        known, guard = self._known, self._guard
        self._known = renewed(known, {service}, {})
        self._guard = guard.forget(service)
        outcome = await self.converge(wanted)
        if not isinstance(outcome, Applied):
            self._known, self._guard = known, guard
        return outcome

    def demand_forgettable(self, service: str, catalog: Catalog) -> None:
        """Tell why a service cannot be forgotten, if it cannot.

        Raises:
            StateError: it is not published, or it would come back at once.
        """
        if service not in self._known:
            published = ", ".join(sorted(self._known)) or "none"
            raise StateError(f"no service {service!r} is published here; published are: {published}")
        if catalog.services.get(service):
            raise StateError(f"{service!r} has registered instances and would come back at once: deregister them first")
        if service in self._settings.watch.exact:
            raise StateError(
                f"{service!r} stands in watch.services and would come back at once: take it out there first"
            )
        if service in catalog.services:
            raise StateError(f"Consul still lists {service!r}, and it would come back at once: try again in a moment")

    # ------------------------------------------------------------ the guard

    @property
    def hold(self) -> Hold | None:
        """The disappearance that the guard does not believe yet; at its `until` a converge is due."""
        return self._guard.hold

    def accept_losses(self) -> Hold | None:
        """Believe what the guard holds, from the next converge on; returns what was held."""
        held = self._guard.hold
        self._guard = self._guard.accept(self._monotonic())
        return held

    def hear(self, catalog: Catalog) -> None:
        """Count who flips, also in catalogs that no converge will see."""
        settings = self._settings
        self.damping = self.damping.look(catalog.services, settings.damping, settings.watch, self._monotonic())

    def _resolve(self, catalog: Catalog, now: float) -> Plan:
        """The Plan, in which what the guard keeps stands beside what is healthy, and flappers as damping keeps them."""
        limits = self._settings.guard
        self._present = Presence.of(catalog, self._present)
        self._guard = self._guard.judge(self._present.addresses, limits, now)
        self.standing = self._policies.judge(catalog.kv, Here(self._settings.node, self._settings.labels))
        self.hear(catalog)
        damping, watch, kept = self._settings.damping, self._settings.watch, self._guard.kept()
        self.damping, damped = self.damping.apply(
            catalog, damping, watch, drained=self.standing.drained, guarded=kept.keys()
        )
        plan = resolve(
            damped, self._known, self._settings, self._limits, self.plan, guarded=kept, standing=self.standing
        )
        self._guard = self._guard.learn(self._healthy.of(plan.services), limits, now)
        return plan

    # ------------------------------------------------------------ before the candidate

    @property
    def _number(self) -> int:
        return self._serving.number if self._serving else 0

    def _remember(self, good: Mapping[str, Object]) -> None:
        """Keep the last good objects, and what each says that its service served last."""
        stale = differing(good, self._good)
        self._known = renewed(self._known, stale, known_of({name: good[name] for name in stale if name in good}))
        self._good = good

    def _unlike(self, objects: Mapping[str, Object]) -> list[str]:
        """The services whose object is not the last good one, sorted."""
        good = self._good
        stale = differing(objects, good)
        return sorted(name for name in stale if name in objects and objects[name] != good.get(name))

    def _judge(
        self, plan: Plan, rendered: Mapping[str, Object], failed: Mapping[str, TemplateError], *, retry: bool
    ) -> Ward:
        """Who is in quarantine before nginx was asked: what cannot be planned or rendered, and what nginx refused."""
        ward = Ward()
        reasons = {**plan.refused, **{service: str(error) for service, error in failed.items()}}
        for service, case in self.ward.cases.items():
            if service in reasons or (service in rendered and case.sha == rendered[service].sha and not retry):
                ward = ward.admit(service, case.reason, case.since, case.sha)
        for service, reason in reasons.items():
            ward = self._admit(ward, service, reason)
        return ward

    def _admit(self, ward: Ward, service: str, reason: str, sha: str = "") -> Ward:
        earlier = self.ward.cases.get(service)
        return ward.admit(service, reason, earlier.since if earlier else self._clock(), sha)

    def _choose(self, rendered: Mapping[str, Object], ward: Ward) -> FileSet:
        """What each service gets, as files.

        Raises:
            TemplateError: the shared entry template fails: nothing new can be made, what stands is served on.
        """
        stubs = {
            service: self._stub(service)
            for service in ward.cases
            if service not in self._good and self.plan is not None and service not in self.plan.refused
        }
        return self._renderer.file_set(substitute(rendered, ward, self._good, stubs))

    def _stub(self, service: str) -> Object:
        return self._renderer.stub(stub(service, self._settings))

    def _settled(self, files: FileSet, ward: Ward, wanted: Wanted) -> Outcome | None:
        """The outcome that needs no nginx: nothing changed, frozen, or refused before."""
        serving = self._serving
        if serving is not None and serving.digest == files.digest and self._store.stands(serving):
            self.ward = ward
            self._refusals.clear()
            return Unchanged(serving.number)
        if wanted.freeze is not None:
            return Held(self._number, "freeze", wanted.freeze.reason)
        return self._refused(files.digest, retry=wanted.retry)

    def _refused(self, digest: str, *, retry: bool) -> Outcome | None:
        refusal = self._refusals.get(digest)
        if refusal is None:
            return None
        if retry and (self._monotonic() >= refusal.until or self._is_cause_gone(refusal)):
            return None
        return refusal.outcome

    def _is_cause_gone(self, refusal: _Refusal) -> bool:
        again = refusal.delay > _RELOAD_AGAIN
        return refusal.cause is not None and refusal.cause.is_gone(self._site.look(), again=again)

    def _write(self, files: FileSet, cause: str, trace_id: str, ward: Ward) -> Manifest:
        """The candidate on disk; a retry of the same files is not written again."""
        last = self._candidate
        alike = last is not None and last.digest == files.digest and last.quarantined == ward.reasons()
        # never what stands, which is only written again when it is damaged; nor a damaged candidate
        if last is not None and alike and last != self._serving and self._store.intact(last.number) is not None:
            return last
        self._candidate = self._store.write(
            files, cause=cause, trace_id=trace_id, created=self._clock(), quarantined=ward.reasons()
        )
        # what was refused is pruned with the next success; under a lasting fault there is none
        if len(self._store.numbers()) > 2 * self._settings.keep_generations:
            self._store.prune(self._settings.keep_generations)
        return self._candidate

    # ------------------------------------------------------------ the candidate was refused

    async def _user_at_fault(self) -> Held | None:
        """Whether the tree that stands fails too: then the user's own configuration is broken, and no service."""
        current = await self._site.check_current()
        return None if current.ok else Held(self._number, "user-config", "; ".join(current.messages))

    async def _find_culprit(self, checked: Checked, files: FileSet) -> str | None:
        """The service at fault: by nginx's file and line, else by halving the services that are new."""
        suspects = self._unlike(files.objects)
        if checked.culprit is not None:
            named = culprit(checked.culprit.file, files.objects, str(self._store.root))
            if named in suspects:
                return named
        if not suspects or await self._fails_with(files, []):
            return None
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if await self._fails_with(files, half) else suspects[len(half) :]
        return suspects[0]

    async def _fails_with(self, files: FileSet, suspects: list[str]) -> bool:
        """Whether nginx refuses the last good objects with only `suspects` taken from `files`."""
        objects = {
            service: one if service in suspects else self._good.get(service) or self._stub(service)
            for service, one in files.objects.items()
        }
        trial = self._write(self._renderer.file_set(objects), "looking for the culprit", "", Ward())
        return not (await self._site.check(trial, trial=True)).ok

    def _reject(self, files: FileSet, reason: str) -> Rejected:
        outcome = Rejected(self._number, files.digest, reason)
        self._refusals = {files.digest: _Refusal(outcome, 0.0, 0.0)}
        return outcome

    # ------------------------------------------------------------ the candidate passed

    async def _activate(
        self, candidate: Manifest, files: FileSet, ward: Ward, timings: dict[str, float]
    ) -> Applied | RolledBack:
        result = await self._site.activate(candidate)
        if isinstance(result, RolledBack):
            earlier = self._refusals.get(files.digest)
            delay = min(_RELOAD_CEILING, 2 * earlier.delay) if earlier and earlier.delay else _RELOAD_AGAIN
            cause = cause_of(result.reason, self._site.facts, self._site.master)
            self._refusals = {files.digest: _Refusal(result, self._monotonic() + delay, delay, cause)}
            return result
        changed = tuple(self._unlike(files.objects))
        self._serving, self.ward = candidate, ward
        self._remember(files.objects)
        self._refusals.clear()
        return Applied(candidate.number, result.proven, changed, ward.reasons(), {**timings, "reload": result.seconds})
