"""Recovery at start: an activation that a crash cut is committed or reverted, damage is healed.

The way back is the one of every rollback: flip, signal, prove, record. What is decided here is only where to.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from grayctl.errors import StateError
from grayctl.model.generation import Manifest
from grayctl.nginx.confirm import ask_marker
from grayctl.nginx.journal import Pending
from grayctl.nginx.process import orphans

if TYPE_CHECKING:
    from grayctl.nginx.site import Site


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start found and did.

    Attributes:
        action: `nothing`, `committed`, `reverted`, `kept-unproven`, `healed`, `damaged` (no generation is whole:
            nginx serves on from memory, and the next converge writes anew).
        generation: the one that stands; None before the first.
    """

    action: str
    generation: int | None
    detail: str = ""

    def event(self) -> dict[str, object]:
        """For a log event."""
        return asdict(self)


async def recover(site: "Site") -> Recovery:
    """Settle what a crash left.

    Raises:
        StateError: the state directory cannot be written.
    """
    site.orphans = [] if site.look() else orphans(site.facts)
    try:
        pending, unreadable = site.store.pending(), ""
    except StateError as error:
        pending, unreadable = None, str(error)
    recovery = await (_heal(site, unreadable) if pending is None else _settle(site, pending))
    if site.store.has_pending():
        site.store.drop_pending()
    return recovery


async def _settle(site: "Site", pending: Pending) -> Recovery:
    to, old = site.store.intact(pending.to), site.store.intact(pending.from_)
    accepted = pending.checked or (pending.aside and site.store.current_number() == pending.to)
    if to is not None and accepted and not pending.reverting:
        if site.master is None:
            site.store.flip(to.number)
            site.record(to, proven=False)
            return Recovery("kept-unproven", to.number, "checked; nginx does not run, its next start serves it")
        if site.store.current_number() == to.number and await site.answers(to):
            site.record(to, proven=True)
            return Recovery("committed", to.number, "nginx answers it")
    if old is None:
        return await _heal(site, f"generation {pending.from_}, which stood before, is damaged")
    site.store.flip(old.number)
    site.step("flipped-back")
    # an unchecked candidate was only tested in place: no signal was sent, so an answer is enough
    restored = not accepted and await site.answers(old)
    restored = restored or (site.master is not None and await site.restore(old))
    site.step("restored")
    site.record(old, proven=restored)
    return Recovery("reverted", old.number, f"generation {pending.to} was not proven")


async def _heal(site: "Site", why: str) -> Recovery:
    """Make `current` a generation that nginx could start with: the one that stands, else the last good one.

    With a damaged journal nobody knows whether what stands was ever checked, so it comes last.
    """
    store = site.store
    standing, damage = store.current(), "; ".join(store.verify())
    if standing is not None and not damage and not why:
        return await _stands(site, standing)
    for number in await _candidates(site):
        good = store.intact(number)
        if good is not None:
            store.flip(good.number)
            site.record(good, proven=site.master is not None and await site.answers(good))
            return Recovery("healed", good.number, why or damage)
    if standing is not None or store.numbers():
        return Recovery("damaged", store.current_number(), why or damage)
    return Recovery("nothing", None, "there is no generation yet")


async def _stands(site: "Site", standing: Manifest) -> Recovery:
    """What stands is whole. A record that speaks of another generation is corrected."""
    if site.store.state().serving != standing.number:
        site.record(standing, proven=site.master is not None and await site.answers(standing))
        return Recovery("healed", standing.number, "the record spoke of another generation")
    return Recovery("nothing", standing.number)


async def _candidates(site: "Site") -> list[int]:
    """Where to heal towards, best first: what nginx serves, what was recorded, what was proven, what ever stood."""
    store = site.store
    answer = (await ask_marker(*site.marker)).partition(" ")[0] if site.master is not None else ""
    serving = [int(answer)] if answer.isdigit() else []
    state = store.state()
    stood = [number for number in reversed(store.numbers()) if store.stood(number)]
    current = store.current_number()
    return [*serving, state.serving, state.last_proven, *stood, *([] if current is None else [current])]
