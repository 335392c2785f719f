"""One nginx and its generations: check, activate, roll back, recover. FACTS.md's protocol, to the letter."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass

from grayctl import log
from grayctl.errors import NginxConfigError, StateError
from grayctl.model.generation import FileSet, Manifest
from grayctl.model.outcome import RolledBack
from grayctl.nginx.check import Checked, check, namespace_allowed
from grayctl.nginx.confirm import ErrorLog, MasterGone, NotProven, Proven, ask_marker, confirm
from grayctl.nginx.generations import Pending, State, Store
from grayctl.nginx.inspect import Facts, inspect
from grayctl.nginx.process import Master, find_master, hang_up, is_alive, orphans, workers
from grayctl.settings import NginxSettings, ReloadSettings, listen_address

_STARTING = 2.0  # seconds a new master gets before it must answer
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Activated:
    """The candidate is current. `proven` is false while nginx does not run: its next start serves it."""

    proven: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class NotRunning:
    """There is no master to prove anything."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start found and did.

    Attributes:
        action: `nothing`, `committed`, `reverted`, `kept-unproven`, `healed`.
        generation: the one that stands; None before the first.
    """

    action: str
    generation: int | None
    detail: str = ""

    def event(self) -> dict[str, object]:
        """For a log event."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Noticed:
    """A change of nginx that nobody announced: `started`, `stopped`, `proven`, `unproven`."""

    what: str
    pid: int | None
    detail: str = ""

    def event(self) -> dict[str, object]:
        """For a log event."""
        return asdict(self)


