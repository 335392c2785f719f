"""`grayctl list put|get|ls`."""

from typing import TYPE_CHECKING, BinaryIO

import click

from grayctl.cli.common import asked, finish, json_option, print_json, settings_of
from grayctl.errors import EXIT_REFUSED, ListError
from grayctl.model.report import Result

if TYPE_CHECKING:
    from grayctl.consul.client import ConsulClient


@click.group("list")
def lists() -> None:
    """Lists of users or addresses that policies ask with in_list."""


@lists.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@json_option
@click.pass_context
def put(ctx: click.Context, name: str, file: BinaryIO, as_json: bool) -> None:
    """Replace a list by a FILE, or by standard input where FILE is `-`: one entry a line.

    Lines that begin with # and blank lines count for nothing. Addresses and networks count under client_ip.

    Example: grayctl list put beta-users users.txt
    """
    from grayctl.consul.lists import get_list, put_list
    from grayctl.policy.lists import entries_of, parts_of

    _demand_name(name)
    parts = parts_of(file.read(), file.name)

    async def act(client: "ConsulClient") -> Result:
        seen = await get_list(client, name)
        before, after = set(entries_of(one.value for one in seen)), set(entries_of(parts))
        changed = await put_list(client, name, parts, seen=seen)
        if changed:
            message = f"{', '.join(changed)}: somebody else changed the list meanwhile: look at it, then put it again"
            return Result(outcome="refused", message=message, exit_code=EXIT_REFUSED)
        difference = f"{len(after - before)} more, {len(before - after)} fewer"
        return Result(outcome="done", message=f"{name} has {len(after)} entries: {difference}")

    finish(asked(settings_of(ctx), act), as_json=as_json)


@lists.command()
@click.argument("name")
@json_option
@click.pass_context
def get(ctx: click.Context, name: str, as_json: bool) -> None:
    """Print a list as it was put; with --json its entries.

    Example: grayctl list get beta-users
    """
    from grayctl.consul.lists import get_list
    from grayctl.policy.lists import entries_of

    values = [part.value for part in asked(settings_of(ctx), lambda client: get_list(client, name))]
    if not values:
        raise ListError(f"there is no list {name!r}: see `grayctl list ls`")
    if as_json:
        print_json(
            [entry.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for entry in entries_of(values)]
        )
    else:
        text = b"\n".join(values)
        click.echo(text, nl=bool(text) and not text.endswith(b"\n"))


@lists.command()
@json_option
@click.pass_context
def ls(ctx: click.Context, as_json: bool) -> None:
    """Print the names of all lists, and how many entries each has.

    Example: grayctl list ls
    """
    from grayctl.consul.lists import get_lists
    from grayctl.policy.lists import entries_of

    found = {
        name: len(entries_of(part.value for part in parts))
        for name, parts in asked(settings_of(ctx), get_lists).items()
    }
    if as_json:
        print_json([{"name": name, "entries": entries} for name, entries in found.items()])
        return
    for name, entries in found.items():
        click.echo(f"{name}  {entries} entries")
    if not found:
        click.echo("there are no lists; `grayctl list put NAME FILE` writes one")


def _demand_name(name: str) -> None:
    from grayctl.policy import conditions

    try:
        conditions.name(name, "list")
    except conditions.Refused as error:
        raise ListError(f"{name!r} is no name of a list. {error.allowed}") from error
