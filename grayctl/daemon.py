"""`grayctl run`: wiring, one loop, signals, sd_notify. Decides nothing."""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from grayctl import __version__, log, systemd
from grayctl.applier import RETRY_CEILING, RETRY_FIRST, Applier
from grayctl.assembly import Parts, assemble, dialect
from grayctl.brake import Brake
from grayctl.consul.client import ConsulClient
from grayctl.consul.watch import Watcher
from grayctl.errors import GrayctlError, NginxError, SettingsError, StateError, TemplateError
from grayctl.fleet.adopter import Adopter
from grayctl.fleet.reporter import Reporter, installation_id
from grayctl.metrics import ConsulObserver, Metrics
from grayctl.model.node import NodeReport
from grayctl.model.report import Status
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect
from grayctl.orders import Orders
from grayctl.policy.resolve import Limits
from grayctl.policy.wire import known_keys
from grayctl.render.fileset import Renderer
from grayctl.render.templates import Templates
from grayctl.report import build_status, disk_status, held_by, summary
from grayctl.serve import Faces, control_routes, metrics_routes
from grayctl.settings import Settings, load, path_in_force

_NOTICE_EVERY = 1.0
_METRICS_AGAIN = 10.0
# systemd hears READY with the first outcome, or when this has passed: without Consul what stands goes on being served,
# and neither the machine's start nor systemd's patience may depend on it.
_READY_WITHIN = 10.0


def _heard_alike(one: Settings, other: Settings) -> bool:
    """Whether two settings hear the same from Consul, so that the watcher need not start over."""
    return (one.consul, one.watch) == (other.consul, other.watch)


