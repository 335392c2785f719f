"""Gives a policy that was edited by hand its live record, so that it comes into force.

`grayctl release apply` writes both at once. After a raw edit of the key every daemon sees a policy without the record
that names its revision. The record is a function of the policy and the record before, but for the salt, and it is
written by check-and-set: whoever is first wins and all follow, so nobody has to be elected for it.
"""

import asyncio
import contextlib
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterable

from grayctl import log
from grayctl.consul.client import ConsulClient
from grayctl.consul.releases import Change, Stored, Written, write_releases
from grayctl.errors import ConsulError
from grayctl.model.history import Act, Action
from grayctl.policy.live import follow
from grayctl.policy.standing import Unled

_LOOK_EVERY = 0.25  # while one waits
_AT_LEAST, _AT_MOST = 0.25, 2.0  # seconds: the nodes of a fleet do not all ask at once
_AGAIN = 10.0


def draw_salt() -> str:
    """A salt that nobody has had before."""
    return secrets.token_hex(4)


class Adopter:
    """Writes missing live records; `run` ends when cancelled.

    Args:
        client: open.
        node: who does it, for the history.
        waiting: the policies that wait for their live record now.

    Attributes:
        trouble: by service, why its record could not be written.
    """

    def __init__(self, client: ConsulClient, node: str, waiting: Callable[[], Iterable[Unled]]) -> None:
        self._client = client
        self._node = node
        self._waiting = waiting
        self._due: dict[tuple[str, str], float] = {}
        self._stirred = asyncio.Event()
        self._log = log.get("fleet")
        self.trouble: dict[str, str] = {}

    def look(self) -> None:
        """Other policies may wait now."""
        self._stirred.set()

    async def run(self) -> None:
        """Adopt until cancelled. No fault of Consul ends this."""
        while True:
            waiting = {(one.service, one.revision): one for one in self._waiting()}
            now = asyncio.get_running_loop().time()
            self._due = {key: due for key, due in self._due.items() if key in waiting}
            self.trouble = {
                service: why for service, why in self.trouble.items() if any(service == name for name, _ in waiting)
            }
            for key, one in waiting.items():
                jitter = random.uniform(_AT_LEAST, _AT_MOST)  # noqa: S311 -- spreads requests, keeps no secret
                if now >= self._due.setdefault(key, now + jitter):
                    self._due[key] = now + _AGAIN
                    await self._adopt(one)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY if waiting else None):
                    await self._stirred.wait()
            self._stirred.clear()

    async def _adopt(self, one: Unled) -> None:
        live = follow(one.release, one.revision, one.before, draw_salt)
        change = Change(Stored(one.service, one.policy, one.seen), Action.EDIT, one.policy.value, live)
        act = Act(
            author="",
            reason=f"edited by hand; adopted by {self._node}",
            trace_id=uuid.uuid4().hex[:16],
            time=time.time(),
        )
        try:
            done = await write_releases(self._client, [change], act)
        except ConsulError as error:
            self.trouble[one.service] = str(error)
            self._log.warning("not_adopted", service=one.service, revision=one.revision, error=str(error))
            return
        if isinstance(done, Written):  # otherwise somebody else was first, and the watch tells us
            self._log.info("adopted", service=one.service, revision=one.revision, trace_id=act.trace_id)
