"""`grayctl check`: what is wrong, why it matters, what to do."""

import asyncio
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import Control, config_of, json_option, print_json, settings_of
from grayctl.errors import EXIT_REFUSED, ControlError
from grayctl.settings import Settings, path_in_force

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grayctl.advice.finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}
_HOW = {
    "inside": "write inside that block:",
    "beside": "write beside it, in the same block:",
    "replace": "write instead:",
    "remove": "remove:",
    "append": "write into that file, outside every block:",
    "settings": "write into the settings:",
    "release": "write into the release:",
    "agent": "write into the agent's configuration:",
    "policy": "add to the policy of the token:",
    "unit": "write into the unit, under [Service]:",
    "run": "run:",
}


@click.command()
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Find what is wrong, or will go wrong, with settings, nginx, this machine and Consul; change nothing.

    Every finding says what, why, where, and the exact line to write. docs/check.md explains each rule.
    Exit code 1 when anything is a failure.

    Example: grayctl check
    """
    from grayctl.advice.survey import survey

    settings = settings_of(ctx)
    findings = asyncio.run(survey(settings, _source(ctx), answers=_answers(settings)))
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    if any(one.level == "failure" for one in findings):
        ctx.exit(EXIT_REFUSED)


def _source(ctx: click.Context) -> tuple[str, str]:
    """Name and text of the settings file, so that a finding can name a line of it."""
    path = path_in_force(config_of(ctx))
    return (str(path), path.read_text(encoding="utf-8")) if path else ("", "")


def _answers(settings: Settings) -> bool:
    try:
        return Control(settings).running()
    except ControlError:  # it is there, and we may not ask it
        return True


def _print(findings: "Sequence[Finding]") -> None:
    order = list(dict.fromkeys(one.about for one in findings))
    for about, group in groupby(sorted(findings, key=lambda one: order.index(one.about)), lambda one: one.about):
        click.secho(about, bold=True)
        for one in group:
            _print_one(one)
    click.echo(f"\n{_counted(findings, 'failure')}, {_counted(findings, 'warning')}")


def _counted(findings: "Sequence[Finding]", level: str) -> str:
    count = sum(one.level == level for one in findings)
    return f"{count} {level}" if count == 1 else f"{count} {level}s"


def _print_one(one: "Finding") -> None:
    level = click.style(f"{one.level:8}", fg=_COLOURS[one.level])
    rule = click.style(f"  [{one.rule}]", dim=True) if one.rule else ""
    click.echo(f"  {level} {f'{one.where}: ' if one.where else ''}{one.what}{rule}")
    if one.why:
        click.echo(f"           {one.why}")
    if one.how == "do":
        click.echo(f"           -> {one.advice}")
    elif one.advice:
        click.echo(f"           -> {_HOW[one.how]}")
        click.echo(click.style(indent(one.advice, " " * 17), bold=True))
