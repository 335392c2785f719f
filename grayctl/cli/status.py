"""`grayctl status`."""

import contextlib
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from grayctl.cli.common import Control, json_option, print_json, settings_of
from grayctl.errors import ControlError
from grayctl.model.report import FlapperReport, FreezeReport, NginxReport, ReleaseReport, ServiceReport, Status
from grayctl.settings import Settings

_REFRESH = 1.0
_PIPE_WIDTH = 10_000
_SERVING = {"live": "green", "kept": "yellow", "refused": "red"}


@click.command()
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@json_option
@click.pass_context
def status(ctx: click.Context, service: str | None, watch: bool, as_json: bool) -> None:
    """Show what nginx serves, and why.

    With SERVICE: its instances, and what is wrong with registrations.

    \b
    Examples:
      grayctl status
      grayctl status shop --watch
      grayctl status --json | jq .generation
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    settings = settings_of(ctx)
    if not watch:
        report = _ask(settings)
        _demand(report, service)
        if as_json:
            print_json(report)
        else:
            _console().print(view(report, service))
        return
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(view(_ask(settings), service), console=_console(), auto_refresh=False, screen=False) as live,
    ):
        while True:
            time.sleep(_REFRESH)
            live.update(view(_ask(settings), service), refresh=True)


def _console() -> Console:
    """As wide as the terminal; in a pipe wide enough that nothing is wrapped. Brackets in names are no markup."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=_PIPE_WIDTH)


def _ask(settings: Settings) -> Status:
    try:
        return Control(settings).status()
    except ControlError:
        from grayctl.brake import Brake
        from grayctl.report import disk_status

        report = disk_status(settings, Brake(Path(settings.state_dir)).standing(None))
        if report.generation is None:
            raise
        return report


def _demand(report: Status, service: str | None) -> None:
    known = [one.service for one in report.services]
    if service is not None and service not in known:
        raise click.UsageError(f"no service {service!r} is published here; published are: {', '.join(known) or 'none'}")


def view(report: Status, service: str | None = None) -> RenderableType:
    """The report as something rich can print; what people registered cannot steer the terminal."""
    report = msgspec.convert(_printable(msgspec.to_builtins(report)), Status)
    parts: list[RenderableType] = [_head(report)]
    if service is None:
        parts.append(_services(report))
        chosen = [one for one in report.services if one.quarantine or one.findings or one.flappers]
    else:
        chosen = [one for one in report.services if one.service == service]
        parts += [_servers(one) for one in chosen]
    for one in chosen:
        parts += _remarks(one)
    parts += [Text(f"! {warning}", style="yellow") for warning in report.warnings]
    return Group(*parts)


def _printable(value: Any) -> Any:
    """The same builtins, with escape and other control characters written out."""
    match value:
        case str():
            return "".join(one if one.isprintable() else repr(one)[1:-1] for one in value)
        case dict():
            return {_printable(key): _printable(one) for key, one in value.items()}
        case list() | tuple():
            return [_printable(one) for one in value]
        case _:
            return value


def _head(report: Status) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    daemon = f"grayctl {report.version}, pid {report.pid}" if report.daemon else "no daemon answers"
    grid.add_row("node", f"{report.node}  ({daemon})")
    if report.generation is not None:
        one = report.generation
        proof = Text("proven", style="green") if one.proven else Text("not proven", style="yellow")
        grid.add_row("generation", Text.assemble(f"{one.number}  ", proof, f"  {_age(one.created)} ago: {one.cause}"))
    if report.nginx is not None:
        grid.add_row("nginx", _nginx(report.nginx))
    if report.consul is not None:
        grid.add_row("consul", _consul(report))
    if report.freeze is not None:
        grid.add_row("FROZEN", Text(_frozen(report.freeze), style="bold red"))
    if report.guard is not None:
        held = f"{report.guard.lost} of {report.guard.known} instances are absent all at once and stay in use"
        advice = f"for {_age(-report.guard.until, future=True)} more; if it is meant: grayctl guard accept"
        grid.add_row("GUARD", Text(f"{held} {advice}", style="bold red"))
    if report.last_outcome:
        grid.add_row("last", report.last_outcome)
    return grid


