"""Tells the fleet what this node serves: a key that a session holds, so that everybody sees when we fall silent.

The session has no checks, only a TTL: what it says is that this daemon lives. With behaviour `release` the report
outlives it, since nginx goes on serving without us (consul.io/docs/dynamic-app-config/sessions).
"""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable
from pathlib import Path

from grayctl import log
from grayctl.consul.client import ConsulClient
from grayctl.consul.store import acquire_node, read_node
from grayctl.errors import ConsulDenied, ConsulError
from grayctl.model.node import NodeReport
from grayctl.nginx.disk import explained, write_file

SESSION_TTL = 15  # seconds; Consul takes 10 at least, and lets up to twice as many pass
_RENEW_EVERY = 5.0
_REST, _AGAIN, _DENIED_AGAIN = 1.0, 5.0, 60.0
_ID_FILE = "node-id"
_ID = re.compile(r"[0-9a-f]{32}\Z")


def installation_id(state_dir: Path) -> str:
    """What tells this installation from another with the same node name: drawn once, kept in the state directory.

    Raises:
        StateError: it can be neither read nor written.
    """
    path = state_dir / _ID_FILE
    with explained(path, "keep this node's id"):
        found = path.read_bytes().strip().decode("ascii", "replace") if path.exists() else ""
        if not _ID.match(found):  # none yet, or damaged: whoever reads it only compares
            found = uuid.uuid4().hex
            write_file(path, found.encode())
    return found


class Reporter:
    """Keeps one node's report in Consul up to date; `run` ends when cancelled, and lets go of the session.

    Args:
        client: open.
        report: what there is to tell now.

    Attributes:
        trouble: why the report is not in Consul; empty when it is.
    """

    def __init__(self, client: ConsulClient, report: Callable[[], NodeReport]) -> None:
        self._client = client
        self._report = report
        self._session = ""
        self._renew_at = 0.0
        self._told: NodeReport | None = None
        self._news = asyncio.Event()
        self._log = log.get("fleet")
        self.trouble = ""

    def look(self) -> None:
        """The report may be another one now: tell it if it is."""
        if self._report() != self._told:
            self._news.set()

    async def run(self) -> None:
        """Report until cancelled. No fault of Consul ends this."""
        try:
            while True:
                await asyncio.sleep(await self._attempt())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._renew_at):
                        await self._news.wait()
        finally:
            if self._session:
                await self._let_go()

    async def _attempt(self) -> float:
        """One round; how long to rest after it. What could not be told stays news."""
        self._news.clear()
        try:
            if await self._tell():
                return _REST
        except ConsulDenied as error:
            self._troubled(f"{error}. Give the token `session:write` on its agent's node and `key:write` on the key")
            pause = _DENIED_AGAIN
        except ConsulError as error:
            self._told = None
            self._troubled(str(error), quietly=True)
            pause = _AGAIN
        else:
            pause = _AGAIN if self.trouble else _REST
        self._news.set()
        return pause

    async def _tell(self) -> bool:
        """Keep the session, and tell what is new; whether Consul has what there is to tell."""
        now = asyncio.get_running_loop().time()
        if self._session and now >= self._renew_at:
            self._renew_at = now + _RENEW_EVERY
            if not await self._client.renew_session(self._session):
                self._session = ""
        if not self._session:
            self._told = None
            self._session = await self._client.create_session("grayctl", ttl=SESSION_TTL)
            self._renew_at = now + _RENEW_EVERY
        report = self._report()
        if report != self._told and await self._write(report):
            self._told, self.trouble = report, ""
        return report == self._told

    async def _write(self, report: NodeReport) -> bool:
        if await acquire_node(self._client, report, session=self._session):
            return True
        held = await read_node(self._client, report.node)
        if held is None:
            return False  # let go between the two questions: the next round takes it
        if held.report.id != report.id:
            self._troubled(f"another machine reports as node {report.node!r}: give each its own `node` in the settings")
        elif held.session:
            await self._client.destroy_session(held.session)  # our own, from before a crash
        return False

    def _troubled(self, trouble: str, *, quietly: bool = False) -> None:
        if trouble != self.trouble and not quietly:
            self._log.warning("node_not_reported", error=trouble, note="what nginx serves does not depend on it")
        self.trouble = trouble

    async def _let_go(self) -> None:
        try:
            await asyncio.wait_for(self._client.destroy_session(self._session), timeout=2.0)
        except (ConsulError, TimeoutError) as error:
            self._log.info("session_left", error=str(error), note=f"it ends by itself within {2 * SESSION_TTL} s")
