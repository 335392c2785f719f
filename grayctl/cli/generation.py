"""`grayctl generation list|show|diff|rollback`."""

import difflib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import Control, finish, json_option, print_json, settings_of
from grayctl.errors import StateError

if TYPE_CHECKING:
    from grayctl.model.generation import Manifest
    from grayctl.nginx.generations import Store


@click.group()
def generation() -> None:
    """List, show, compare and roll back generations."""


@generation.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the generations that are kept; * is the one that stands, ! is damaged.

    Example: grayctl generation list
    """
    store = _store(ctx)
    manifests, damaged = _manifests(store)
    current = store.current()
    if as_json:
        whole = [{"current": one == current, "manifest": one} for one in manifests]
        print_json([*whole, *({"current": False, "damaged": error} for error in damaged)])
        return
    for error in damaged:
        click.echo(f"! {error}")
    for one in manifests:
        mark = "*" if one == current else " "
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created))
        held = f"  quarantined: {', '.join(one.quarantined)}" if one.quarantined else ""
        click.echo(f"{mark} {one.number:6d}  {when}  {one.digest}  {len(one.objects)} services  {one.cause}{held}")


@generation.command()
@click.argument("number", type=int, required=False)
@json_option
@click.pass_context
def show(ctx: click.Context, number: int | None, as_json: bool) -> None:
    """Show what generation NUMBER (default: the one that stands) makes nginx read.

    Example: grayctl generation show 42
    """
    store = _store(ctx)
    manifest = _chosen(store, number)
    if as_json:
        print_json(manifest)
        return
    for path, text in _files(store, manifest).items():
        click.echo(f"# ---- {path}\n{text}")


@generation.command()
@click.argument("old", type=int)
@click.argument("new", type=int, required=False)
@click.pass_context
def diff(ctx: click.Context, old: int, new: int | None) -> None:
    """Compare generation OLD with NEW (default: the one that stands).

    Example: grayctl generation diff 41 42
    """
    store = _store(ctx)
    before, after = _files(store, _chosen(store, old)), _files(store, _chosen(store, new))
    for path in sorted(before.keys() | after.keys()):
        lines = difflib.unified_diff(
            before.get(path, "").splitlines(), after.get(path, "").splitlines(), f"a/{path}", f"b/{path}", lineterm=""
        )
        for line in lines:
            click.echo(line)


@generation.command()
@click.argument("number", type=int)
@json_option
@click.pass_context
def rollback(ctx: click.Context, number: int, as_json: bool) -> None:
    """Serve what generation NUMBER served, and freeze, so that the next change does not undo it.

    Example: grayctl generation rollback 41
    """
    finish(Control(settings_of(ctx)).act("/rollback", {"generation": number}), as_json=as_json)


def _store(ctx: click.Context) -> "Store":
    from grayctl.nginx.generations import Store

    state_dir = Path(settings_of(ctx).state_dir)
    if state_dir.exists() and not os.access(state_dir, os.R_OK | os.X_OK, effective_ids=True):
        raise StateError(f"{state_dir}: permission denied: the state directory is its owner's alone; run this as root")
    return Store(state_dir)


def _manifests(store: "Store") -> tuple[list["Manifest"], list[str]]:
    """What can be read, ascending, and what is wrong with the others: one damaged generation hides no other."""
    whole, damaged = [], []
    for number in store.numbers():
        try:
            whole.append(store.read(number))
        except StateError as error:
            damaged.append(str(error))
    return whole, damaged


def _chosen(store: "Store", number: int | None) -> "Manifest":
    if number is not None:
        return store.read(number)
    current = store.current()
    if current is None:
        raise StateError("no generation stands: run `grayctl init`")
    return current


def _files(store: "Store", manifest: "Manifest") -> dict[str, str]:
    """What nginx reads, under names that stay the same from generation to generation."""
    files = {f"services/{service}.conf": one.content for service, one in store.objects(manifest).items()}
    return {"http.conf": store.entry(manifest), **files}
