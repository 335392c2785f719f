"""`grayctl release get`, `list` and `history`: read, and change nothing."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from grayctl.cli.common import asked, json_option, print_json, settings_of
from grayctl.errors import GrayctlError

if TYPE_CHECKING:
    from grayctl.consul.client import ConsulClient
    from grayctl.consul.releases import Stored
    from grayctl.model.catalog import Entry
    from grayctl.model.history import AuditEntry
    from grayctl.model.release import Live
    from grayctl.policy.live import Ended, Unreadable


@click.command()
@click.argument("service")
@click.option("--staged", is_flag=True, help="What is staged for some nodes, instead of the release.")
@json_option
@click.pass_context
def get(ctx: click.Context, service: str, staged: bool, as_json: bool) -> None:
    """Print the policy of SERVICE as it was written; with --json beside it what is in force, and for whom.

    \b
    Examples:
      grayctl release get shop > shop.yaml
      grayctl release get shop --staged
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    from grayctl.consul.releases import STAGED, audit, get_release
    from grayctl.consul.staged import get_staged

    async def look(client: "ConsulClient") -> "tuple[Stored, Entry | None, list[AuditEntry]]":
        stored, entry = await get_release(client, service), await get_staged(client, service)
        acts = await audit(client, service) if staged else ()
        return stored, entry, [one for one in acts if one.action in STAGED]

    stored, entry, acts = asked(settings_of(ctx), look)
    if staged:
        _print_staged(service, entry, acts[-1:], as_json=as_json)
        return
    note = f"{_staged_note(entry)}: `grayctl release get {service} --staged`" if entry else ""
    if stored.policy is None:
        raise GrayctlError(f"{service} has no release. {note or 'See `grayctl release list`'}")
    if as_json:
        policy = stored.policy.value.decode(errors="replace")
        print_json(_facts(stored, entry) | {"policy": policy, "live": live_of(stored)})
    else:
        _print_text(stored.policy.value)
        if note:
            click.echo(f"note: {note}", err=True)


def _print_staged(service: str, entry: "Entry | None", acts: "list[AuditEntry]", *, as_json: bool) -> None:
    from grayctl.policy.live import Unreadable
    from grayctl.policy.staging import decode_staged

    found = decode_staged(entry.key, entry.value) if entry else None
    if found is None:
        raise GrayctlError(f"nothing is staged for {service}: see `grayctl release list`")
    if isinstance(found, Unreadable):
        raise GrayctlError(found.reason)
    if as_json:
        scope = {"scope": found.scope.text, "labels": found.scope.labels, "share": found.scope.share}
        last = {"version": acts[0].number, "act": acts[0].act} if acts else {}
        print_json({"service": service, **scope, **last, "policy": found.text.decode(), "live": found.live})
        return
    _print_text(found.text)
    note = f"note: staged for {found.scope.text}"
    for one in acts:
        why = f": {one.act.reason}" if one.act.reason else ""
        note += f", version {one.number}, by {one.act.author} at {when(one.act.time)}{why}"
    click.echo(note, err=True)


def _print_text(text: bytes) -> None:
    click.echo(text, nl=not text.endswith(b"\n"))


@click.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Print every release: what is stable, who has a share, and what is wrong with it.

    Example: grayctl release list
    """
    from grayctl.consul.releases import Stored, list_releases
    from grayctl.consul.staged import list_staged

    async def look(client: "ConsulClient") -> "tuple[tuple[Stored, ...], dict[str, Entry]]":
        return await list_releases(client), await list_staged(client)

    releases, staged = asked(settings_of(ctx), look)
    found = {one.service: one for one in releases if not one.nothing}
    services = sorted(found.keys() | staged.keys())
    rows = [_facts(found.get(name) or Stored(name, None, None), staged.get(name)) for name in services]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("there are no releases; `grayctl release apply FILE` makes one")
        return
    print_table(
        ["SERVICE", "STABLE", "TRAFFIC", "ROUTES", "REVISION", "NOTE"],
        [[str(row[name]) for name in ("service", "stable", "traffic", "routes", "revision", "note")] for row in rows],
    )


@click.command()
@click.argument("service")
@json_option
@click.pass_context
def history(ctx: click.Context, service: str, as_json: bool) -> None:
    """Print the versions of the policy of SERVICE that are kept: the last 50, the newest last.

    Example: grayctl release history shop
    """
    from grayctl.consul.releases import history as read_history

    versions = asked(settings_of(ctx), lambda client: read_history(client, service))
    if as_json:
        print_json(versions)
        return
    if not versions:
        raise GrayctlError(f"{service} has no history. See `grayctl release list`")
    print_table(
        ["VERSION", "WHEN", "WHAT", "REVISION", "WHO", "WHY"],
        [
            [str(one.number), when(one.act.time), str(one.action), one.revision or "-", one.act.author, one.act.reason]
            for one in versions
        ],
    )


def _facts(stored: "Stored", staged: "Entry | None" = None) -> dict[str, Any]:
    """One release in short; `note` says what is staged, and why what stands is not what is in force."""
    facts = _general(stored)
    if staged is not None:
        facts["note"] = "; ".join(filter(None, (_staged_note(staged), facts["note"])))
    return facts


def _staged_note(entry: "Entry") -> str:
    from grayctl.policy.live import Unreadable
    from grayctl.policy.staging import decode_staged

    found = decode_staged(entry.key, entry.value)
    return found.reason if isinstance(found, Unreadable) else f"another is staged for {found.scope.text}"


def _general(stored: "Stored") -> dict[str, Any]:
    from grayctl.errors import ReleaseError
    from grayctl.model.release import Live
    from grayctl.policy.document import read_release
    from grayctl.policy.live import Unreadable
    from grayctl.policy.shares import percent

    live = live_of(stored)
    found = {"service": stored.service, "stable": "", "traffic": "", "routes": 0, "revision": stored.revision}
    if stored.nothing:
        return found | {"in_force": False, "note": "no release"}
    if stored.policy is None:
        key_is_gone = "the policy's key is gone and what was in force stays: apply one, or `release delete`"
        return found | {"in_force": False, "note": key_is_gone}
    try:
        release = read_release(stored.policy.value, stored.policy.key, service=stored.service)
    except ReleaseError as error:
        return found | {"in_force": False, "note": f"what was in force stays: {error.problems[0].text}"}
    shares = ", ".join(f"{version} {percent(share)}%" for version, share in release.shares)
    in_force = isinstance(live, Live) and live.revision == stored.revision
    note = "" if in_force else live.reason if isinstance(live, Unreadable) else "edited by hand, not in force yet"
    found |= {"stable": release.stable, "traffic": "weights" if release.by_weights else shares or "-"}
    return found | {"routes": len(release.routes), "in_force": in_force, "note": note}


def live_of(stored: "Stored") -> "Live | Ended | Unreadable | None":
    """The live record, read."""
    from grayctl.policy.live import decode_live

    return decode_live(stored.live.key, stored.live.value) if stored.live else None


def when(seconds: float) -> str:
    """A time of the wall clock, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Columns that are as wide as they must be."""
    lines = [["".join(letter if letter.isprintable() else " " for letter in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for row in (heads, *lines):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
