"""`grayctl release apply`."""

from typing import TYPE_CHECKING

import click

from grayctl.cli.common import json_option, settings_of
from grayctl.cli.policy_files import policy_texts
from grayctl.errors import Problem, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from grayctl.cli.release_change import Proposal
    from grayctl.consul.releases import Stored
    from grayctl.model.catalog import Catalog
    from grayctl.policy.document import Document
    from grayctl.settings import Settings


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.option("--reason", default="", help="Why; the history and the audit keep it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--scope", "scope", multiple=True, metavar="SCOPE", help="Stage it: labels.NAME=VALUE, percent=NUMBER.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and end.")
@json_option
@click.pass_context
def apply(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context,
    paths: tuple[str, ...],
    reason: str,
    yes: bool,
    scope: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put policies into force: from files, from all files of a directory, or from standard input (-).

    It shows what changes for whom and what nginx would read, and asks. Nothing is written when any policy may not be
    followed. Up to 16 policies of usual size are one transaction, all or nothing; what needs more is said before.

    With --scope one policy is staged: only the nodes in scope follow it, until `release promote` or `release discard`.

    \b
    Examples:
      grayctl release apply shop.yaml --reason 'v2 to 10%'
      grayctl release apply shop.yaml --scope percent=10
      grayctl release apply releases/ --yes
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    from grayctl.cli.release_change import (
        NOTHING_DONE,
        carry_out,
        confirm,
        demand_known,
        nginx_difference,
        seen_of,
        show,
        tell,
    )

    settings = settings_of(ctx)
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json goes with --yes or --dry-run: it does not ask")
    documents = _documents(paths)
    if scope:
        from grayctl.cli.release_stage import stage

        stage(settings, documents, scope, reason, yes=yes, dry_run=dry_run, as_json=as_json)
    stored, catalog, nodes = seen_of(settings, list(documents))
    demand_known((document for _, document in documents.values()), nodes)
    proposed = _proposed(settings, documents, stored, catalog)
    same = [one.service for one in proposed if one.nothing_new]
    proposals = [one for one in proposed if not one.nothing_new]
    if not as_json:
        for one in proposals:
            show(one, nginx_difference(settings, catalog, one))
    _warn_of_several_transactions(proposals)
    if dry_run or not proposals:
        tell(NOTHING_DONE, proposals, same=same, as_json=as_json)
    confirm(f"Apply {', '.join(one.service for one in proposals)}?", yes=yes)
    tell(carry_out(settings, proposals, reason), proposals, same=same, as_json=as_json)


def _proposed(
    settings: "Settings",
    documents: "Mapping[str, tuple[bytes, Document]]",
    stored: "Mapping[str, Stored]",
    catalog: "Catalog",
) -> "list[Proposal]":
    from grayctl.cli.release_change import propose, with_notes
    from grayctl.model.history import Action

    return [
        with_notes(
            propose(stored[service], Action.APPLY, text, document.release), _warnings(settings, document, catalog)
        )
        for service, (text, document) in documents.items()
    ]


def _warn_of_several_transactions(proposals: "Sequence[Proposal]") -> None:
    from grayctl.consul.releases import portions

    parts = len(portions([one.change for one in proposals]))
    if parts > 1:
        click.echo(
            f"{len(proposals)} policies are {parts} transactions: each is all or nothing, together they are not",
            err=True,
        )


def _documents(paths: tuple[str, ...]) -> "dict[str, tuple[bytes, Document]]":
    """Service -> text and policy, of all files.

    Raises:
        ReleaseError: with every problem of every file.
    """
    from grayctl.policy.document import read_document

    found: dict[str, tuple[bytes, Document]] = {}
    problems: list[Problem] = []
    for name, text in policy_texts(paths):
        try:
            document = read_document(text, name)
        except ReleaseError as error:
            problems += error.problems
            continue
        service = document.release.service
        if service in found:
            wrong = f"is the service of {found[service][1].file} too"
            problems.append(
                Problem(name, document.places["service"].line, "service", service, wrong, "Keep one of the two")
            )
        found[service] = (text, document)
    if problems:
        raise ReleaseError(tuple(problems))
    return found


def _warnings(settings: "Settings", document: "Document", catalog: "Catalog") -> tuple[str, ...]:
    """What a lint warns of, with what Consul knows beside: the lists, and which versions have instances."""
    from grayctl.policy.admission import healthy_versions
    from grayctl.policy.lint import WARNING, lint

    lists = {entry.key.rsplit("/", 2)[-2] for entry in catalog.kv.get("lists", ())}
    versions = healthy_versions(catalog.services.get(document.release.service, ()), settings.watch)
    return tuple(one.text for one in lint(document, lists=lists, versions=versions) if one.level == WARNING)
