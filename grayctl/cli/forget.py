"""`grayctl forget SERVICE`."""

import click

from grayctl.cli.common import Control, finish, json_option, settings_of


@click.command()
@click.argument("service")
@json_option
@click.pass_context
def forget(ctx: click.Context, service: str, as_json: bool) -> None:
    """End the name of a service that nothing needs any more.

    A name once published stays defined, since the nginx configuration refers to it. Remove what refers to SERVICE
    there, deregister its instances, then forget it; nginx's own check decides whether it can go.

    Example: grayctl forget old-shop
    """
    finish(Control(settings_of(ctx)).act("/forget", {"service": service}), as_json=as_json)
