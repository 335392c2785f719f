"""`grayctl guard accept`."""

import click

from grayctl.cli.common import Control, finish, json_option, settings_of


@click.group()
def guard() -> None:
    """Let go what the guard keeps in use.

    When more than guard.max_loss of all instances disappear at once, they stay in use until they are back, until
    guard.hold has passed, or until somebody says that it is meant.
    """


@guard.command()
@json_option
@click.pass_context
def accept(ctx: click.Context, as_json: bool) -> None:
    """Say that the disappearance is meant: the absent instances leave nginx now.

    Example: grayctl guard accept
    """
    finish(Control(settings_of(ctx)).act("/guard/accept"), as_json=as_json)
