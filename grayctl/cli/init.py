"""`grayctl init`."""

import time
from pathlib import Path

import click

from grayctl.cli.common import settings_of
from grayctl.errors import SettingsError


@click.command()
@click.option(
    "--service", "services", multiple=True, help="Define $gray_<id> for this service at once (503 until known)."
)
@click.pass_context
def init(ctx: click.Context, services: tuple[str, ...]) -> None:
    """Make the state directory and generation 0, and print the lines to add to nginx.conf.

    Safe to run again: what stands is kept.

    Example: grayctl init --service shop
    """
    from grayctl.assembly import dialect
    from grayctl.model.generation import PASSES
    from grayctl.model.naming import service_slug
    from grayctl.nginx.generations import Store
    from grayctl.nginx.inspect import inspect
    from grayctl.nginx.site import Site
    from grayctl.policy.resolve import Limits, stub
    from grayctl.render.fileset import Renderer
    from grayctl.render.templates import Templates

    settings = settings_of(ctx)
    names = sorted({*services, *settings.watch.exact})
    facts = inspect(settings.nginx, Path(settings.state_dir))
    limits = Limits(facts.variables_hash_bucket_size)
    for name in names:
        if (too_long := limits.refusal(name)) is not None:
            raise SettingsError(f"{name}: {too_long}")
    with Store(Path(settings.state_dir)).opened() as store:
        renderer = Renderer(Templates(settings.templates_dir), settings, dialect(facts))
        current = store.current()
        published = set(current.objects) if current else set()
        if current is None or not set(names) <= published:
            site = Site(settings.nginx, settings.reload, store, facts)
            objects = store.objects(current) if current else {}
            stubs = {name: renderer.stub(stub(name, settings)) for name in names if name not in published}
            site.init(renderer.file_set({**objects, **stubs}), created=time.time())
        click.echo(f"{settings.state_dir}: generation {store.current_number()} stands")
    if not facts.included:
        click.echo(f"\nAdd to {facts.conf}, inside http {{ }}:\n\n    include {settings.state_dir}/current/http.conf;")
    for name in names:
        click.echo(
            f"\nIn the location that serves {name}:\n\n"
            f"    include {settings.state_dir}/snippets/{PASSES}/{service_slug(name)}.conf;"
        )
