"""The daemon's two faces: metrics and health on loopback TCP, and commands on a unix socket."""

import grp
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from grayctl import log
from grayctl.errors import GrayctlError
from grayctl.metrics import CONTENT_TYPE, Metrics
from grayctl.model.report import Result, Status
from grayctl.nginx.disk import explained
from grayctl.people import author
from grayctl.settings import listen_address

_GROUP = "grayctl"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Desk(Protocol):
    """What the daemon answers and does on request."""

    def status(self) -> Status:
        """Everything `grayctl status` shows."""

    def ready(self) -> str:
        """Empty when ready, else why not."""

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


def metrics_app(metrics: Metrics, desk: Desk, refresh: Callable[[], None]) -> web.Application:
    """/metrics, /healthz (the loop turns) and /readyz (a complete catalog was applied or is held knowingly)."""

    async def exposition(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why_not = desk.ready()
        return web.Response(text=f"{why_not or 'ready'}\n", status=503 if why_not else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", exposition), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def control_app(desk: Desk) -> web.Application:
    """Commands: reading for whoever may open the socket, acting for root and the daemon's own user."""

    async def status(_: web.Request) -> web.Response:
        return _json(desk.status())

    async def render(request: web.Request) -> web.Response:
        _demand_writer(request)
        return _json(await desk.render())

    async def freeze(request: web.Request) -> web.Response:
        who = _demand_writer(request)
        wish = msgspec.json.decode(await request.read(), type=FreezeRequest)
        return _json(await desk.freeze(seconds=wish.seconds, reason=wish.reason, author=who))

    async def unfreeze(request: web.Request) -> web.Response:
        return _json(await desk.unfreeze(_demand_writer(request)))

    async def roll_back(request: web.Request) -> web.Response:
        who = _demand_writer(request)
        wish = msgspec.json.decode(await request.read(), type=RollbackRequest)
        return _json(await desk.roll_back(wish.generation, who))

    async def forget(request: web.Request) -> web.Response:
        who = _demand_writer(request)
        wish = msgspec.json.decode(await request.read(), type=ForgetRequest)
        return _json(await desk.forget(wish.service, who))

    async def accept_losses(request: web.Request) -> web.Response:
        return _json(await desk.accept_losses(_demand_writer(request)))

    app = web.Application(middlewares=[_explain_errors])
    app.add_routes(
        [
            web.get("/status", status),
            web.post("/render", render),
            web.post("/freeze", freeze),
            web.post("/unfreeze", unfreeze),
            web.post("/rollback", roll_back),
            web.post("/forget", forget),
            web.post("/guard/accept", accept_losses),
        ]
    )
    return app


@web.middleware
async def _explain_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GrayctlError as error:
        return _json(Result(outcome="failed", message=str(error), exit_code=error.exit_code))
    except msgspec.DecodeError as error:
        return _json(Result(outcome="failed", message=f"the request is malformed: {error}", exit_code=2))


def _json(value: Status | Result) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _demand_writer(request: web.Request) -> str:
    """Who the peer is, when it may act: root, or who the daemon runs as (SO_PEERCRED, unix(7))."""
    pid, uid = _peer(request)
    if uid not in {0, os.geteuid()}:
        raise web.HTTPForbidden(text=f"uid {uid} may read, not act: run the command as root\n")
    return author(pid, uid)


def _peer(request: web.Request) -> tuple[int, int]:
    if request.transport is None:
        raise web.HTTPBadRequest(text="the connection is gone\n")
    peer = request.transport.get_extra_info("socket")
    pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def _clear(path: Path) -> None:
    """Make way for the socket; the lock on the state directory says that nobody listens on an old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


class Faces:
    """Starts and stops the listeners."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._log = log.get("serve")

    async def metrics(self, app: web.Application, listen: str) -> bool:
        """Listen for scrapes; False, and a warning, when the port is taken: the caller tries again later."""
        host, port = listen_address(listen)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            self._log.warning("metrics_port_taken", listen=listen, error=error.strerror, retry="in 10 s")
            return False
        self._runners.append(runner)
        return True

    async def control(self, app: web.Application, path: Path) -> None:
        """Listen for commands: mode 0660, group `grayctl` where there is one.

        Raises:
            StateError: the socket cannot be made.
        """
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        with explained(path, "listen for commands"):
            _clear(path)
            mask = os.umask(0o117)
            try:
                await web.UnixSite(runner, str(path)).start()
            finally:
                os.umask(mask)
        try:
            os.chown(path, -1, grp.getgrnam(_GROUP).gr_gid)
        except (KeyError, OSError):  # no such group; or not ours to give, also inside a user namespace
            self._log.info("control_socket_private", path=str(path), hint=f"create the group {_GROUP} to share reading")

    async def close(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()
