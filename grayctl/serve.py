"""The daemon's two faces: metrics and health on loopback TCP, and commands on a unix socket."""

import grp
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from grayctl import log
from grayctl.errors import GrayctlError
from grayctl.listener import Answer, Handler, Listener, Refused, Request, Routes
from grayctl.metrics import CONTENT_TYPE, Metrics
from grayctl.model.report import Result, Status
from grayctl.nginx.disk import explained
from grayctl.people import author
from grayctl.settings import listen_address

_GROUP = "grayctl"


class Desk(Protocol):
    """What the daemon answers on request."""

    def status(self) -> Status:
        """Everything `grayctl status` shows."""

    def ready(self) -> str:
        """Empty when ready, else why not."""


class Orders(Protocol):
    """What the daemon does on request."""

    async def render(self) -> Result:
        """Re-read templates and converge now."""

    async def freeze(self, *, seconds: float | None, reason: str, author: str) -> Result:
        """Pull this node's brake."""

    async def unfreeze(self, author: str) -> Result:
        """Release this node's brake."""

    async def roll_back(self, number: int, author: str) -> Result:
        """Serve an earlier generation and freeze."""

    async def forget(self, service: str, author: str) -> Result:
        """End the name of a service that nothing needs any more."""

    async def accept_losses(self, author: str) -> Result:
        """Believe the disappearance that the guard holds."""


class FreezeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /freeze."""

    seconds: float | None = None
    reason: str = ""


class ForgetRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /forget."""

    service: str


class RollbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /rollback."""

    generation: int


def metrics_routes(metrics: Metrics, desk: Desk, refresh: Callable[[], None]) -> Routes:
    """/metrics, /healthz (the loop turns) and /readyz (a complete catalog was applied or is held knowingly)."""

    async def exposition(_: Request) -> Answer:
        refresh()
        return Answer(metrics.exposition(), content_type=CONTENT_TYPE)

    async def healthz(_: Request) -> Answer:
        return Answer(b"ok\n")

    async def readyz(_: Request) -> Answer:
        why_not = desk.ready()
        return Answer(f"{why_not or 'ready'}\n".encode(), status=503 if why_not else 200)

    return {("GET", "/metrics"): exposition, ("GET", "/healthz"): healthz, ("GET", "/readyz"): readyz}


def control_routes(desk: Desk, orders: Orders) -> Routes:
    """Commands: reading for whoever may open the socket, acting for root and the daemon's own user."""

    async def status(_: Request) -> Answer:
        return _json(desk.status())

    async def render(request: Request) -> Answer:
        _demand_writer(request)
        return _json(await orders.render())

    async def freeze(request: Request) -> Answer:
        who = _demand_writer(request)
        wish = msgspec.json.decode(request.body, type=FreezeRequest)
        return _json(await orders.freeze(seconds=wish.seconds, reason=wish.reason, author=who))

    async def unfreeze(request: Request) -> Answer:
        return _json(await orders.unfreeze(_demand_writer(request)))

    async def roll_back(request: Request) -> Answer:
        who = _demand_writer(request)
        wish = msgspec.json.decode(request.body, type=RollbackRequest)
        return _json(await orders.roll_back(wish.generation, who))

    async def forget(request: Request) -> Answer:
        who = _demand_writer(request)
        wish = msgspec.json.decode(request.body, type=ForgetRequest)
        return _json(await orders.forget(wish.service, who))

    async def accept_losses(request: Request) -> Answer:
        return _json(await orders.accept_losses(_demand_writer(request)))

    routes: Routes = {
        ("GET", "/status"): status,
        ("POST", "/render"): render,
        ("POST", "/freeze"): freeze,
        ("POST", "/unfreeze"): unfreeze,
        ("POST", "/rollback"): roll_back,
        ("POST", "/forget"): forget,
        ("POST", "/guard/accept"): accept_losses,
    }
    return {asked: _explaining(handler) for asked, handler in routes.items()}


def _explaining(handler: Handler) -> Handler:
    async def explained_answer(request: Request) -> Answer:
        try:
            return await handler(request)
        except GrayctlError as error:
            return _json(Result(outcome="failed", message=str(error), exit_code=error.exit_code))
        except msgspec.DecodeError as error:
            return _json(Result(outcome="failed", message=f"the request is malformed: {error}", exit_code=2))

    return explained_answer


def _json(value: Status | Result) -> Answer:
    return Answer(msgspec.json.encode(value), content_type="application/json")


def _demand_writer(request: Request) -> str:
    """Who the peer is, when it may act: root, or who the daemon runs as (SO_PEERCRED, unix(7))."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", request.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid not in {0, os.geteuid()}:
        raise Refused(403, f"uid {uid} may read, not act: run the command as root\n")
    return author(pid, uid)


def _clear(path: Path) -> None:
    """Make way for the socket; the lock on the state directory says that nobody listens on an old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


class Faces:
    """Starts and stops the listeners."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._log = log.get("serve")

    async def metrics(self, routes: Routes, listen: str) -> bool:
        """Listen for scrapes; False, and a warning, when the port is taken: the caller tries again later."""
        listener = Listener(routes)
        try:
            await listener.on_tcp(*listen_address(listen))
        except OSError as error:
            self._log.warning("metrics_port_taken", listen=listen, error=error.strerror, retry="in 10 s")
            return False
        self._listeners.append(listener)
        return True

    async def control(self, routes: Routes, path: Path) -> None:
        """Listen for commands: mode 0660, group `grayctl` where there is one.

        Raises:
            StateError: the socket cannot be made.
        """
        listener = Listener(routes)
        with explained(path, "listen for commands"):
            _clear(path)
            mask = os.umask(0o117)
            try:
                await listener.on_unix(str(path))
            finally:
                os.umask(mask)
        self._listeners.append(listener)
        try:
            os.chown(path, -1, grp.getgrnam(_GROUP).gr_gid)
        except (KeyError, OSError):  # no such group; or not ours to give, also inside a user namespace
            self._log.info("control_socket_private", path=str(path), hint=f"create the group {_GROUP} to share reading")

    async def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            await listener.close()
