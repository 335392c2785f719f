"""What people order through the control socket; each order is carried out between two changes, never in one."""

import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from grayctl import brake, log
from grayctl.applier import Applier
from grayctl.assembly import Parts
from grayctl.brake import Brake
from grayctl.errors import StateError
from grayctl.model.catalog import Freeze
from grayctl.model.outcome import Applied, Rejected
from grayctl.model.report import Result
from grayctl.report import result

_FROZEN = "frozen: nothing that nginx serves is changed until `grayctl unfreeze`"


class Orders:
    """See `grayctl.serve.Orders`, which says what each does.

    Args:
        applier: who applies.
        state_dir: where this node's brake is.
        standing: tells which brake stands, this node's or the fleet's.
        reread: reads settings and templates again.
    """

    def __init__(
        self, applier: Applier, state_dir: Path, standing: Brake, reread: Callable[[], Awaitable[None]]
    ) -> None:
        self._applier = applier
        self._state_dir = state_dir
        self._brake = standing
        self._reread = reread
        self._log = log.get("daemon")

    async def render(self) -> Result:
        """Re-read settings and templates, and converge now."""
        await self._reread()
        return result(await self._applier.converge(retry=True, cause="grayctl render"), self._applier.ward)

    async def freeze(self, *, seconds: float | None, reason: str, author: str) -> Result:
        """Pull this node's brake."""
        now = time.time()
        until = None if seconds is None else now + seconds
        brake.write_local(self._state_dir, Freeze(reason=reason, author=author, since=now, until=until))
        self._log.warning("frozen", reason=reason, author=author, until=until)
        async with self._applier.busy:  # a change under way began before the brake was pulled
            pass
        return Result(outcome="done", message=_FROZEN)

    async def unfreeze(self, author: str) -> Result:
        """Release this node's brake."""
        brake.write_local(self._state_dir, None)
        self._log.warning("unfrozen", author=author)
        if (fleet := self._brake.standing(self._applier.catalog)) is not None:
            stands = f"frozen by {fleet.author}: {fleet.reason}" if fleet.author else fleet.reason
            advice = "until `grayctl unfreeze --fleet` nothing is changed"
            return Result(outcome="done", message=f"this node is unfrozen, but the fleet is {stands}; {advice}")
        self._applier.ask("unfreeze")
        return Result(outcome="done", message="unfrozen: what changed meanwhile is applied now")

    async def roll_back(self, number: int, author: str) -> Result:
        """Serve an earlier generation, and freeze so that the next change does not undo it."""
        converger = self._equipped().converger
        async with self._applier.busy:
            self._equipped().site.store.read(number)  # raises where there is none, before anything is frozen
            reason = f"generation rollback to {number}"
            brake.write_local(self._state_dir, Freeze(reason=reason, author=author, since=time.time()))
            began = time.monotonic()
            outcome = await converger.roll_back_to(number, reason, uuid.uuid4().hex[:16])
            self._applier.record(outcome, 0.0, time.monotonic() - began, reason)
        answer = result(outcome, self._applier.ward, about=())
        return msgspec.structs.replace(answer, message=f"{answer.message}\n{_FROZEN}")

    async def forget(self, service: str, author: str) -> Result:
        """End the name of a service that nothing needs any more."""
        self._equipped()
        outcome = await self._applier.forget(service)
        if isinstance(outcome, Applied):
            self._log.warning("forgotten", service=service, author=author)
        answer = result(outcome, self._applier.ward, about=(service,))
        if not isinstance(outcome, Rejected):
            return answer
        advice = f"Your nginx configuration still refers to {service}: remove those lines, then forget it"
        return msgspec.structs.replace(answer, message=f"{answer.message}\n{advice}")

    async def accept_losses(self, author: str) -> Result:
        """Believe the disappearance that the guard holds."""
        held = self._equipped().converger.accept_losses()
        if held is None:
            return Result(outcome="unchanged", message="the guard holds nothing")
        self._log.warning("guard_accepted", author=author, lost=held.lost, known=held.known)
        return result(await self._applier.converge(cause="guard accept"), self._applier.ward, about=())

    def _equipped(self) -> Parts:
        """The parts.

        Raises:
            StateError: they could not be put together yet.
        """
        if self._applier.parts is None:
            raise StateError(f"grayctl cannot begin: {self._applier.blocked}")
        return self._applier.parts
