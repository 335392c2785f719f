"""`grayctl check`: what is wrong, why it matters, what to do."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from grayctl.cli.common import Control, json_option, print_json, settings_of
from grayctl.errors import EXIT_REFUSED, ConsulDenied, GrayctlError
from grayctl.settings import Settings, listen_address


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `level` is ok, warning or failure; `advice` says what to do."""

    level: str
    about: str
    what: str
    advice: str = ""


@click.command()
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Look at settings, templates, state directory, nginx and Consul; change nothing.

    Exit code 1 when anything is a failure.

    Example: grayctl check
    """
    settings = settings_of(ctx)
    findings = [Finding(level="ok", about="settings", what=f"node {settings.node}"), *_findings(settings)]
    if as_json:
        print_json(findings)
    else:
        for one in findings:
            colour = {"ok": "green", "warning": "yellow", "failure": "red"}[one.level]
            click.echo(f"{click.style(f'{one.level:8}', fg=colour)} {one.about}: {one.what}")
            if one.advice:
                click.echo(f"         -> {one.advice}")
    if any(one.level == "failure" for one in findings):
        ctx.exit(EXIT_REFUSED)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _templates(settings)
    yield from _nginx(settings)
    yield from _ports(settings)
    yield from asyncio.run(_consul(settings))


def _templates(settings: Settings) -> Iterator[Finding]:
    from grayctl.render.templates import Templates

    if settings.templates_dir and not Path(settings.templates_dir).is_dir():
        yield Finding(
            level="failure",
            about="templates",
            what=f"{settings.templates_dir} is no directory",
            advice="make it, or drop templates_dir from the settings",
        )
    broken = Templates(settings.templates_dir).broken
    for error in broken.values():
        yield Finding(level="failure", about="templates", what=str(error), advice="mend the line, then SIGHUP grayctl")
    if not broken:
        yield Finding(level="ok", about="templates", what="all compile")


def _nginx(settings: Settings) -> Iterator[Finding]:
    from grayctl.nginx.check import check as test
    from grayctl.nginx.check import namespace_allowed
    from grayctl.nginx.inspect import inspect
    from grayctl.nginx.process import find_master

    state_dir = Path(settings.state_dir)
    try:
        facts = inspect(settings.nginx, state_dir)
        tested = asyncio.run(test(settings.nginx, facts, None))
    except GrayctlError as error:
        yield Finding(level="failure", about="nginx", what=str(error))
        return
    yield Finding(level="ok", about="nginx", what=f"{facts.binary} {facts.version}, {facts.conf}")
    if not (state_dir / "current").exists():
        yield Finding(
            level="failure", about="state", what=f"{state_dir} has no generation", advice="run `grayctl init`"
        )
    if not facts.included:
        yield Finding(
            level="failure",
            about="nginx",
            what=f"{facts.conf} does not include the generations",
            advice=f"inside http {{ }}: include {state_dir}/current/http.conf;",
        )
    if not tested.ok:
        yield Finding(
            level="failure",
            about="nginx",
            what=f"nginx -t refuses the configuration as it stands: {'; '.join(tested.messages)}",
            advice="mend it: until then every change is held",
        )
    master = find_master(facts)
    yield Finding(
        level="ok" if master else "warning",
        about="nginx",
        what=f"runs as pid {master.pid}"
        if master
        else f"does not run ({facts.pid_file} names no master of {facts.conf})",
        advice="" if master else "start it; its start serves the newest generation",
    )
    if facts.error_log is None:
        yield Finding(
            level="warning",
            about="nginx",
            what="error_log is no file, so a refused reload is recognised by time-out only",
            advice="write the main error_log to a file",
        )
    allowed = namespace_allowed()
    yield Finding(
        level="ok" if allowed else "warning",
        about="staging",
        what="candidates are checked in a private mount namespace"
        if allowed
        else "no mount namespace here: candidates are checked by flip, test, flip back",
        advice="" if allowed else "run as root (CAP_SYS_ADMIN), so that the live tree is never touched by a check",
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    """The marker and the refusals must be nginx's: whoever else listens there makes every proof fail."""
    from grayctl.nginx.confirm import ask_marker

    host, port = listen_address(settings.nginx.marker)
    if asyncio.run(ask_marker(host, port)):
        yield Finding(level="ok", about="ports", what=f"the marker answers on {settings.nginx.marker}")
        return
    refuse_host, refuse_port = listen_address(settings.nginx.refuse)
    wanted = [("nginx.marker", host, port), *(("nginx.refuse", refuse_host, refuse_port + more) for more in range(4))]
    for key, address, number in wanted:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                yield Finding(
                    level="failure",
                    about="ports",
                    what=f"{key}: {address}:{number}: {error.strerror}, and no marker answers there",
                    advice=f"end who listens there, or set {key} to free ports",
                )


async def _consul(settings: Settings) -> list[Finding]:
    from grayctl.consul.client import ConsulClient

    try:
        async with ConsulClient(settings.consul, connections=2) as client:
            seen = (await client.services()).value
            await client.kv(f"{settings.consul.prefix}/releases/")
    except ConsulDenied as error:
        advice = "the token needs service:read, node:read and key:read on the prefix"
        return [Finding(level="failure", about="consul", what=str(error), advice=advice)]
    except GrayctlError as error:
        return [Finding(level="failure", about="consul", what=str(error))]
    if not seen:
        return [
            Finding(
                level="warning",
                about="consul",
                what="answers, but names no service at all",
                advice="under ACLs an anonymous token sees an empty catalog: set consul.token_file",
            )
        ]
    daemon = "a daemon runs" if Control(settings).running() else "no daemon runs"
    return [Finding(level="ok", about="consul", what=f"{settings.consul.address}, {len(seen)} services; {daemon}")]
