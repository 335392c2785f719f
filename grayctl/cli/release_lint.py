"""`grayctl release lint`: what is wrong with policies, offline."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import json_option, print_json, settings_of
from grayctl.cli.policy_files import policy_texts
from grayctl.errors import EXIT_DONE, EXIT_REFUSED, Problem, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.option("--catalog", type=click.Path(dir_okay=False), help="Say too which versions have no instance in it.")
@click.option("--list", "lists", multiple=True, metavar="NAME=FILE", help="Say too which lists are none of these.")
@click.option("--strict", is_flag=True, help="Warnings fail as errors do.")
@json_option
@click.pass_context
def lint(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context,
    paths: tuple[str, ...],
    catalog: str | None,
    lists: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Say what is wrong with policies, all of it, with file, line and path.

    Needs neither Consul nor nginx; takes files, directories and - as `apply` does. Ends with 1 when a policy may not
    be followed, and with --strict when there is a warning. What is only `info` never fails.

    \b
    Examples:
      grayctl release lint releases/
      grayctl release lint --strict --catalog catalog.yaml --list beta-users=users.txt shop.yaml
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    from grayctl.release_file import read_lists

    versions, known = _versions(ctx, catalog), read_lists(lists) or None
    files = list(policy_texts(paths))
    problems = [problem for name, text in files for problem in _problems(name, text, versions, known)]
    errors, warnings = (sum(one.level == level for one in problems) for level in ("error", "warning"))
    if as_json:
        print_json({"files": len(files), "errors": errors, "warnings": warnings, "problems": problems})
    else:
        for problem in problems:
            click.echo(problem.text)
        click.echo(
            f"{_count(len(files), 'policy', 'policies')}: {_count(errors, 'error')}, {_count(warnings, 'warning')}"
        )
    sys.exit(EXIT_REFUSED if errors or (strict and warnings) else EXIT_DONE)


def _versions(ctx: click.Context, catalog: str | None) -> "Callable[[str], frozenset[str] | None]":
    """Service -> its versions with a healthy instance; None where no catalog says it."""
    if catalog is None:
        return lambda _service: None
    from grayctl import catalog_file
    from grayctl.policy.admission import healthy_versions

    watch = settings_of(ctx).watch
    services = catalog_file.load(Path(catalog)).services
    return lambda service: healthy_versions(services.get(service, ()), watch)


def _problems(
    name: str, text: bytes, versions: "Callable[[str], frozenset[str] | None]", lists: "Collection[str] | None"
) -> tuple[Problem, ...]:
    from grayctl.policy.document import read_document
    from grayctl.policy.lint import lint as find

    try:
        document = read_document(text, name)
    except ReleaseError as error:
        return error.problems
    return find(document, lists=lists, versions=versions(document.release.service))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