def _nginx(one: NginxReport) -> Text:
    orphans = f", {one.orphans} workers serve on without a master" if one.orphans else ""
    running = f"pid {one.pid}" if one.pid else f"not running{orphans}"
    return Text(f"{one.version}, {running}, staged check: {one.staging}", style="" if one.pid else "red")


def _frozen(one: FreezeReport) -> str:
    """What is frozen, by whom, since when, until when, why."""
    who = f"by {one.author or '?'}" + (f", {_age(one.since)} ago" if one.since else "")
    release = "grayctl unfreeze --fleet" if one.scope == "fleet" else "grayctl unfreeze"
    until = f"until `{release}`" if one.until is None else f"for {_age(-one.until, future=True)} more"
    where = "the fleet" if one.scope == "fleet" else "this node"
    return f"{where} {who}, {until}: {one.reason or 'no reason given'}"


def _consul(report: Status) -> Text:
    one = report.consul
    if one is None:
        return Text()
    if one.connected:
        return Text(f"{one.address}, {one.services_watched} services watched, {one.long_polls} long polls")
    return Text(f"{one.address}: away for {_age(one.since)}: {one.last_error}", style="red")


def _services(report: Status) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for title in ("SERVICE", "SERVES", "SERVERS", "VERSIONS (share)", "NOTES"):
        table.add_column(title)
    for one in report.services:
        versions = (
            _released(one.release)
            if one.release
            else "  ".join(f"{version or '-'} {share:.1%}" for version, share in one.versions.items())
        )
        notes = ["QUARANTINE"] if one.quarantine else []
        notes += [f"{one.dropped} dropped"] if one.dropped else []
        notes += [f"{len(one.flappers)} flapping"] if one.flappers else []
        notes += one.notices
        serving = Text(one.serving, style=_SERVING.get(one.serving, ""))
        table.add_row(one.service, serving, str(len(one.servers)), versions, "; ".join(notes))
    return table


def _released(one: ReleaseReport) -> str:
    """`v1 95%  v2 5%  +3 routes`: by policy, not by instances."""
    rest = 1.0 - sum(one.shares.values())
    shares = [f"{one.stable} {100 * rest:.4g}%"]
    shares += [f"{version} {100 * share:.4g}%" for version, share in one.shares.items()]
    return "  ".join([*shares, *([f"+{len(one.routes)} routes"] if one.routes else [])])


def _servers(one: ServiceReport) -> Table:
    table = Table(
        box=None, padding=(0, 2), header_style="bold", title=f"{one.service}  $gray_{one.id}", title_justify="left"
    )
    for title in ("INSTANCE", "ADDRESS", "VERSION", "WEIGHT", "SHARE"):
        table.add_column(title)
    for server in one.servers:
        share = "backup" if server.backup else f"{server.share:.1%}"
        table.add_row(server.instance or "-", server.address, server.version or "-", str(server.weight), share)
    return table


def _remarks(one: ServiceReport) -> list[RenderableType]:
    remarks: list[RenderableType] = []
    if one.quarantine:
        since = f" for {_age(one.quarantined_since)}" if one.quarantined_since else ""
        served = "503 is answered" if one.serving == "refused" else "its last good object is served"
        remarks.append(Text(f"{one.service}: in quarantine{since}, {served}: {one.quarantine}", style="red"))
    remarks += [Text(f"{one.service}: {finding}", style="yellow") for finding in one.findings]
    remarks += [Text(f"{one.service}: {_flapping(flapper)}", style="yellow") for flapper in one.flappers]
    return remarks


def _flapping(one: FlapperReport) -> str:
    what = f"flapping: kept {one.kept}" if one.kept else "flapping, as Consul has it"
    return f"{one.instance}: {what}, until it has been calm for {_age(-one.until, future=True)} more"


def _age(since: float | None, *, future: bool = False) -> str:
    if since is None:
        return "?"
    seconds = max(0.0, -since - time.time() if future else time.time() - since)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
