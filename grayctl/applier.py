"""From wakes to outcomes: when to converge, one at a time, and what is told of each outcome."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from grayctl import log, systemd
from grayctl.brake import Brake
from grayctl.consul.wake import Wake
from grayctl.converge import Wanted
from grayctl.errors import NginxError, StateError, TemplateError
from grayctl.metrics import Metrics, outcome_name
from grayctl.model.identity import Renewed, differing, kept, renewed
from grayctl.model.outcome import Applied, Held, Outcome, Rejected, RolledBack, Unchanged
from grayctl.model.plan import Plan, ServicePlan
from grayctl.pace import Pace
from grayctl.policy.standing import Unled, written
from grayctl.quarantine import Ward
from grayctl.report import fields, held_by, summary
from grayctl.settings import ReloadSettings

if TYPE_CHECKING:
    from grayctl.assembly import Parts
    from grayctl.model.catalog import Catalog
    from grayctl.policy.damping import Instance
    from grayctl.policy.guard import Hold

_SHUTDOWN = "Set a shorter worker_shutdown_timeout in nginx.conf, or raise reload.max_old_workers"
RETRY_FIRST, RETRY_CEILING = 1.0, 10.0
_COUNT_EVERY = 0.5  # seconds; while a change waits for old workers
# Seconds between two looks at the disk. One costs a stat for each file that nginx reads: with thousands the looks
# are fewer, so that they take less than a thousandth of the time; yet one comes every minute.
_DRIFT_EVERY, _DRIFT_REST, _DRIFT_WITHIN = 5.0, 4000.0, 60.0


class Applier:
    """Takes catalogs, converges when it is time, records what came of it.

    Args:
        reload: how often.
        brake: whether anything may change.
        metrics: who counts.
        recorded: called after each outcome.

    Attributes:
        parts: what converges; None while it could not be put together, and `blocked` says why.
        catalog: the newest complete one.
        last: the newest outcome.
        first: set once there is one.
        caveat: what is wrong beside the newest outcome, for who reads the status; empty when nothing is.
        drained: ids of the drained instances that what stands is without, by service.
        crowd: why a change waits for workers of earlier generations; empty when none does.
        busy: held while a change is under way; whoever else moves nginx takes it.
    """

    def __init__(
        self, reload: ReloadSettings, brake: Brake, metrics: Metrics, *, recorded: Callable[[], None] = lambda: None
    ) -> None:
        self.parts: Parts | None = None
        self.blocked = "starting"
        self.catalog: Catalog | None = None
        self.last: Outcome | None = None
        self.drained: dict[str, tuple[str, ...]] = {}
        self.first = asyncio.Event()
        self.caveat = ""
        self.busy = asyncio.Lock()
        self._brake = brake
        self._metrics = metrics
        self._recorded = recorded
        self._log = log.get("daemon")
        self._wake: Wake | None = None
        self._reload = reload
        self._pace = Pace(reload.min_interval, reload.max_delay)
        self._retry_at: float | None = None
        self._retry_delay = RETRY_FIRST
        self._news = asyncio.Event()
        self._cause = "retry"
        self._told: dict[str, str] = {}
        self._hold: Hold | None = None
        self._released: Mapping[str, str] = Renewed()
        self._served: Mapping[str, ServicePlan] = Renewed()
        self._held: frozenset[str] = frozenset()
        self._flappers: frozenset[Instance] = frozenset()
        self.crowd = self._crowded = ""

    @property
    def interval(self) -> float:
        """Seconds between two reloads as things are."""
        return self._pace.current_interval

    @property
    def number(self) -> int:
        """The generation that stands; 0 before the first."""
        serving = self.parts.converger.serving if self.parts else None
        return serving.number if serving else 0

    @property
    def ward(self) -> Ward:
        """Who is in quarantine."""
        return self.parts.converger.ward if self.parts else Ward()

    def unled(self) -> tuple[Unled, ...]:
        """Policies that wait for their live record."""
        return self.parts.converger.standing.unled if self.parts else ()

    # ------------------------------------------------------------ what arrives

    def heard(self, wake: Wake) -> None:
        """A new catalog came from Consul."""
        earlier = self._wake
        if earlier is not None:  # still waiting: one converge for both, timed from the first
            wake = replace(wake, at=earlier.at, changed=earlier.changed | wake.changed)
        self._wake, self.catalog = wake, wake.catalog
        if self.parts is not None:
            self.parts.converger.hear(wake.catalog)
        policy = any(name.startswith("kv:") for name in wake.changed)
        self._pace = self._pace.changed(time.monotonic(), urgent=policy)
        self._news.set()

    def ask(self, cause: str) -> None:
        """Something else than Consul changed; before the first catalog there is nothing to converge to."""
        self._cause = cause
        if self.catalog is not None:
            self._pace = self._pace.changed(time.monotonic())
            self._news.set()

    def repace(self, reload: ReloadSettings) -> None:
        """Use other settings from now on."""
        self._reload = reload
        self._pace = Pace(reload.min_interval, reload.max_delay)

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Converge whenever it is due, until cancelled."""
        try:
            while True:
                await self.converge(retry=await self._until_due())
        finally:
            if self.parts is not None:
                self.parts.site.close()

    async def follow_disk(self) -> None:
        """Notice, without any event, that what stands was changed on disk, and have it mended, until cancelled.

        Nginx serves on from memory meanwhile; but it could not start.
        """
        told: list[str] = []
        pause = _DRIFT_EVERY
        while True:
            await asyncio.sleep(pause)
            if self.parts is None or self.busy.locked():
                continue
            began = time.monotonic()
            drift = self.parts.converger.drift()
            pause = min(_DRIFT_WITHIN, max(_DRIFT_EVERY, _DRIFT_REST * (time.monotonic() - began)))
            if drift and drift != told:
                self._log.warning("drifted", changed=drift)
            if drift:
                self.ask("what stands was changed on disk")
            told = drift

    async def _until_due(self) -> bool:
        """Sleep until a change, a retry or the end of a hold is due; True for a retry."""
        while True:
            self._news.clear()
            due = self._due()
            ends = self._ends()
            times = [at for at in (due, self._retry_at, *ends) if at is not None]
            wait = min(times) - time.monotonic() if times else None
            if wait is not None and wait <= 0:
                over = [cause for at, cause in ends.items() if at <= time.monotonic()]
                if due is None and over:
                    self._cause = over[0]
                return self._retry_at is not None and self._retry_at <= time.monotonic()
            if wait is not None and self.crowd:
                wait = min(wait, _COUNT_EVERY)
            with contextlib.suppress(TimeoutError):  # not `wait_for`, whose task would be another turn of the loop
                async with asyncio.timeout(wait):
                    await self._news.wait()

    def _ends(self) -> dict[float, str]:
        """What ends by time alone, and so wants a converge then."""
        ends = {self._hold.until: "the guard's hold is over"} if self._hold else {}
        calm = self.parts.converger.damping.until if self.parts else None
        return ends if calm is None else ends | {calm: "an instance that flapped is calm"}

    def _due(self) -> float | None:
        """When what waits is to be applied; too many old workers put it off."""
        if self._pace.crowded and self._pace.waiting_since is not None:
            self._count_old()
        due, now, waited = self._pace.due(), time.monotonic(), self.crowd
        self.crowd = self._crowded if self._pace.crowded and due is not None and due > now else ""
        if self.crowd and not waited:
            self._log.warning("reload_waits", seconds=round((due or now) - now, 1), why=self.crowd)
        elif waited and not self.crowd:
            self._log.info("reload_waits_no_more")
        return due

    def _count_old(self) -> None:
        """Count the workers of earlier generations; they grow no more without a reload."""
        serving, old = self.parts.site.crew() if self.parts else (0, 0)
        ceiling = self._reload.ceiling(serving)
        self._pace = self._pace.counted(crowded=old >= ceiling)
        self._crowded = f"a change waits for old workers: {old} are alive, {ceiling} may be. {_SHUTDOWN}"

    async def converge(self, *, retry: bool = False, cause: str = "") -> Outcome:
        """Converge now to the newest catalog."""
        parts = self.parts
        if parts is None:
            return Held(0, "nginx", self.blocked)
        return await self._perform(parts.converger.converge, retry=retry, cause=cause)

    async def forget(self, service: str) -> Outcome:
        """Converge without a service that was published.

        Raises:
            StateError: it is not published, or still registered.
        """
        parts = self.parts
        if parts is None:
            return Held(0, "nginx", self.blocked)

        async def without(wanted: Wanted) -> Outcome:
            return await parts.converger.forget(service, wanted)

        if self.catalog is not None:
            parts.converger.demand_forgettable(service, self.catalog)
        return await self._perform(without, retry=True, cause=f"forget {service}")

    async def _perform(self, act: Callable[[Wanted], Awaitable[Outcome]], *, retry: bool, cause: str) -> Outcome:
        async with self.busy:
            wake, catalog = self._wake, self.catalog
            if catalog is None:
                return Held(self.number, "consul", "no complete catalog from Consul yet")
            self._wake, self._pace = None, self._pace.taken()
            began = time.monotonic()
            woke = wake.at if wake else began
            trace_id = wake.trace_id if wake else uuid.uuid4().hex[:16]
            cause = cause or (wake.cause if wake else self._cause)
            self._cause = "retry"
            freeze = self._brake.standing(catalog)
            with structlog.contextvars.bound_contextvars(trace_id=trace_id):
                try:
                    outcome = await act(Wanted(catalog, freeze, cause, trace_id, retry))
                except (StateError, NginxError, TemplateError, OSError) as error:
                    outcome = Held(self.number, held_by(error), str(error))
                self.record(outcome, began - woke, time.monotonic() - woke, cause)
            return outcome

    # ------------------------------------------------------------ what is told

    def record(self, outcome: Outcome, waited: float, total: float, cause: str) -> None:
        """Count, log and pace by what came of a change, which `busy` still covers.

        Args:
            outcome: what came of it.
            waited: seconds from Consul's wake to the begin.
            total: seconds from Consul's wake to the outcome.
            cause: one line.
        """
        now = time.monotonic()
        reloaded = isinstance(outcome, Applied | RolledBack)
        self._pace = self._pace.done(now, reloaded=reloaded, took=total - waited)
        if reloaded:
            self._count_old()
        if isinstance(outcome, Held | Rejected | RolledBack) or self.ward.cases:
            self._retry_at = now + self._retry_delay
            self._retry_delay = min(RETRY_CEILING, 2 * self._retry_delay)
        else:
            self._retry_at, self._retry_delay = None, RETRY_FIRST
        self._metrics.record(outcome, waited, total)
        plan = self.parts.converger.plan if self.parts else None
        if self.parts is not None and plan is not None:
            problems = len(self.parts.converger.standing.problems)
            self._metrics.describe(plan, len(self.ward.cases), problems)
        if outcome != self.last and not isinstance(outcome, Unchanged):
            level = self._log.info if isinstance(outcome, Applied) else self._log.warning
            level(outcome_name(outcome), cause=cause, seconds=round(total, 4), **fields(outcome))
        self.last = outcome
        self.first.set()
        self.tell_systemd()
        self._tell_quarantine()
        if plan is not None and isinstance(outcome, Applied | Unchanged):
            self._tell_served(plan)
        self._tell_hold()
        self._tell_flappers()
        if self.parts is not None:
            self.parts.site.stand_by()
        self._recorded()

    def tell_systemd(self) -> None:
        """Say in STATUS what the last change came to, or what it waits for, and what is wrong beside."""
        waits = "waiting for a complete catalog from Consul" if self.parts else f"cannot begin: {self.blocked}"
        now = summary(self.last) if self.last else waits
        systemd.notify(STATUS=f"{now}; {self.caveat}" if self.caveat else now)

    def _tell_quarantine(self) -> None:
        """One event for each service that entered or left quarantine."""
        reasons = self.ward.reasons()
        for service in sorted(reasons.keys() - self._told.keys()):
            served = self.parts.converger.served(service) if self.parts else None
            stands_in = "503" if served is None or served.refused else "its last good object"
            self._log.error("quarantined", service=service, reason=reasons[service], served=stands_in)
        for service in sorted(self._told.keys() - reasons.keys()):
            self._log.info("quarantine_left", service=service)
        self._told = reasons

    def _tell_served(self, plan: Plan) -> None:
        """Remember what is served without drained instances, and by which revision of a policy.

        One event for each revision that came into force, so that history can be checked against logs.
        """
        held = frozenset(self.ward.cases)
        stale = differing(plan.services, self._served) | (held ^ self._held)
        self._served, self._held = plan.services, held
        there = {name: plan.services[name] for name in stale if name in plan.services and name not in held}
        others = {name: ids for name, ids in self.drained.items() if name not in stale}
        self.drained = others | {name: one.drained for name, one in there.items() if one.drained}
        before = self._released
        revisions = {name: one.compiled.in_force.live.revision for name, one in there.items() if one.compiled}
        now = {name: kept(before, name, revision) for name, revision in revisions.items() if revision}
        self._released = renewed(before, stale, now)
        told = differing(self._released, before)
        new = {name: self._released[name] for name in sorted(told) if name in self._released}
        indexes = written(self.catalog.kv, new) if new and self.catalog else {}
        for service, revision in new.items():
            self._log.info("release_served", service=service, revision=revision, index=indexes.get(service))
        for service in sorted(told - new.keys()):
            self._log.info("release_left", service=service)

    def _tell_hold(self) -> None:
        """One event when a disappearance begins to be held, and one when it ends."""
        hold = self.parts.converger.hold if self.parts else None
        if hold is not None and self._hold is None:
            advice = "if it is meant: grayctl guard accept"
            self._log.error(
                "guard_holds", lost=hold.lost, known=hold.known, until=hold.until - hold.since, advice=advice
            )
        if hold is None and self._hold is not None:
            self._log.warning("guard_released", lost=self._hold.lost, known=self._hold.known)
        self._hold = hold

    def _tell_flappers(self) -> None:
        """One event for each instance that is damped, and one when it is calm."""
        flappers = self.parts.converger.damping.flappers if self.parts else {}
        for one in sorted(flappers.keys() - self._flappers):
            self._log.warning("damped", **one._asdict())
        for one in sorted(self._flappers - flappers.keys()):
            self._log.info("damping_ended", **one._asdict())
        self._flappers = frozenset(flappers)
