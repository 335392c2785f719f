"""`grayctl run`: wiring, one loop, signals, sd_notify. Decides nothing."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from grayctl import __version__, brake, log, systemd
from grayctl.assembly import assemble, dialect
from grayctl.brake import Brake
from grayctl.consul.client import ConsulClient
from grayctl.consul.watch import Wake, Watcher
from grayctl.converge import Wanted
from grayctl.errors import GrayctlError, NginxError, SettingsError, StateError, TemplateError
from grayctl.metrics import ConsulObserver, Metrics, outcome_name
from grayctl.model.catalog import Catalog, Freeze
from grayctl.model.outcome import Applied, Held, Outcome, Rejected, RolledBack, Unchanged
from grayctl.model.report import Result, Status
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect
from grayctl.pace import Pace
from grayctl.policy.resolve import Limits
from grayctl.render.fileset import Renderer
from grayctl.render.templates import Templates
from grayctl.report import build_status, fields, held_by, result, summary
from grayctl.serve import Faces, control_app, metrics_app
from grayctl.settings import Settings, load

_NOTICE_EVERY = 1.0
_METRICS_AGAIN = 10.0
_RETRY_FIRST, _RETRY_CEILING = 1.0, 10.0


def _heard_alike(one: Settings, other: Settings) -> bool:
    """Whether two settings hear the same from Consul, so that the watcher need not start over."""
    return (one.consul, one.watch) == (other.consul, other.watch)


class Daemon:
    """One process beside one nginx. `run` returns when SIGTERM or SIGINT asked for it."""

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._settings = settings
        self._config = config
        self._state_dir = Path(settings.state_dir)
        self._log = log.get("daemon")
        self._metrics = Metrics()
        self._brake = Brake(self._state_dir)
        self._started = time.time()
        self._catalog: Catalog | None = None
        self._wake: Wake | None = None
        self._pace = Pace(settings.reload.min_interval, settings.reload.max_delay)
        self._retry_at: float | None = None
        self._retry_delay = _RETRY_FIRST
        self._news = asyncio.Event()
        self._converging = asyncio.Lock()
        self._stop = asyncio.Event()
        self._last: Outcome | None = None
        self._frozen: Freeze | None = None
        self._watcher: Watcher | None = None
        self._told: dict[str, str] = {}
        self._cause = "retry"

    async def run(self) -> int:
        """Start, serve until asked to stop, stop. Returns the exit code.

        Raises:
            Locked: another grayctl writes this state directory.
            GrayctlError: what must be there at the start is not.
        """
        with Store(self._state_dir).opened() as store:
            await self._start(store)
            async with self._listening(), self._signals():
                tasks = [
                    asyncio.create_task(one, name=name)
                    for name, one in (
                        ("watch", self._watch()),
                        ("apply", self._apply()),
                        ("nginx", self._follow_nginx()),
                        ("watchdog", self._feed_watchdog()),
                    )
                ]
                await self._until_stopped(tasks)
        return 0

    # ------------------------------------------------------------ start and stop

    async def _start(self, store: Store) -> None:
        self._store = store
        parts = await assemble(self._settings, store)
        self._facts, self._site, self._converger = parts.facts, parts.site, parts.converger
        self._broken_templates = set(parts.templates.broken)
        self._log.info(
            "started", version=__version__, node=self._settings.node, pid=os.getpid(), nginx=self._facts.version
        )
        systemd.notify(STATUS="waiting for a complete catalog from Consul")

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the signal; a task that ends before it is a defect, and its exception is raised."""
        stop = asyncio.create_task(self._stop.wait())
        systemd.notify(READY="1")
        try:
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
        finally:
            systemd.notify(STOPPING="1", STATUS="finishing the change under way")
            async with self._converging:  # an activation under way is finished or reverted, never cut
                for task in [stop, *tasks]:
                    task.cancel()
            await asyncio.gather(stop, *tasks, return_exceptions=True)
            self._log.info("stopped", note="nginx serves on")

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self._hang_up,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        faces = Faces()
        try:
            await faces.control(control_app(self), Path(self._settings.control.socket))
            scrapes = asyncio.create_task(self._listen_for_scrapes(faces))
            yield
            scrapes.cancel()
        finally:
            await faces.close()

    async def _listen_for_scrapes(self, faces: Faces) -> None:
        app = metrics_app(self._metrics, self, self._refresh_metrics)
        while not await faces.metrics(app, self._settings.metrics.listen):
            await asyncio.sleep(_METRICS_AGAIN)
            app = metrics_app(self._metrics, self, self._refresh_metrics)

    # ------------------------------------------------------------ the loop

    async def _watch(self) -> None:
        """Hear from Consul; start over with the new settings whenever they were re-read."""
        while True:
            settings = self._settings
            observer = ConsulObserver(self._metrics)
            async with ConsulClient(settings.consul, connections=settings.watch.max_long_polls) as client:
                self._watcher = Watcher(client, settings, self._heard, observer=observer)
                watching = asyncio.create_task(self._watcher.run())
                try:
                    while _heard_alike(settings, self._settings) and not watching.done():
                        await asyncio.wait([watching], timeout=1.0)
                    if watching.done():
                        watching.result()
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    def _heard(self, wake: Wake) -> None:
        earlier = self._wake
        if earlier is not None:  # still waiting: one converge for both, timed from the first
            wake = replace(wake, at=earlier.at, changed=earlier.changed | wake.changed)
        self._wake, self._catalog = wake, wake.catalog
        policy = any(name.startswith("kv:") for name in wake.changed)
        self._pace = self._pace.changed(time.monotonic(), urgent=policy)
        self._news.set()

    async def _apply(self) -> None:
        while True:
            await self._converge(retry=await self._until_due())

    async def _until_due(self) -> bool:
        """Sleep until a change or a retry is due; True for a retry."""
        while True:
            self._news.clear()
            due = self._pace.due()
            times = [at for at in (due, self._retry_at) if at is not None]
            wait = min(times) - time.monotonic() if times else None
            if wait is not None and wait <= 0:
                return due is None or (self._retry_at is not None and self._retry_at <= time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)

    async def _converge(self, *, retry: bool = False, cause: str = "") -> Outcome:
        async with self._converging:
            wake, catalog = self._wake, self._catalog
            if catalog is None:
                return Held(self._number, "consul", "no complete catalog from Consul yet")
            self._wake, self._pace = None, self._pace.taken()
            began = time.monotonic()
            woke = wake.at if wake else began
            trace_id = wake.trace_id if wake else uuid.uuid4().hex[:16]
            cause = cause or (wake.cause if wake else self._cause)
            self._cause = "retry"
            self._frozen = self._brake.standing(catalog)
            with structlog.contextvars.bound_contextvars(trace_id=trace_id):
                try:
                    outcome = await self._converger.converge(Wanted(catalog, self._frozen, cause, trace_id, retry))
                except (StateError, NginxError, TemplateError, OSError) as error:
                    outcome = Held(self._number, held_by(error), str(error))
                self._record(outcome, began - woke, time.monotonic() - woke, cause)
            return outcome

    def _record(self, outcome: Outcome, waited: float, total: float, cause: str) -> None:
        now = time.monotonic()
        self._pace = self._pace.done(now, reloaded=isinstance(outcome, Applied | RolledBack))
        if isinstance(outcome, Held | Rejected | RolledBack) or self._converger.ward.cases:
            self._retry_at = now + self._retry_delay
            self._retry_delay = min(_RETRY_CEILING, 2 * self._retry_delay)
        else:
            self._retry_at, self._retry_delay = None, _RETRY_FIRST
        self._metrics.record(outcome, waited, total)
        if self._converger.plan is not None:
            self._metrics.describe(self._converger.plan, len(self._converger.ward.cases))
        if outcome != self._last and not isinstance(outcome, Unchanged):
            level = self._log.info if isinstance(outcome, Applied) else self._log.warning
            level(outcome_name(outcome), cause=cause, seconds=round(total, 4), **fields(outcome))
            systemd.notify(STATUS=summary(outcome))
        self._last = outcome
        self._tell_quarantine()

    def _tell_quarantine(self) -> None:
        """One event for each service that entered or left quarantine."""
        reasons = self._converger.ward.reasons()
        for service in reasons.keys() - self._told.keys():
            self._log.error("quarantined", service=service, reason=reasons[service], served="its last good object")
        for service in self._told.keys() - reasons.keys():
            self._log.info("quarantine_left", service=service)
        self._told = reasons

    async def _follow_nginx(self) -> None:
        """Notice a new or replaced master within two seconds, without any event, and prove what it serves."""
        while True:
            await asyncio.sleep(_NOTICE_EVERY)
            if self._converging.locked():
                continue
            async with self._converging:
                try:
                    noticed = await self._site.notice()
                except (StateError, NginxError, OSError) as error:
                    self._log.warning("nginx_unknown", error=str(error))
                    continue
            if noticed is not None:
                self._log.info("nginx_noticed", **noticed.event())

    async def _feed_watchdog(self) -> None:
        interval = systemd.watchdog_interval()
        while True:
            await asyncio.sleep(interval or 3600.0)
            systemd.notify(WATCHDOG="1")

    def _hang_up(self) -> None:
        # a reference, or the loop may drop the task in the middle
        self._rereading = asyncio.ensure_future(self._reread())

    async def _reread(self) -> None:
        """SIGHUP: settings and templates; a broken one keeps the old ones in use."""
        systemd.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            settings = load(self._config)
            await self._adopt(settings)
        except GrayctlError as error:
            self._log.error("reread_failed", error=str(error), kept="the old settings and templates")
        systemd.notify(READY="1")

    async def _adopt(self, settings: Settings) -> None:
        templates = Templates(settings.templates_dir)
        fresh = {name: error for name, error in templates.broken.items() if name not in self._broken_templates}
        if fresh:
            raise SettingsError("; ".join(str(error) for error in fresh.values()))
        for key in ("state_dir", "metrics", "control", "node"):
            if getattr(settings, key) != getattr(self._settings, key):
                self._log.warning("needs_restart", setting=key)
        async with self._converging:
            self._facts = await asyncio.to_thread(inspect, settings.nginx, self._state_dir)
            self._site.reconfigure(settings.nginx, settings.reload, self._facts)
            self._broken_templates = set(templates.broken)
            renderer = Renderer(templates, settings, dialect(self._facts))
            self._converger.reconfigure(settings, renderer, Limits(self._facts.variables_hash_bucket_size))
        self._log.info("reread", watch="goes on" if _heard_alike(settings, self._settings) else "starts over")
        self._settings = settings
        self._cause = "settings and templates were read again"
        self._pace = Pace(settings.reload.min_interval, settings.reload.max_delay)
        self._ask_for_converge()

    def _ask_for_converge(self) -> None:
        """Something else than Consul changed; before the first catalog there is nothing to converge to."""
        if self._catalog is not None:
            self._pace = self._pace.changed(time.monotonic())
            self._news.set()

    # ------------------------------------------------------------ the desk (serve.Desk)

    def status(self) -> Status:
        """Everything `grayctl status` shows."""
        return build_status(
            settings=self._settings,
            started=self._started,
            converger=self._converger,
            site=self._site,
            facts=self._facts,
            watcher=self._watcher,
            catalog=self._catalog,
            freeze=self._brake.standing(self._catalog),
            last=summary(self._last) if self._last else "nothing was applied yet",
        )

    def ready(self) -> str:
        """Empty when ready, else why not."""
        if self._catalog is None:
            return "no complete catalog from Consul yet"
        return "" if self._last is not None else "the first catalog is being applied"

    async def render(self) -> Result:
        """Re-read settings and templates, and converge now."""
        await self._adopt(load(self._config))
        return result(await self._converge(retry=True, cause="grayctl render"), self._converger.ward)

    async def freeze(self, *, seconds: float | None, reason: str, author: str) -> Result:
        """Pull this node's brake."""
        now = time.time()
        until = None if seconds is None else now + seconds
        brake.write_local(self._state_dir, Freeze(reason=reason, author=author, since=now, until=until))
        self._log.warning("frozen", reason=reason, author=author, until=until)
        return Result(outcome="done", message="frozen: nothing that nginx serves is changed until `grayctl unfreeze`")

    async def unfreeze(self) -> Result:
        """Release this node's brake."""
        brake.write_local(self._state_dir, None)
        self._log.warning("unfrozen")
        self._cause = "unfreeze"
        self._ask_for_converge()
        return Result(outcome="done", message="unfrozen: what changed meanwhile is applied now")

    async def roll_back(self, number: int, author: str) -> Result:
        """Serve an earlier generation, and freeze so that the next change does not undo it."""
        async with self._converging:
            self._store.read(number)
            reason = f"generation rollback to {number}"
            brake.write_local(self._state_dir, Freeze(reason=reason, author=author, since=time.time()))
            began = time.monotonic()
            outcome = await self._converger.roll_back_to(number, reason, uuid.uuid4().hex[:16])
            self._record(outcome, 0.0, time.monotonic() - began, reason)
        return result(outcome, self._converger.ward)

    # ------------------------------------------------------------ small things

    @property
    def _number(self) -> int:
        return self._converger.serving.number if self._converger.serving else 0

    def _refresh_metrics(self) -> None:
        metrics, watcher = self._metrics, self._watcher
        metrics.frozen.set(self._brake.standing(self._catalog) is not None)
        metrics.nginx_up.set(self._site.master is not None)
        metrics.generation.set(self._number)
        metrics.proven.set(self._site.proven)
        if watcher is not None:
            metrics.consul_up.set(watcher.state.connected)
            metrics.long_polls.set(watcher.state.long_polls)
            if watcher.state.last_contact is not None:
                metrics.watch_lag.set(time.monotonic() - watcher.state.last_contact)
