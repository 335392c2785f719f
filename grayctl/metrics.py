"""Prometheus metrics: what is counted and timed, under Prometheus's naming."""

from typing import TYPE_CHECKING, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from grayctl import __version__
from grayctl.model.identity import Renewed, differing
from grayctl.model.outcome import Applied, Held, HeldBy, Outcome, Rejected, RolledBack, Unchanged
from grayctl.model.plan import Plan, ServicePlan, Serving

if TYPE_CHECKING:
    from collections.abc import Mapping

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONTENT_TYPE = CONTENT_TYPE_LATEST

_OUTCOME_NAMES: dict[type[Outcome], str] = {
    Unchanged: "unchanged",
    Applied: "applied",
    Held: "held",
    Rejected: "rejected",
    RolledBack: "rolled_back",
}


# why what is wanted is not served: it was not tried, `nginx -t` refused it, or nginx took it and did not serve it
NotServed = HeldBy | Literal["check", "proof"]


def outcome_name(outcome: Outcome) -> str:
    """`applied`, `rolled_back`, ... as in metrics, logs and commands."""
    return _OUTCOME_NAMES[type(outcome)]


def _held_by(outcome: Outcome) -> NotServed | None:
    match outcome:
        case Held(by=by):
            return by
        case Rejected():
            return "check"
        case RolledBack():
            return "proof"
        case _:
            return None


