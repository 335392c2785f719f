"""What several commands share: the settings, the daemon's control socket, printing JSON."""

import http.client
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec

from grayctl.errors import ControlError
from grayctl.model.report import Result, Status
from grayctl.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from grayctl.consul.client import ConsulClient

_T = TypeVar("_T")
# An activation may take a check, a proof, and the proof of a rollback. A look waits for the loop alone.
_PATIENCE, _PATIENCE_TO_LOOK = 60.0, 10.0

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_of(ctx: click.Context) -> Settings:
    """The settings that --config, GRAYCTL_CONFIG or the default file name.

    Raises:
        SettingsError: with file, line and key.
    """
    return load(config_of(ctx))


def config_of(ctx: click.Context) -> Path | None:
    """The file named by --config."""
    return Path(ctx.obj) if ctx.obj else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, patience: float) -> None:
        super().__init__("grayctl", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """The daemon, through its control socket."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.control.socket

    def running(self) -> bool:
        """Whether a daemon listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self._path)
            except PermissionError as error:
                raise self._denied() from error
            except OSError:
                return False
        return True

    def status(self) -> Status:
        """Everything the daemon knows.

        Raises:
            ControlError: no daemon listens, or it does not answer.
        """
        return self._call("GET", "/status", None, Status, _PATIENCE_TO_LOOK)

    def act(self, path: str, body: dict[str, Any] | None = None) -> Result:
        """Ask the daemon to do something.

        Raises:
            ControlError: no daemon listens, it does not answer, or it refuses this user.
        """
        return self._call("POST", path, body or {}, Result, _PATIENCE)

    def _call(self, method: str, path: str, body: dict[str, Any] | None, kind: type[_T], patience: float) -> _T:
        connection = _UnixConnection(self._path, patience)
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body))
            answer = connection.getresponse()
            content = answer.read()
        except PermissionError as error:
            raise self._denied() from error
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(
                f"{self._path}: no daemon answers: {error}. Start it with `grayctl run` or `systemctl start grayctl`"
            ) from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise ControlError(f"{self._path}: the daemon refused: {content.decode('utf-8', 'replace').strip()}")
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise ControlError(f"{self._path}: the daemon speaks another version: {error}") from error

    def _denied(self) -> ControlError:
        return ControlError(
            f"{self._path}: permission denied: run as root, or as a member of the group grayctl to read"
        )


def asked(settings: Settings, call: "Callable[[ConsulClient], Coroutine[Any, Any, _T]]") -> _T:
    """What Consul says, asked once on a connection of its own.

    Raises:
        ConsulError: as `call` does.
    """
    import asyncio

    from grayctl.consul.client import ConsulClient

    async def ask() -> _T:
        async with ConsulClient(settings.consul, connections=1) as client:
            return await call(client)

    return asyncio.run(ask())


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def finish(result: Result, *, as_json: bool) -> NoReturn:
    """Show a result and end with its exit code."""
    if as_json:
        print_json(result)
    else:
        click.echo(result.message, err=result.exit_code != 0)
    sys.exit(result.exit_code)
