"""`grayctl render`: one converge now, what it would do, or an offline preview."""

import asyncio
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import Control, finish, json_option, print_json, settings_of
from grayctl.errors import StateError, TemplateError
from grayctl.model.generation import GENERATION
from grayctl.settings import Settings

if TYPE_CHECKING:
    from grayctl.model.catalog import Catalog
    from grayctl.model.generation import FileSet
    from grayctl.model.report import Result
    from grayctl.policy.standing import Standing


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what nginx would read; change nothing.")
@click.option("--diff", "show_diff", is_flag=True, help="Print the difference to what stands; change nothing.")
@click.option("--catalog", type=click.Path(dir_okay=False), help="Offline: take instances from this file, not Consul.")
@click.option(
    "--release",
    "policies",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Offline: a policy; may be repeated.",
)
@click.option("--list", "lists", multiple=True, metavar="NAME=FILE", help="Offline: a list; may be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Offline: write the files into this directory.")
@json_option
@click.pass_context
def render(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context,
    dry_run: bool,
    show_diff: bool,
    catalog: str | None,
    policies: tuple[str, ...],
    lists: tuple[str, ...],
    out: str | None,
    as_json: bool,
) -> None:
    """Converge once now: through the daemon where one runs, otherwise alone.

    \b
    Examples:
      grayctl render --diff
      grayctl render --catalog catalog.yaml --release shop.yaml --out preview
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    settings = settings_of(ctx)
    if show_diff and as_json:
        raise click.UsageError("--json goes without --diff: a difference is text")
    if show_diff and catalog:
        raise click.UsageError("--diff goes without --catalog: what stands came from Consul")
    if out and not catalog:
        raise click.UsageError("--out goes with --catalog: it is for offline previews")
    for option, given in (("--release", policies), ("--list", lists)):
        if given and not catalog:
            raise click.UsageError(f"{option} goes with --catalog: it is for offline previews")
    if catalog:
        from grayctl import catalog_file
        from grayctl.release_file import offline, read_lists

        standing = offline(map(Path, policies), read_lists(lists))
        _offline(settings, catalog_file.load(Path(catalog)), standing, Path(out) if out else None, as_json=as_json)
    elif dry_run or show_diff:
        _preview(settings, show_diff=show_diff, as_json=as_json)
    elif Control(settings).running():
        finish(Control(settings).act("/render"), as_json=as_json)
    else:
        finish(asyncio.run(_once(settings)), as_json=as_json)


def _offline(settings: Settings, catalog: "Catalog", standing: "Standing", out: Path | None, *, as_json: bool) -> None:
    import msgspec

    from grayctl.model.tokens import Path as PathToken

    if out is not None:
        try:
            PathToken(str(out.absolute()))
        except ValueError as error:
            raise click.UsageError(f"--out: {error}") from error
        settings = msgspec.structs.replace(settings, state_dir=str(out.absolute()))
    files = _files(settings, catalog, standing)
    if out is not None:
        _write(files, out)
    if out is None or as_json:
        _print(files, as_json=as_json)
    else:
        click.echo(
            f"{out}: {len(files.objects)} services; include {out.absolute()}/http.conf in a http block to try it"
        )


def _write(files: "FileSet", out: Path) -> None:
    contents = {"http.conf": files.http.replace(GENERATION, f"preview {files.digest}"), "stream.conf": files.stream}
    contents |= {f"objects/{one.filename}": one.content for one in files.objects.values()}
    contents |= {f"snippets/{name}": text for one in files.objects.values() for name, text in one.included.items()}
    try:
        for name, content in contents.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    except OSError as error:
        raise StateError(f"{error.filename or out}: cannot write the preview: {error.strerror}") from error


def _preview(settings: Settings, *, show_diff: bool, as_json: bool) -> None:
    from grayctl.nginx.generations import Store

    files = _files(settings, asyncio.run(_read_consul(settings)), None)
    if not show_diff:
        _print(files, as_json=as_json)
        return
    store = Store(Path(settings.state_dir))
    current = store.current()
    objects = store.objects(current) if current else {}
    for service in sorted(files.objects.keys() | objects.keys()):
        old, new = objects.get(service), files.objects.get(service)
        lines = difflib.unified_diff(
            old.content.splitlines() if old else [],
            new.content.splitlines() if new else [],
            f"served/{service}",
            f"wanted/{service}",
            lineterm="",
        )
        for line in lines:
            click.echo(line)


def _files(settings: Settings, catalog: "Catalog", standing: "Standing | None") -> "FileSet":
    """What nginx would read; without `standing` the releases are those of the catalog.

    Raises:
        TemplateError: naming every service that does not render.
    """
    from grayctl.nginx.generations import Store
    from grayctl.policy.resolve import Limits, resolve
    from grayctl.policy.standing import Here, Policies
    from grayctl.render.fileset import Dialect, Renderer, in_force_of, known_of
    from grayctl.render.templates import Templates

    store = Store(Path(settings.state_dir))
    current = store.current()
    served = store.objects(current) if current else {}
    standing = standing or Policies(in_force_of(served)).judge(catalog.kv, Here(settings.node, settings.labels))
    plan = resolve(catalog, known_of(served), settings, Limits(), standing=standing)
    renderer = Renderer(Templates(settings.templates_dir), settings, Dialect())
    objects, failed = renderer.objects(plan)
    problems = [*map(str, failed.values()), *(f"{service}: {why}" for service, why in plan.refused.items())]
    if problems:
        raise TemplateError("; ".join(problems))
    for service, one in plan.services.items():
        for finding in one.findings:
            click.echo(f"{service}: {finding.instance}: {finding.field} {finding.value!r}: {finding.why}", err=True)
    return renderer.file_set(objects)


def _print(files: "FileSet", *, as_json: bool) -> None:
    if as_json:
        objects = {service: one.content for service, one in files.objects.items()}
        print_json({"digest": files.digest, "http": files.http, "stream": files.stream, "objects": objects})
        return
    click.echo(f"# ---- http.conf\n{files.http}")
    for one in files.objects.values():
        click.echo(f"# ---- objects/{one.filename}\n{one.content}")


async def _once(settings: Settings) -> "Result":
    from grayctl import log
    from grayctl.assembly import assemble
    from grayctl.brake import Brake
    from grayctl.converge import Wanted
    from grayctl.nginx.generations import Store
    from grayctl.report import result

    log.configure(settings.log)
    with Store(Path(settings.state_dir)).opened() as store:
        parts = await assemble(settings, store)
        catalog = await _read_consul(settings)
        freeze = Brake(Path(settings.state_dir)).standing(catalog)
        outcome = await parts.converger.converge(Wanted(catalog, freeze, "grayctl render", ""))
        return result(outcome, parts.converger.ward)


async def _read_consul(settings: Settings) -> "Catalog":
    """The whole catalog, once.

    Raises:
        ConsulError: after a few attempts.
    """
    from grayctl.consul.client import ConsulClient
    from grayctl.consul.once import read_catalog

    async with ConsulClient(settings.consul, connections=1) as client:
        return await read_catalog(client, settings)