class Daemon:
    """One process beside one nginx. `run` returns when SIGTERM or SIGINT asked for it."""

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._settings = settings
        self._config = path_in_force(config)  # for good: a file that is gone at a re-read does not mean the defaults
        self._state_dir = Path(settings.state_dir)
        self._log = log.get("daemon")
        self._metrics = Metrics()
        self._brake = Brake(self._state_dir)
        self._started = time.time()
        self._applier = Applier(settings.reload, self._brake, self._metrics, recorded=self._recorded)
        self._policy_keys = tuple(sorted(known_keys()))
        self._stop, self._heard_otherwise = asyncio.Event(), asyncio.Event()
        self._watcher: Watcher | None = None
        self._reporter: Reporter | None = None
        self._adopter: Adopter | None = None

    async def run(self) -> int:
        """Start, serve until asked to stop, stop. Returns the exit code.

        Raises:
            Locked: another grayctl writes this state directory.
            GrayctlError: what must be there at the start is not.
        """
        with Store(self._state_dir).opened() as store:
            self._store = store
            self._id = installation_id(self._state_dir)
            self._log.info("started", version=__version__, node=self._settings.node, pid=os.getpid())
            async with self._listening(), self._signals():
                tasks = [
                    asyncio.create_task(one, name=name)
                    for name, one in (
                        ("watch", self._watch()),
                        ("apply", self._apply()),
                        ("nginx", self._follow_nginx()),
                        ("disk", self._applier.follow_disk()),
                        ("watchdog", self._feed_watchdog()),
                    )
                ]
                await self._until_stopped(tasks)
        return 0

    # ------------------------------------------------------------ start and stop

    async def _apply(self) -> None:
        """Put the parts together, however long nginx or the disk do not let us, then apply what is heard."""
        self._applier.parts = await self._assembled()
        self._applier.tell_systemd()
        self._metrics.say_held("consul")  # until the first complete catalog was dealt with
        await self._applier.run()

    async def _assembled(self) -> Parts:
        delay = RETRY_FIRST
        while True:
            try:
                async with self._applier.busy:
                    parts = await assemble(self._settings, self._store)
            except (NginxError, StateError, TemplateError, OSError) as error:
                if str(error) != self._applier.blocked:
                    self._log.error("cannot_begin", held_by=held_by(error), error=str(error), retry="until it can")
                self._applier.blocked = str(error)
                self._applier.tell_systemd()
                self._metrics.say_held(held_by(error))
                await asyncio.sleep(delay)
                delay = min(RETRY_CEILING, 2 * delay)
            else:
                self._log.info("assembled", nginx=parts.site.facts.version, staging=parts.site.staging)
                return parts

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the signal; a task that ends before it is a defect, and its exception is raised."""
        stop = asyncio.create_task(self._stop.wait())
        first = asyncio.create_task(self._applier.first.wait())
        try:
            await asyncio.wait([first, stop, *tasks], timeout=_READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            systemd.notify(READY="1")
            gc.freeze()  # what is there now mostly stays: with 1,000 services to look for garbage in it takes 80 ms
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
        finally:
            systemd.notify(STOPPING="1", STATUS="finishing the change under way")
            async with self._applier.busy:  # an activation under way is finished or reverted, never cut
                for task in [stop, first, *tasks]:
                    task.cancel()
            await asyncio.gather(stop, first, *tasks, return_exceptions=True)
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
            orders = Orders(self._applier, self._state_dir, self._brake, self._as_on_disk)
            await faces.control(control_routes(self, orders), Path(self._settings.control.socket))
            scrapes = asyncio.create_task(self._listen_for_scrapes(faces))
            yield
            scrapes.cancel()
        finally:
            await faces.close()

    async def _listen_for_scrapes(self, faces: Faces) -> None:
        routes = metrics_routes(self._metrics, self, self._refresh_metrics)
        while True:
            if await faces.metrics(routes, self._settings.metrics.listen):
                return
            await asyncio.sleep(_METRICS_AGAIN)

    # ------------------------------------------------------------ the loop

    async def _watch(self) -> None:
        """Hear from Consul; start over with the new settings whenever they were re-read."""
        while True:
            self._heard_otherwise.clear()
            settings = self._settings
            observer = ConsulObserver(self._metrics)
            async with ConsulClient(settings.consul, connections=settings.watch.max_long_polls) as client:
                self._watcher = Watcher(client, settings, self._applier.heard, observer=observer)
                self._reporter = Reporter(client, self._node_report)
                self._adopter = Adopter(client, settings.node, self._applier.unled)
                runs = (self._watcher.run(), self._reporter.run(), self._adopter.run(), self._heard_otherwise.wait())
                works = [asyncio.ensure_future(one) for one in runs]
                try:
                    ended, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
                    for one in ended:
                        one.result()
                finally:
                    for one in works:
                        one.cancel()
                    await asyncio.gather(*works, return_exceptions=True)
            gc.unfreeze()  # what this watcher consisted of is garbage now

    async def _follow_nginx(self) -> None:
        """Notice a new or replaced master within two seconds, without any event, and prove what it serves."""
        while True:
            await asyncio.sleep(_NOTICE_EVERY)
            if self._applier.busy.locked():
                continue
            if (parts := self._applier.parts) is not None:
                await self._notice(parts)
            if self._reporter is not None:
                self._reporter.look()  # nobody announces the end of an old worker, or of a freeze, either

    async def _notice(self, parts: Parts) -> None:
        async with self._applier.busy:
            try:
                noticed = await parts.site.notice()
            except (StateError, NginxError, OSError) as error:
                self._log.warning("nginx_unknown", error=str(error))
                return
        if noticed is not None:
            self._log.info("nginx_noticed", **noticed.event())

    def _recorded(self) -> None:
        """A change has come to its outcome: what waits for that, or tells of it, need not look again and again."""
        if self._reporter is not None and self._adopter is not None:
            self._reporter.look()
            self._adopter.look()

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
            await self._as_on_disk()
        except GrayctlError as error:
            self._metrics.reread.set(0)
            self._applier.caveat = f"the old settings and templates stay in use until you mend this and reload: {error}"
            self._log.error("reread_failed", error=str(error), kept="the old settings and templates")
        self._applier.tell_systemd()
        systemd.notify(READY="1")

    async def _as_on_disk(self) -> None:
        await self._adopt(load(self._config))

    async def _adopt(self, settings: Settings) -> None:
        parts = self._applier.parts
        if parts is not None:
            await self._reconfigure(parts, settings)
        for key in ("state_dir", "metrics", "control", "node"):
            if getattr(settings, key) != getattr(self._settings, key):
                self._log.warning("needs_restart", setting=key)
        self._metrics.reread.set(1)
        self._applier.caveat = ""
        alike = _heard_alike(settings, self._settings)
        self._log.info("reread", watch="goes on" if alike else "starts over")
        self._settings = settings
        if not alike:
            self._heard_otherwise.set()
        self._applier.repace(settings.reload)
        self._applier.ask("settings and templates were read again")

    async def _reconfigure(self, parts: Parts, settings: Settings) -> None:
        templates = Templates(settings.templates_dir)
        fresh = [error for name, error in templates.broken.items() if name not in parts.templates.broken]
        if fresh:
            raise SettingsError("; ".join(map(str, fresh)))
        async with self._applier.busy:
            facts = await asyncio.to_thread(inspect, settings.nginx, self._state_dir)
            parts.site.reconfigure(settings.nginx, settings.reload, facts)
            renderer = Renderer(templates, settings, dialect(facts))
            parts.converger.reconfigure(settings, renderer, Limits(facts.variables_hash_bucket_size))
            self._applier.parts = replace(parts, templates=templates)

    # ------------------------------------------------------------ the desk (serve.Desk)

    def status(self) -> Status:
        """Everything `grayctl status` shows."""
        applier = self._applier
        if applier.parts is None:
            stands = disk_status(self._settings, self._brake.standing(applier.catalog))
            return msgspec.structs.replace(stands, daemon=True, pid=os.getpid(), warnings=(f"held: {applier.blocked}",))
        return build_status(
            settings=self._settings,
            started=self._started,
            parts=applier.parts,
            watcher=self._watcher,
            catalog=applier.catalog,
            freeze=self._brake.standing(applier.catalog),
            last=summary(applier.last) if applier.last else f"nothing was applied yet: {self.ready()}",
            trouble=self._reporter.trouble if self._reporter else "",
            unadopted=self._adopter.trouble if self._adopter else {},
            caveats=(applier.caveat, applier.crowd),
        )

    def ready(self) -> str:
        """Empty when ready, else why not."""
        if self._applier.parts is None:
            return self._applier.blocked
        if self._applier.catalog is None:
            return "no complete catalog from Consul yet"
        return "" if self._applier.last is not None else "the first catalog is being applied"

    # ------------------------------------------------------------ small things

    def _node_report(self) -> NodeReport:
        """What the fleet is told of this node."""
        parts = self._applier.parts
        serving = parts.converger.serving if parts else None
        return NodeReport(
            node=self._settings.node,
            id=self._id,
            version=__version__,
            nginx=parts.site.facts.version if parts else "",
            generation=serving.number if serving else 0,
            digest=serving.digest if serving else "",
            proven=parts.site.proven if parts else False,
            quarantined=tuple(self._applier.ward.reasons()),
            frozen=self._brake.standing(self._applier.catalog) is not None,
            labels=self._settings.labels,
            policy_keys=self._policy_keys,
            drained=self._applier.drained,
            kept=parts.converger.standing.kept if parts else (),
            old_workers=parts.site.leaving if parts else 0,
        )

    def _refresh_metrics(self) -> None:
        metrics, watcher, applier = self._metrics, self._watcher, self._applier
        metrics.frozen.set(self._brake.standing(applier.catalog) is not None)
        if applier.parts is not None:
            metrics.nginx_up.set(applier.parts.site.master is not None)
            metrics.orphans.set(len(applier.parts.site.orphans))
            metrics.generation.set(applier.number)
            metrics.proven.set(applier.parts.site.proven)
            metrics.old_workers.set(applier.parts.site.crew()[1])
            metrics.guard_holding.set(applier.parts.converger.hold is not None)
            metrics.flapping.clear()
            for one in applier.parts.converger.damping.flappers:
                metrics.flapping.labels(one.service).inc()
        metrics.reload_interval.set(applier.interval)
        metrics.reload_waits.set(bool(applier.crowd))
        if watcher is not None:
            metrics.consul_up.set(watcher.state.connected)
            metrics.consul_denied.set(len(watcher.state.denied))
            metrics.long_polls.set(watcher.state.long_polls)
            if watcher.state.last_contact is not None:
                metrics.watch_lag.set(time.monotonic() - watcher.state.last_contact)
