"""What nobody announces: nginx was started, restarted or stopped by hand, or lost its workers."""

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from grayctl.model.generation import Manifest
from grayctl.nginx.confirm import NotProven, Proven, ask_marker
from grayctl.nginx.process import Master, is_alive, orphans, suspended

if TYPE_CHECKING:
    from grayctl.nginx.site import Site

_STARTING = 2.0  # seconds a new master gets to answer before it is signalled
_PAUSE = 0.02
# Seconds between two signals to an nginx that does not serve what stands: growing, since a reload costs running
# requests; not beyond the second figure while nobody answers at all and there is nothing to lose.
_AGAIN, _AGAIN_SILENT, _AGAIN_CEILING = 5.0, 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Noticed:
    """A change of nginx that nobody announced: `started`, `stopped`, `proven`, `unproven`."""

    what: str
    pid: int | None
    detail: str = ""

    def event(self) -> dict[str, object]:
        """For a log event."""
        return asdict(self)


class Lookout:
    """Brings an nginx to what stands, and remembers when it may be signalled again."""

    def __init__(self) -> None:
        self._again_at = 0.0
        self._again = _AGAIN

    async def look(self, site: "Site") -> Noticed | None:
        """Look at nginx once: see `Site.notice`.

        Raises:
            StateError: the record cannot be written.
        """
        before, master = site.master, site.look()
        current = site.store.current()
        if master is None:
            return _absence(site, before)
        alone = not any(site.crew())  # every worker is dead and none is respawned: only a signal brings new ones
        if current is None or (master == before and site.proven and not alone):
            return None
        site.orphans = []
        now = asyncio.get_running_loop().time()
        changed = master != before or (alone and site.proven)
        if changed:
            self._again_at, self._again = 0.0, _AGAIN
            site.record(current, proven=False)
        if await _answers_soon(site, current, master, patient=changed):
            site.record(current, proven=True)
            return Noticed("proven", master.pid, f"serves generation {current.number}")
        return await self._bring_up(site, current, master) if now >= self._again_at else None

    async def _bring_up(self, site: "Site", current: Manifest, master: Master) -> Noticed:
        """Tell nginx to read what stands, unless its check refuses that: a signal costs running requests."""
        self._again_at = asyncio.get_running_loop().time() + self._again
        silent = not await ask_marker(*site.marker)
        self._again = min(_AGAIN_SILENT if silent else _AGAIN_CEILING, 2 * self._again)
        if words := suspended(master):
            return Noticed("unproven", master.pid, words)
        await site.refresh()
        checked = await site.check_current()
        if not checked.ok:
            return Noticed("unproven", master.pid, "; ".join(checked.messages))
        proof = await site.serve(current)
        site.record(current, proven=isinstance(proof, Proven))
        if isinstance(proof, NotProven):
            return Noticed("unproven", master.pid, proof.reason)
        return Noticed("started", master.pid, f"serves generation {current.number}")


def _absence(site: "Site", before: Master | None) -> Noticed | None:
    if before is None:
        return None
    site.orphans = orphans(site.facts)
    detail = f"workers without a master: {site.orphans}" if site.orphans else "its next start serves the newest"
    return Noticed("stopped", before.pid, detail)


async def _answers_soon(site: "Site", manifest: Manifest, master: Master, *, patient: bool) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_STARTING if patient else 0.0)
    while not await site.answers(manifest):
        if loop.time() >= deadline or not is_alive(master):
            return False
        await asyncio.sleep(_PAUSE)
    return True
