"""`grayctl run`."""

import sys

import click

from grayctl.cli.common import config_of, settings_of


@click.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """Watch Consul and keep nginx right, until SIGTERM.

    SIGHUP re-reads settings and templates. Stopping it leaves nginx serving.

    Example: grayctl --config /etc/grayctl/grayctl.toml run
    """
    import asyncio
    import gc

    gc.disable()  # imports make much and leave no garbage: to look for some was a sixth of them
    from grayctl import log
    from grayctl.daemon import Daemon

    gc.freeze()  # nor is any of it garbage later
    gc.enable()

    settings = settings_of(ctx)
    log.configure(settings.log)

    async def serve() -> int:
        return await Daemon(settings, config_of(ctx)).run()

    sys.exit(asyncio.run(serve()))
