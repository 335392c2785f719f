"""`grayctl freeze` and `grayctl unfreeze`."""

import time
from pathlib import Path

import click

from grayctl.cli.common import Control, finish, json_option, settings_of
from grayctl.errors import ControlError, SettingsError, StateError
from grayctl.model.catalog import Freeze
from grayctl.model.report import Result
from grayctl.people import author
from grayctl.settings import Duration, Settings


@click.command()
@click.option("--for", "duration", metavar="DURATION", help="End by itself after this long: 30m, 1h.")
@click.option("--reason", default="", help="Why; status shows it.")
@click.option("--fleet", is_flag=True, help="Every node, through Consul, instead of this one.")
@json_option
@click.pass_context
def freeze(ctx: click.Context, duration: str | None, reason: str, fleet: bool, as_json: bool) -> None:
    """Stop every change of what nginx serves, on this node or the fleet.

    Works without a daemon too: it finds the brake pulled when it starts.

    Example: grayctl freeze --for 1h --reason 'black friday'
    """
    settings = settings_of(ctx)
    try:
        seconds = None if duration is None else float(Duration.parse(duration))
    except ValueError as error:
        raise SettingsError(f"--for: {error}") from error
    if fleet:
        finish(_fleet(settings, _made(settings, reason, seconds, "fleet")), as_json=as_json)
    control = Control(settings)
    if control.running():
        finish(_pull(settings, control, reason, seconds), as_json=as_json)
    _write_local(settings, _made(settings, reason, seconds, "node"))
    finish(Result(outcome="done", message="frozen; no daemon runs, the next one finds it"), as_json=as_json)


@click.command()
@click.option("--fleet", is_flag=True, help="Remove the fleet's freeze instead of this node's.")
@json_option
@click.pass_context
def unfreeze(ctx: click.Context, fleet: bool, as_json: bool) -> None:
    """Let changes through again; what waited is applied at once.

    Example: grayctl unfreeze
    """
    settings = settings_of(ctx)
    if fleet:
        finish(_fleet(settings, None), as_json=as_json)
    control = Control(settings)
    if control.running():
        finish(control.act("/unfreeze"), as_json=as_json)
    _write_local(settings, None)
    finish(Result(outcome="done", message="unfrozen"), as_json=as_json)


def _pull(settings: Settings, control: Control, reason: str, seconds: float | None) -> Result:
    """Through the daemon, which waits for a change under way; past one that hangs, so that it finds the brake pulled.

    Raises:
        ControlError: the daemon did not do it, and this user cannot.
    """
    try:
        return control.act("/freeze", {"seconds": seconds, "reason": reason})
    except ControlError as error:
        try:
            _write_local(settings, _made(settings, reason, seconds, "node"))
        except StateError:
            raise error from None
        message = f"frozen, but a change under way may still end: {error}"
        return Result(outcome="done", message=message, exit_code=error.exit_code)


def _made(settings: Settings, reason: str, seconds: float | None, scope: str) -> Freeze:
    now = time.time()
    until = None if seconds is None else now + seconds
    who = f"{author()} on {settings.node}" if scope == "fleet" else author()
    return Freeze(reason=reason, author=who, since=now, until=until, scope=scope)


def _write_local(settings: Settings, wish: Freeze | None) -> None:
    from grayctl import brake

    brake.write_local(Path(settings.state_dir), wish)


def _fleet(settings: Settings, wish: Freeze | None) -> Result:
    import asyncio

    from grayctl.consul.client import ConsulClient
    from grayctl.consul.store import delete_freeze, put_freeze, read_freeze

    async def act() -> bool:
        async with ConsulClient(settings.consul, connections=1) as client:
            seen = await read_freeze(client)
            if wish is not None:
                return await put_freeze(client, wish, seen=seen)
            return seen is None or await delete_freeze(client, seen=seen)

    if not asyncio.run(act()):
        return Result(
            outcome="refused", message="somebody else changed the fleet's freeze meanwhile: look at it", exit_code=1
        )
    return Result(outcome="done", message=f"the fleet is {'released' if wish is None else 'frozen'}")