class Site:
    """The nginx beside us.

    Args:
        settings: which nginx, and the marker's port.
        reload: how long a proof may take.
        store: its generations; opened.
        facts: what nginx says about itself.
        keep: how many generations are kept.
        on_step: called with the name of each step that is done; for tests that cut the power there.
    """

    def __init__(
        self,
        settings: NginxSettings,
        reload: ReloadSettings,
        store: Store,
        facts: Facts,
        *,
        keep: int = 20,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._store = store
        self._facts = facts
        self._keep = keep
        self._step = on_step
        self._log = log.get("nginx")
        self._namespace = namespace_allowed()
        self.master: Master | None = None
        self.orphans: list[int] = []

    def reconfigure(self, settings: NginxSettings, reload: ReloadSettings, facts: Facts) -> None:
        """Use other settings from now on."""
        self._settings, self._reload, self._facts = settings, reload, facts

    @property
    def staging(self) -> str:
        """How candidates are checked: `namespace`, or `flip` (flip, test, flip back under the journal)."""
        return "namespace" if self._namespace else "flip"

    @property
    def proven(self) -> bool:
        """Whether nginx has answered the generation that stands."""
        state = self._store.state()
        return state.proven and state.serving == self._store.current_number()

    # ------------------------------------------------------------ check

    async def check(self, candidate: Manifest) -> Checked:
        """Test a candidate inside the user's full configuration.

        Raises:
            NginxConfigError: nginx.conf does not include the generations, so nothing could ever be served.
            NginxError: nginx cannot be started.
            StateError: the journal cannot be written (flip mode).
        """
        self._demand_include()
        if self._namespace:
            overlay = (self._store.folder(candidate.number), self._store.root / "current")
            checked = await check(self._settings, self._facts, overlay)
        else:
            checked = await self._check_by_flipping(candidate)
        self._step("checked")
        return checked

    async def check_current(self) -> Checked:
        """Test the tree as it stands: when this fails, the user's own configuration is at fault."""
        return await check(self._settings, self._facts, None)

    async def _check_by_flipping(self, candidate: Manifest) -> Checked:
        before = self._store.current_number()
        self._store.set_pending(Pending(from_=before, to=candidate.number, checked=False))
        self._store.flip(candidate.number)
        try:
            return await check(self._settings, self._facts, None)
        finally:
            if before is not None:
                self._store.flip(before)
            self._store.drop_pending()

    def _demand_include(self) -> None:
        if not self._facts.included:
            self._facts = inspect(self._settings, self._store.root)
        if not self._facts.included:
            raise NginxConfigError(
                f"{self._facts.conf}: the http block does not include the generations. "
                f"Add inside http {{ }}: include {self._store.root}/current/http.conf;"
            )

    # ------------------------------------------------------------ activate and roll back

    async def activate(self, candidate: Manifest) -> Activated | RolledBack:
        """Make a checked candidate current, signal nginx, prove it; otherwise put the old generation back.

        Raises:
            StateError: the journal or the link cannot be written; recovery at the next start settles it.
        """
        began = asyncio.get_running_loop().time()
        before = self._store.current_number()
        self._store.set_pending(Pending(from_=before, to=candidate.number, checked=True))
        self._step("pending")
        self._store.flip(candidate.number)
        self._step("flipped")
        proof = await self._serve(candidate)
        self._step("confirmed")
        if isinstance(proof, NotProven):
            return await self._roll_back(before, candidate, proof)
        self._record(candidate, proven=isinstance(proof, Proven))
        self._step("recorded")
        self._store.drop_pending()
        self._step("done")
        self._store.prune(self._keep)
        return Activated(isinstance(proof, Proven), asyncio.get_running_loop().time() - began)

    async def _roll_back(self, before: int | None, failed: Manifest, proof: NotProven) -> RolledBack:
        """Flip back, signal, prove the old generation."""
        if before is None:
            raise StateError(f"generation {failed.number} failed and there is none to go back to: {proof.reason}")
        self._store.flip(before)
        self._step("flipped-back")
        old = self._store.read(before)
        restored = await self._restore(old, refused=proof.refused)
        self._step("restored")
        self._record(old, proven=restored)
        self._store.drop_pending()
        self._step("rolled-back")
        return RolledBack(before, failed.number, failed.digest, proof.reason, restored)

    async def _restore(self, old: Manifest, *, refused: bool) -> bool:
        """Whether nginx serves `old` again. A master that refused never left it, and needs no second signal."""
        if refused and await self._answers(old):
            return True
        return isinstance(await self._serve(old), Proven) or await self._answers(old)

    async def _serve(self, manifest: Manifest) -> Proven | NotProven | NotRunning:
        """Signal the master until one that lives through it has proven `manifest`, or has failed to."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._reload.confirm_timeout
        while True:
            master = await self._wait_for_master(deadline if self.master else loop.time())
            self.master = master
            if master is None:
                return NotRunning()
            with ErrorLog(self._facts.error_log, master) as errors:
                before = workers(master)
                hang_up(master)
                self._step("signalled")
                timeout = max(0.0, deadline - loop.time())
                proof = await confirm(
                    master, before, errors, marker=self._marker, stamp=_stamp(manifest), timeout=timeout
                )
            if not isinstance(proof, MasterGone):
                return proof
            self._log.warning("master_replaced", pid=master.pid, note="the proof starts over")

    async def _wait_for_master(self, deadline: float) -> Master | None:
        """The master; one that has just been replaced gets until `deadline` to come back."""
        loop = asyncio.get_running_loop()
        while (master := find_master(self._facts)) is None and loop.time() < deadline:  # noqa: ASYNC110 -- /proc has no events
            await asyncio.sleep(_PAUSE)
        return master

    async def _answers(self, manifest: Manifest) -> bool:
        return await ask_marker(*self._marker) == _stamp(manifest)

    def _record(self, manifest: Manifest, *, proven: bool) -> None:
        last = manifest.number if proven else self._store.state().last_proven
        self._store.set_state(State(serving=manifest.number, digest=manifest.digest, proven=proven, last_proven=last))

    @property
    def _marker(self) -> tuple[str, int]:
        return listen_address(self._settings.marker)

    # ------------------------------------------------------------ start, and what nobody announces

    def init(self, files: FileSet, *, created: float) -> Manifest:
        """Write generation 0 and make it current, so that the user's include never dangles.

        Raises:
            StateError: the state directory cannot be written.
        """
        manifest = self._store.write(files, cause="init", trace_id="", created=created)
        self._store.flip(manifest.number)
        self._record(manifest, proven=False)
        return manifest

    async def recover(self) -> Recovery:
        """Settle what a crash left: an activation under way is committed or reverted, a lost link is healed.

        Raises:
            StateError: the state directory cannot be written.
        """
        self.master = find_master(self._facts)
        try:
            pending = self._store.pending()
        except StateError as error:
            self._log.error("journal_damaged", error=str(error))
            pending = None
            self._store.drop_pending()
        recovery = await self._settle(pending) if pending else self._heal()
        if pending:
            self._store.drop_pending()
        return recovery

    async def _settle(self, pending: Pending) -> Recovery:
        at_target = self._store.current_number() == pending.to
        if at_target and pending.checked and self.master is None:
            self._record(self._store.read(pending.to), proven=False)
            return Recovery("kept-unproven", pending.to, "checked; nginx does not run, its next start serves it")
        if at_target and pending.checked and await self._answers(self._store.read(pending.to)):
            self._record(self._store.read(pending.to), proven=True)
            return Recovery("committed", pending.to, "nginx answers it")
        if pending.from_ is None:
            return Recovery("nothing", self._store.current_number(), "there was no generation before")
        self._store.flip(pending.from_)
        self._step("flipped-back")
        old = self._store.read(pending.from_)
        restored = self.master is not None and await self._restore(old, refused=not pending.checked)
        self._record(old, proven=restored)
        return Recovery("reverted", pending.from_, f"generation {pending.to} was not proven")

    def _heal(self) -> Recovery:
        """A `current` that points nowhere is put back to the last generation that was good."""
        if (standing := self._store.current()) is not None:
            return Recovery("nothing", standing.number)
        state = self._store.state()
        for number in [state.serving, state.last_proven, *reversed(self._store.numbers())]:
            try:
                self._store.objects(self._store.read(number))
            except StateError:
                continue
            self._store.flip(number)
            return Recovery("healed", number, "current pointed nowhere")
        return Recovery("nothing", None, "there is no generation yet")

    async def notice(self) -> Noticed | None:
        """Look at nginx once; a new master, or one that has not answered yet, is proven.

        Raises:
            StateError: the record cannot be written.
        """
        before, self.master = self.master, find_master(self._facts)
        current = self._store.current()
        if self.master is None:
            return self._notice_absence(before)
        if current is None or (self.master == before and self.proven):
            return None
        self.orphans = []
        if await self._answers_soon(current, self.master, patient=self.master != before):
            self._record(current, proven=True)
            return Noticed("proven", self.master.pid, f"serves generation {current.number}")
        return None if self.master == before else await self._bring_up(current, self.master)

    def _notice_absence(self, before: Master | None) -> Noticed | None:
        if before is None:
            return None
        self.orphans = orphans(self._facts)
        detail = f"workers without a master: {self.orphans}" if self.orphans else "its next start serves the newest"
        return Noticed("stopped", before.pid, detail)

    async def _bring_up(self, current: Manifest, master: Master) -> Noticed:
        """A new master that does not answer the current generation by itself is told to read it."""
        proof = await self._serve(current)
        self._record(current, proven=isinstance(proof, Proven))
        if isinstance(proof, NotProven):
            return Noticed("unproven", master.pid, proof.reason)
        return Noticed("started", master.pid, f"serves generation {current.number}")

    async def _answers_soon(self, manifest: Manifest, master: Master, *, patient: bool) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_STARTING if patient else 0.0)
        while not await self._answers(manifest):
            if loop.time() >= deadline or not is_alive(master):
                return False
            await asyncio.sleep(_PAUSE)
        return True


def _stamp(manifest: Manifest) -> str:
    """What the marker of a generation answers."""
    return f"{manifest.name} {manifest.digest}"
