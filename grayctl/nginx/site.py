"""One nginx and its generations: check, activate, roll back, recover. FACTS.md's protocol, to the letter."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from grayctl import log
from grayctl.errors import NginxConfigError, NginxError, StateError
from grayctl.model.generation import FileSet, Manifest
from grayctl.model.outcome import RolledBack
from grayctl.nginx.check import Checked, check, command_of
from grayctl.nginx.confirm import ErrorLog, MasterGone, NotProven, NotRunning, Proof, Proven, ask_marker, confirm
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import Facts, inspect, is_fresh
from grayctl.nginx.journal import Pending, State
from grayctl.nginx.lookout import Lookout, Noticed
from grayctl.nginx.ports import strangers
from grayctl.nginx.process import Master, demand_reachable, find_master, hang_up, is_alive, workers
from grayctl.nginx.recovery import Recovery, recover
from grayctl.nginx.staging import NamespaceError, Spare, namespace_allowed
from grayctl.settings import NginxSettings, ReloadSettings, listen_address

# What activation does, in order, and what a failed one does after `signalled`: `on_step` hears each when it is done.
ACTIVATION = ("pending", "flipped", "signalled", "confirmed", "recorded", "done")
ROLLBACK = ("condemned", "flipped-back", "signalled", "restored", "recorded", "rolled-back")

_PAUSE = 0.02
_SUCCESSIONS = 5  # masters in a row that may be replaced in mid-proof


@dataclass(frozen=True, slots=True)
class Activated:
    """The candidate is current. `proven` is false while nginx does not run: its next start serves it."""

    proven: bool
    seconds: float


class Site:
    """The nginx beside us. One call at a time: the caller serialises.

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
        self.settings = settings
        self.store = store
        self.facts = facts
        self.step = on_step
        self.master: Master | None = None
        self.orphans: list[int] = []
        self.leaving = 0  # workers of earlier generations, when they were last counted
        self._reload, self._keep = reload, keep
        self._log = log.get("nginx")
        self._namespace = namespace_allowed()
        self._lookout = Lookout()
        self._judged: Facts | None = None  # by which `master` was proven
        self._spare: Spare | None = None

    def reconfigure(self, settings: NginxSettings, reload: ReloadSettings, facts: Facts) -> None:
        """Use other settings from now on."""
        self.settings, self._reload, self.facts = settings, reload, facts

    @property
    def staging(self) -> str:
        """How candidates are checked: `namespace`, or `flip` (flip, test, flip back under the journal)."""
        return "namespace" if self._namespace else "flip"

    def stand_by(self) -> None:
        """Have an nginx wait for the next check, where one can; `close` ends it."""
        if self._spare is None and self._namespace and self.facts.takes_error_log and not self.facts.is_script:
            with suppress(OSError, RuntimeError):  # no descriptor or thread to be had: the check starts its own
                self._spare = Spare(command_of(self.settings, self.facts), self.store.root / "next-check")

    def close(self) -> None:
        """End what waits for a check."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def crew(self) -> tuple[int, int]:
        """How many workers serve, and how many of earlier generations still finish what they have."""
        found = workers(self.master) if self.master else ()
        self.leaving = sum(worker.leaving for worker in found)
        return len(found) - self.leaving, self.leaving

    @property
    def proven(self) -> bool:
        """Whether nginx has answered the generation that stands."""
        state = self.store.state()
        return state.proven and state.serving == self.store.current_number()

    @property
    def marker(self) -> tuple[str, int]:
        """Host and port of the marker."""
        return listen_address(self.settings.marker)

    def look(self) -> Master | None:
        """Find the master now. One whose pid file was moved or lost still counts as long as it lives."""
        found = find_master(self.facts, self.master if self._judged is self.facts else None)
        self._judged = self.facts
        if found is not None or self.master is None or not is_alive(self.master):
            self.master = found
        return self.master

    # ------------------------------------------------------------ check

    async def check(self, candidate: Manifest, *, trial: bool = False) -> Checked:
        """Test a candidate inside the user's full configuration; the live tree is not touched (`flip`: put back).

        Args:
            candidate: a written generation.
            trial: it will not be activated, whatever comes of it. Otherwise the journal is left ready for the flip when
                the candidate passes.

        Raises:
            NginxConfigError: nginx.conf does not include the generations, so nothing could ever be served.
            NginxError: nginx cannot be started, or its master could not be signalled and proven now.
            StateError: the candidate is gone, or it or the journal cannot be written.
        """
        await self.refresh()
        master = self.look()
        demand_reachable(master, self.facts.pid_file)
        await self._settle_first()
        checked = None
        try:
            checked = await self._check_aside(candidate, trial=trial) if self._namespace else None
            if checked is None:
                checked = await self._check_by_flipping(candidate)
        finally:
            if not (checked and checked.ok) and self.store.has_pending():
                self.store.drop_pending()
        self.step("checked")
        return checked

    def _strangers(self, candidate: Manifest) -> tuple[str, ...]:
        """Who else holds what a candidate listens on, a line each: `nginx -t` overlooks it, the master would not.

        What the generation that stands listens on, nginx holds already; what that is, only an undamaged one tells.
        """
        current = self.store.current()
        if self.master is None or current is None:
            return ()
        try:
            held = self.store.entry(current)
        except StateError:
            return ()
        return strangers(self.store.entry(candidate), held)

    async def check_current(self) -> Checked:
        """Test the tree as it stands: when this fails, the user's own configuration is at fault."""
        return await check(self.settings, self.facts, None)

    async def _check_aside(self, candidate: Manifest, *, trial: bool) -> Checked | None:
        """Check in a mount namespace; None where that cannot be had.

        Meanwhile the candidate is made durable and the journal is written, which takes as long again.
        """
        overlay = (self.store.folder(candidate.number), self.store.root / "current")
        spawned = threading.Event()  # not before: two threads that both begin would wait for each other's turn
        preparing = asyncio.create_task(asyncio.to_thread(self._prepare, candidate, spawned, trial=trial))
        checked = None
        try:
            checked = await check(self.settings, self.facts, overlay, spare=self._spare, spawned=spawned.set)
        except NamespaceError as error:
            self._log.warning("namespace_failed", error=str(error), instead="flip, test, flip back")
        finally:
            spawned.set()
            self.close()
            mended, held = await preparing
        if mended and checked is not None:
            checked = await check(self.settings, self.facts, overlay)
        return replace(checked, ok=False, messages=held) if checked and checked.ok and held else checked

    def _prepare(self, candidate: Manifest, spawned: threading.Event, *, trial: bool) -> tuple[bool, tuple[str, ...]]:
        """Make ready for the flip, once `spawned` is set.

        Returns:
            Whether what nginx has read of the candidate meanwhile counts for nothing, and who holds its ports.
        """
        spawned.wait()
        mended = self.store.complete(candidate)
        if not trial:
            self.store.set_pending(self._aside(candidate))
        return mended, self._strangers(candidate)

    def _aside(self, candidate: Manifest) -> Pending:
        return Pending(from_=self.store.current_number(), to=candidate.number, checked=False, aside=True)

    async def _check_by_flipping(self, candidate: Manifest) -> Checked:
        self.store.complete(candidate)
        before = self.store.current_number()
        self.store.set_pending(Pending(from_=before, to=candidate.number, checked=False))
        self.step("check-pending")
        self.store.flip(candidate.number)
        self.step("check-flipped")
        try:
            checked = await check(self.settings, self.facts, None)
        finally:
            self.step("check-tested")
            if before is not None:
                self.store.flip(before)
            self.step("check-flipped-back")
            self.store.drop_pending()
        held = self._strangers(candidate)
        return replace(checked, ok=False, messages=held) if checked.ok and held else checked

    async def refresh(self) -> None:
        """Read the user's configuration again when it was touched: log, pid file or include may have moved."""
        if not is_fresh(self.facts) or not self.facts.included:
            try:
                self.facts = await asyncio.to_thread(inspect, self.settings, self.store.root)
            except NginxConfigError as error:
                self._log.warning("configuration_unreadable", error=str(error), kept="what was known before")
        if not self.facts.included:
            raise NginxConfigError(
                f"{self.facts.conf}: the http block does not include the generations. "
                f"Add inside http {{ }}: include {self.store.root}/current/http.conf;"
            )

    async def _settle_first(self) -> None:
        """Settle an earlier activation that the disk did not let finish, before anything new begins."""
        if self.store.has_pending():
            self._log.warning("recovered", **(await self.recover()).event())

    # ------------------------------------------------------------ activate and roll back

    async def activate(self, candidate: Manifest) -> Activated | RolledBack:
        """Make a candidate that `check` has just accepted current, signal nginx, prove it; otherwise go back.

        Raises:
            StateError: the journal or the link cannot be written; the next check, or the next start, settles it.
        """
        began = asyncio.get_running_loop().time()
        pending = Pending(from_=self.store.current_number(), to=candidate.number, checked=True)
        # Beside a running nginx the flip itself says that the check has passed. Where none runs there is no hurry, and
        # its next start shall serve the newest even if we die before the flip.
        if self.master is None or self.store.pending() != self._aside(candidate):
            self.store.set_pending(pending)
        self.step("pending")
        # Durable when the proof is recorded: until then a power cut leaves either link, and the journal knows both.
        self.store.flip(candidate.number, synced=False)
        self.step("flipped")
        proof = await self.serve(candidate)
        if isinstance(proof, NotProven):
            return await self._roll_back(pending, candidate, proof)
        self.step("confirmed")
        self.record(candidate, proven=isinstance(proof, Proven))
        self.step("recorded")
        self.store.drop_pending()
        self.step("done")
        self._prune()
        return Activated(isinstance(proof, Proven), asyncio.get_running_loop().time() - began)

    async def _roll_back(self, pending: Pending, failed: Manifest, proof: NotProven) -> RolledBack:
        """Put back what stood before, signal, prove it."""
        old = self.store.intact(pending.from_)
        if old is None:
            raise StateError(
                f"generation {failed.number} is not served ({proof.reason}), "
                "and what stood before is damaged. The next start of grayctl heals what can be healed"
            )
        self._condemn(pending)
        self.step("condemned")
        self.store.flip(old.number)
        self.step("flipped-back")
        restored = await self.restore(old)
        self.step("restored")
        self.record(old, proven=restored)
        self.step("recorded")
        self.store.drop_pending()
        self.step("rolled-back")
        return RolledBack(old.number, failed.number, failed.digest, proof.reason, restored)

    def _condemn(self, pending: Pending) -> None:
        """Journal that there is no way forward. A disk that refuses must not stop the way back."""
        try:
            condemned = Pending(from_=pending.from_, to=pending.to, checked=pending.checked, reverting=True)
            self.store.set_pending(condemned)
        except StateError as error:
            self._log.error("journal_unwritable", error=str(error), note="the rollback goes on")

    async def restore(self, old: Manifest) -> bool:
        """Signal nginx and tell whether it serves `old`, which is current again.

        A master that refuses this reload too never left its old configuration: the fault lies in the user's own
        tree, and the marker says whether what it kept is `old`.
        """
        proof = await self.serve(old)
        return isinstance(proof, Proven) or (isinstance(proof, NotProven) and proof.refused and await self.answers(old))

    async def serve(self, manifest: Manifest) -> Proven | NotProven | NotRunning:
        """Signal nginx until a master that lives through it has proven `manifest`, or has failed to."""
        master = self.look()
        for _ in range(_SUCCESSIONS):
            if master is None:
                return NotRunning()
            proof = await self._signal_and_confirm(master, manifest)
            if not isinstance(proof, MasterGone):
                return proof
            self._log.warning("master_replaced", pid=master.pid, note="the proof starts over")
            master = await self._successor(master)
            if master is None:
                return NotProven(
                    "nginx ended while it was to take the generation, and did not come back", refused=False
                )
        return NotProven(f"{_SUCCESSIONS} masters in a row were replaced before they proved it", refused=False)

    async def _signal_and_confirm(self, master: Master, manifest: Manifest) -> Proof:
        with ErrorLog(self.facts.error_log, master) as errors:
            before = workers(master)
            try:
                hang_up(master)
            except NginxError as error:  # the signal may not be sent: then nginx has not moved
                return NotProven(str(error), refused=True)
            self.step("signalled")
            return await confirm(
                master,
                before,
                errors,
                stays=lambda: self.look() == master,
                marker=self.marker,
                stamp=manifest.stamp,
                timeout=self._reload.confirm_timeout,
            )

    async def _successor(self, gone: Master) -> Master | None:
        """The master after `gone`; None when none comes within the time of a proof."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._reload.confirm_timeout
        while (master := self.look()) in {None, gone} and loop.time() < deadline:  # noqa: ASYNC110 -- /proc has no events
            await asyncio.sleep(_PAUSE)
        return master if master != gone else None

    async def answers(self, manifest: Manifest) -> bool:
        """Whether the marker answers this generation now: no proof by itself, since old workers may be left."""
        return await ask_marker(*self.marker) == manifest.stamp

    def record(self, manifest: Manifest, *, proven: bool) -> None:
        """Write down what stands.

        Raises:
            StateError: the record cannot be written.
        """
        last = manifest.number if proven else self.store.state().last_proven
        self.store.mark_served(manifest.number)
        self.store.set_state(State(serving=manifest.number, digest=manifest.digest, proven=proven, last_proven=last))

    def _prune(self) -> None:
        try:
            self.store.prune(self._keep)
        except StateError as error:  # what was activated stays activated; the next success prunes again
            self._log.warning("prune_failed", error=str(error))

    # ------------------------------------------------------------ start, and what nobody announces

    def init(self, files: FileSet, *, created: float) -> Manifest:
        """Write the first generation and make it current, so that the user's include never dangles.

        Raises:
            StateError: the state directory cannot be written.
        """
        manifest = self.store.write(files, cause="init", trace_id="", created=created)
        self.store.complete(manifest)
        self.store.flip(manifest.number)
        self.record(manifest, proven=False)
        return manifest

    async def recover(self) -> Recovery:
        """Settle what a crash left: an activation under way is committed or reverted, damage is healed.

        Raises:
            StateError: the state directory cannot be written.
        """
        return await recover(self)

    async def notice(self) -> Noticed | None:
        """Look at nginx once; a new master, or one that does not serve what stands, is brought to it and proven.

        Raises:
            StateError: the record cannot be written.
        """
        return await self._lookout.look(self)
