"""Why nginx did not take a reload, and whether that has gone: seen without another reload, which costs requests."""

import re
from dataclasses import dataclass

from grayctl.nginx.inspect import Facts, is_fresh
from grayctl.nginx.ports import Address, address, is_taken
from grayctl.nginx.process import Master, is_alive, is_suspended, suspended

_BIND = re.compile(r"bind\(\) to (?P<address>\S+) failed \(98")


@dataclass(frozen=True, slots=True)
class Cause:
    """What is known of a failed reload.

    Attributes:
        facts: the user's configuration as it was then.
        master: who was signalled, as far as it is there still.
        suspended: that was why.
        address: what it could not bind; None where nginx named none.
    """

    facts: Facts
    master: Master | None
    suspended: bool
    address: Address | None

    def is_gone(self, master: Master | None, *, again: bool) -> bool:
        """Whether another reload may fare better.

        Args:
            master: who is nginx's master now.
            again: it failed more than once; then a new master is no reason, since the reload may be what ends them.
        """
        if master is None:
            return False
        if not is_fresh(self.facts) or (master != self.master and not again):
            return True
        if self.suspended:
            return not is_suspended(master.pid)
        return self.address is not None and not is_taken(self.address)


def cause_of(reason: str, facts: Facts, master: Master | None) -> Cause:
    """What can be watched about a reload that failed for `reason`, as the proof gave it: nginx may differ by now."""
    found = _BIND.search(reason)
    here = master if master is not None and is_alive(master) else None
    is_why = here is not None and reason == suspended(here)
    return Cause(facts, here, is_why, address(found["address"]) if found else None)
