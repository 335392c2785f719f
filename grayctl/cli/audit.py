"""`grayctl audit`."""

import click

from grayctl.cli.common import asked, json_option, print_json, settings_of


@click.command()
@click.argument("service", default="")
@json_option
@click.pass_context
def audit(ctx: click.Context, service: str, as_json: bool) -> None:
    """Print who did what to the release of SERVICE, or to all, when and why: 90 days, the newest last.

    Example: grayctl audit shop
    """
    from grayctl.cli.release_read import print_table, when
    from grayctl.consul.releases import audit as read_audit

    entries = asked(settings_of(ctx), lambda client: read_audit(client, service))
    if as_json:
        print_json(entries)
        return
    print_table(
        ["WHEN", "SERVICE", "WHAT", "VERSION", "WHO", "TRACE", "WHY"],
        [
            [when(act.time), one.service, str(one.action), str(one.number or "-"), act.author, act.trace_id, act.reason]
            for one in entries
            for act in (one.act,)
        ],
    )