class Metrics:
    """Everything grayctl exposes on /metrics; docs/operations.md explains each."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        counter, gauge = self._counter, self._gauge
        gauge("grayctl_build_info", "Always 1; the version is a label.", "version").labels(__version__).set(1)
        self.outcomes = counter("grayctl_converges_total", "Converges by what came of them.", "outcome")
        for name in _OUTCOME_NAMES.values():
            self.outcomes.labels(name)  # from 0, so that the first one counts as an increase
        self.reloads = counter("grayctl_reloads_total", "Reloads of nginx that were proven.")
        self.rollbacks = counter("grayctl_rollbacks_total", "Generations put back because nginx did not prove them.")
        self.steps = Histogram(
            "grayctl_step_duration_seconds",
            "How long a step of one change took: wake, render, write, check, reload (signal to proof).",
            ["step"],
            buckets=_FAST,
            registry=self.registry,
        )
        self.change = Histogram(
            "grayctl_change_duration_seconds",
            "From Consul's wake to the proof that nginx serves the change.",
            buckets=_FAST,
            registry=self.registry,
        )
        self.held = gauge("grayctl_held", "1 while what is wanted is not served, by what holds it back.", "by")
        self.last_success = gauge(
            "grayctl_last_success_timestamp_seconds", "When a converge last found or made nginx serve what is wanted."
        )
        self.reread = gauge("grayctl_last_reread_successful", "0 when settings or templates could not be read again.")
        self.reread.set(1)
        self.generation = gauge("grayctl_generation", "The generation that stands.")
        self.proven = gauge("grayctl_generation_proven", "1 when nginx has answered the generation that stands.")
        self.quarantined = gauge("grayctl_quarantined_services", "Services that stay at their last good object.")
        self.services = gauge("grayctl_services", "Services published, by where their servers come from.", "serving")
        for serving in Serving:
            self.services.labels(serving)
        self._described: Mapping[str, ServicePlan] = Renewed()
        self.dropped = gauge("grayctl_dropped_instances", "Instances dropped for their registration.", "service")
        self.releases = gauge("grayctl_releases", "Services that a release decides for.")
        self.release_problems = gauge("grayctl_release_problems", "Releases in Consul that are not the ones in force.")
        self.fallback = gauge(
            "grayctl_release_fallback", "1 while stable answers for a version without instances.", "service", "version"
        )
        self.guarded = gauge("grayctl_guarded_instances", "Absent instances that the guard keeps in use.", "service")
        self.guard_holding = gauge("grayctl_guard_holding", "1 while a mass disappearance is kept back.")
        self.flapping = gauge("grayctl_flapping_instances", "Instances that are damped until calm.", "service")
        self.old_workers = gauge("grayctl_nginx_old_workers", "Workers of earlier generations that still finish.")
        self.reload_interval = gauge("grayctl_reload_interval_seconds", "Between two reloads, as things are.")
        self.reload_waits = gauge("grayctl_reload_waits", "1 while a change waits for old workers to end.")
        self.frozen = gauge("grayctl_frozen", "1 while a freeze stands.")
        self.nginx_up = gauge("grayctl_nginx_up", "1 while the nginx master runs.")
        self.orphans = gauge("grayctl_nginx_orphaned_workers", "Workers that serve on without their master.")
        self.consul_up = gauge("grayctl_consul_up", "1 while Consul answers.")
        self.consul_denied = gauge("grayctl_consul_denied_queries", "Queries that the token may not ask.")
        self.consul_errors = counter("grayctl_consul_errors_total", "Failed requests to Consul.", "kind")
        self.consul_requests = counter("grayctl_consul_requests_total", "Answered requests to Consul.", "endpoint")
        self.watch_lag = gauge("grayctl_watch_lag_seconds", "Seconds since Consul was last heard.")
        self.long_polls = gauge("grayctl_watch_long_polls", "Blocking queries held open.")
        ProcessCollector(registry=self.registry)  # process_*: memory, descriptors, CPU, start time

    def record(self, outcome: Outcome, waited: float, total: float) -> None:
        """Count one converge. `waited` and `total` are seconds since Consul's wake, before it and after it."""
        self.outcomes.labels(outcome_name(outcome)).inc()
        self.say_held(_held_by(outcome))
        match outcome:
            case Applied(generation=number, proven=proven, timings=timings):
                self.generation.set(number)
                self.proven.set(proven)
                self.steps.labels("wake").observe(waited)
                for step, seconds in timings.items():
                    self.steps.labels(step).observe(seconds)
                self.change.observe(total)
                self.reloads.inc(proven)
            case RolledBack():
                self.rollbacks.inc()
            case _:
                pass

    def say_held(self, by: NotServed | None) -> None:
        """What keeps the wanted from being served; None when nothing does."""
        self.held.clear()
        if by is None:
            self.last_success.set_to_current_time()
        else:
            self.held.labels(by).set(1)

    def describe(self, plan: Plan, quarantined: int, release_problems: int = 0) -> None:
        """Set what the Plan says."""
        self.quarantined.set(quarantined)
        self.release_problems.set(release_problems)
        before, self._described = self._described, plan.services
        for service in differing(plan.services, before):
            if service in before:
                self._count_out(before[service])
            if service in plan.services:
                self._count_in(plan.services[service])

    def _count_in(self, one: ServicePlan) -> None:
        self.services.labels(one.serving).inc()
        if one.compiled:
            self.releases.inc()
            for version in one.compiled.fallback:
                self.fallback.labels(one.service, version).set(1)
        if one.guarded:
            self.guarded.labels(one.service).set(len(one.guarded))
        if dropped := {finding.instance for finding in one.findings if finding.dropped}:
            self.dropped.labels(one.service).set(len(dropped))

    def _count_out(self, one: ServicePlan) -> None:
        self.services.labels(one.serving).dec()
        if one.compiled:
            self.releases.dec()
            for version in one.compiled.fallback:
                self.fallback.remove(one.service, version)
        if one.guarded:
            self.guarded.remove(one.service)
        if any(finding.dropped for finding in one.findings):
            self.dropped.remove(one.service)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)


class ConsulObserver:
    """Counts what the watcher tells (see `grayctl.consul.watch.WatchObserver`)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answered: dict[str, Counter] = {}  # by endpoint: `labels` takes longer than all else that is done here

    def answered(self, endpoint: str, seconds: float) -> None:
        """One request was answered."""
        del seconds  # a long poll's duration says how quiet Consul is, nothing else
        counter = self._answered.get(endpoint)
        if counter is None:
            counter = self._answered[endpoint] = self._metrics.consul_requests.labels(endpoint)
        counter.inc()

    def failed(self, error: Exception) -> None:
        """One request failed."""
        self._metrics.consul_errors.labels(type(error).__name__).inc()

    def published(self, wake: object) -> None:
        """A catalog was published."""
