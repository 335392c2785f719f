"""`grayctl drain` and `grayctl undrain`."""

import time
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import asked, finish, json_option, settings_of
from grayctl.errors import EXIT_REFUSED, GrayctlError, SettingsError
from grayctl.model.drain import Drain, Drains
from grayctl.model.report import Result
from grayctl.people import author
from grayctl.settings import Duration, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from grayctl.model.node import FleetNode

_LOOK_EVERY = 0.5


@click.command()
@click.argument("service")
@click.argument("instance")
@click.option("--reason", default="", help="Why; status shows it.")
@click.option("--wait", is_flag=True, help="Return when no nginx of the fleet sends it requests any more.")
@click.option("--timeout", default="5m", show_default=True, metavar="DURATION", help="How long --wait waits.")
@json_option
@click.pass_context
def drain(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context, service: str, instance: str, reason: str, wait: bool, timeout: str, as_json: bool
) -> None:
    """Take INSTANCE of SERVICE out, on every node, until `undrain`; it stays registered.

    INSTANCE is its id in Consul. With --wait it may be stopped when the command ends with 0: every live node serves
    without it, and the workers that still spoke to it have ended.

    Example: grayctl drain shop shop-3 --wait --reason 'new kernel'
    """
    settings = settings_of(ctx)
    try:
        seconds = float(Duration.parse(timeout))
    except ValueError as error:
        raise SettingsError(f"--timeout: {error}") from error
    others = _others(settings, service, instance)
    _change(settings, service, instance, Drain(author=author(), reason=reason, since=time.time()))
    said = f"{service}: {instance} is drained; `grayctl undrain {service} {instance}` takes it back"
    if not others:
        said += ". It was the last healthy instance: where `keep_last` holds it stays in use"
    if not wait:
        finish(Result(outcome="done", message=said), as_json=as_json)
    behind = _behind_after(settings, service, instance, seconds)
    if behind:
        late = f"{said}. After {timeout} not yet confirmed by: {', '.join(behind)}"
        finish(Result(outcome="held", message=late, exit_code=EXIT_REFUSED), as_json=as_json)
    finish(Result(outcome="done", message=f"{said}. No nginx sends it requests any more"), as_json=as_json)


@click.command()
@click.argument("service")
@click.argument("instance")
@json_option
@click.pass_context
def undrain(ctx: click.Context, service: str, instance: str, as_json: bool) -> None:
    """Let INSTANCE of SERVICE serve again.

    Example: grayctl undrain shop shop-3
    """
    settings = settings_of(ctx)
    _change(settings, service, instance, None)
    finish(Result(outcome="done", message=f"{service}: {instance} serves again where it is healthy"), as_json=as_json)


def _others(settings: Settings, service: str, instance: str) -> bool:
    """Whether the service has other healthy instances.

    Raises:
        GrayctlError: there is no such instance.
    """
    from grayctl.consul.client import ConsulClient, bounded
    from grayctl.model.catalog import Registration
    from grayctl.policy.admission import is_healthy

    async def health(client: ConsulClient) -> tuple[Registration, ...]:
        return (await bounded(lambda: client.health(service))).value

    found = asked(settings, health)
    if instance not in {one.id for one in found}:
        known = ", ".join(sorted(one.id for one in found)) or "none"
        raise GrayctlError(f"{service} has no instance {instance!r} in Consul; it has: {known}")
    warning = settings.watch.include_warning
    return any(one.id != instance and is_healthy(one, include_warning=warning) for one in found)


def _change(settings: Settings, service: str, instance: str, drain: Drain | None) -> None:
    """Write the service's drains anew, by check-and-set.

    Raises:
        GrayctlError: it is not drained, or somebody else changed the drains meanwhile.
    """
    from grayctl.consul.client import ConsulClient
    from grayctl.consul.store import put_drains, read_drains

    async def act(client: ConsulClient) -> bool:
        seen, drains = await read_drains(client, service)
        if drain is None and instance not in drains.instances:
            known = ", ".join(sorted(drains.instances)) or "none"
            raise GrayctlError(f"{service}: {instance!r} is not drained; drained are: {known}")
        rest = {name: one for name, one in drains.instances.items() if name != instance}
        changed = Drains(instances=rest if drain is None else {**rest, instance: drain})
        return await put_drains(client, service, changed, seen=seen)

    if not asked(settings, act):
        raise GrayctlError(f"somebody else changed the drains of {service} meanwhile: look at it, then try again")


def _behind_after(settings: Settings, service: str, instance: str, seconds: float) -> list[str]:
    """Wait until every live node has confirmed; returns those that have not."""
    from grayctl.consul.store import read_nodes

    until = time.monotonic() + seconds
    while True:
        behind = _behind(asked(settings, read_nodes), service, instance)
        if not behind or time.monotonic() >= until:
            return behind
        time.sleep(_LOOK_EVERY)


def _behind(nodes: "Iterable[FleetNode]", service: str, instance: str) -> list[str]:
    found = [
        one.report.node + ("" if one.live else " (silent)")
        for one in nodes
        if not one.live or instance not in one.report.drained.get(service, ()) or one.report.old_workers
    ]
    return found or ([] if any(True for _ in nodes) else ["any node: none has reported"])
