"""`grayctl release rollback` and `grayctl release delete`."""

import click

from grayctl.cli.common import json_option, settings_of
from grayctl.errors import GrayctlError


@click.command()
@click.argument("service")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--reason", default="", help="Why; the history and the audit keep it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def rollback(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context, service: str, version: int, reason: str, yes: bool, as_json: bool
) -> None:
    """Put an old VERSION of the policy of SERVICE into force again; it becomes a new one in the history.

    A share that grows again gets the same users, unless in between nobody had one or others needed their places.

    Example: grayctl release rollback shop 41 --reason 'v2 is slow'
    """
    from grayctl.cli.common import asked
    from grayctl.cli.release_change import (
        NOTHING_DONE,
        carry_out,
        confirm,
        demand_answer,
        demand_known,
        nginx_difference,
        propose,
        seen_of,
        show,
        tell,
    )
    from grayctl.consul.releases import version as read_version
    from grayctl.model.history import Action
    from grayctl.policy.document import read_document

    demand_answer(yes=yes, as_json=as_json)
    settings = settings_of(ctx)
    old = asked(settings, lambda client: read_version(client, service, version))
    if old is None or old.action is Action.DELETE:
        missing = "is kept no more, or never was" if old is None else "is the end of the release: use `release delete`"
        raise GrayctlError(f"{service}: version {version} {missing}. See `grayctl release history {service}`")
    text = old.text.encode()
    document = read_document(text, f"version {version}", service=service)
    stored, catalog, nodes = seen_of(settings, [service])
    demand_known([document], nodes)
    proposal = propose(stored[service], Action.ROLLBACK, text, document.release)
    if proposal.nothing_new:
        tell(NOTHING_DONE, [], same=[service], as_json=as_json)
    if not as_json:
        show(proposal, nginx_difference(settings, catalog, proposal))
    confirm(f"Roll {service} back to version {version}?", yes=yes)
    tell(carry_out(settings, [proposal], reason or f"back to version {version}"), [proposal], as_json=as_json)


@click.command()
@click.argument("service")
@click.option("--reason", default="", help="Why; the history and the audit keep it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def delete(ctx: click.Context, service: str, reason: str, yes: bool, as_json: bool) -> None:
    """End the release of SERVICE: all its healthy instances share the requests by their weights.

    The history stays, and `grayctl release rollback` brings a policy back. Deleting the key by hand ends nothing:
    what was in force stays, as it does when Consul loses its state, until this command ends it.

    Example: grayctl release delete shop --reason 'one version only'
    """
    from grayctl.cli.release_change import (
        carry_out,
        confirm,
        demand_answer,
        nginx_difference,
        propose_end,
        seen_of,
        show,
        tell,
        with_notes,
    )

    demand_answer(yes=yes, as_json=as_json)
    settings = settings_of(ctx)
    stored, catalog, nodes = seen_of(settings, [service])
    keepers = [one.report.node for one in nodes if service in one.report.kept]
    if stored[service].nothing and not keepers:
        raise GrayctlError(f"{service} has no release. See `grayctl release list`")
    proposal = propose_end(stored[service])
    if keepers:
        proposal = with_notes(proposal, [f"Consul holds no policy; {', '.join(keepers)} keep what was in force"])
    if not as_json:
        show(proposal, nginx_difference(settings, catalog, proposal))
    confirm(f"End the release of {service}?", yes=yes)
    tell(carry_out(settings, [proposal], reason), [proposal], as_json=as_json)
