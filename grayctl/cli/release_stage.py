"""`grayctl release apply --scope`, `widen`, `promote` and `discard`: a policy goes gray across the nodes of a fleet."""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import click

from grayctl.cli.common import asked, finish, json_option, settings_of
from grayctl.cli.release_change import (
    Proposal,
    confirm,
    demand_answer,
    demand_known,
    in_force,
    nginx_difference,
    seen_of,
    show,
)
from grayctl.consul.client import ConsulClient
from grayctl.consul.releases import Change, Conflict, Stored, Written, author
from grayctl.consul.staged import discard as discard_staged
from grayctl.consul.staged import get_staged, write_staged
from grayctl.consul.staged import promote as promote_staged
from grayctl.errors import EXIT_REFUSED, GrayctlError, ReleaseError
from grayctl.fleet.adopter import draw_salt
from grayctl.model.catalog import Catalog, Entry
from grayctl.model.history import Act, Action
from grayctl.model.node import FleetNode
from grayctl.model.release import InForce
from grayctl.model.report import Result
from grayctl.policy.document import Document, read_document
from grayctl.policy.live import Unreadable, follow, revision_of
from grayctl.policy.staging import Scope, Staged, decode_staged, parse_scope
from grayctl.settings import Settings

_Deed = Callable[[ConsulClient, Act], Awaitable[Written | Conflict | None]]
_reason = click.option("--reason", default="", help="Why; the audit keeps it.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


def stage(
    settings: Settings,
    documents: Mapping[str, tuple[bytes, Document]],
    words: tuple[str, ...],
    reason: str,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> NoReturn:
    """Stage one policy, for `grayctl release apply --scope`.

    Raises:
        GrayctlError: a live node does not know one of its keys, or the scope covers none of the nodes.
    """
    if len(documents) != 1:
        raise click.UsageError("--scope takes one policy: each is staged, widened and promoted by itself")
    ((service, (text, document)),) = documents.items()
    scope = _scope(words)
    desk = _Desk.of(settings, service)
    demand_known([document], desk.nodes)
    covered = desk.covered(scope)
    old = desk.staged if isinstance(desk.staged, Staged) else None
    live = follow(document.release, revision_of(text), old.live if old else None, draw_salt)
    before = desk.followed() or in_force(desk.release)
    desk.show(before, InForce(document.release, live), f"staged for {covered}", as_json=as_json)
    if dry_run:
        finish(Result(outcome="done", message=f"{service}: would be staged for {covered}"), as_json=as_json)
    staged = Staged(scope, text, live)

    async def deed(client: ConsulClient, by: Act) -> Conflict | None:
        return await write_staged(client, service, staged, Action.STAGE, by, seen=desk.entry)

    confirm(f"Stage {service} for {covered}?", yes=yes)
    _do(settings, deed, reason, f"{service}: staged for {covered}", as_json=as_json)


@click.command()
@click.argument("service")
@click.option("--scope", "scope", multiple=True, required=True, metavar="SCOPE", help="As of `release apply`.")
@_reason
@_yes
@json_option
@click.pass_context
def widen(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context, service: str, scope: tuple[str, ...], reason: str, yes: bool, as_json: bool
) -> None:
    """Let more nodes follow what is staged for SERVICE; all that follow it already still do.

    Example: grayctl release widen shop --scope percent=50
    """
    demand_answer(yes=yes, as_json=as_json)
    settings = settings_of(ctx)
    desk = _Desk.of(settings, service)
    staged, entry = desk.demand_staged()
    wider = _scope(scope)
    if not wider.includes(staged.scope):
        raise GrayctlError(
            f"{service}: {wider.text} leaves out nodes of {staged.scope.text}, for which it is staged. "
            "To take it back from some, discard it and stage it anew"
        )
    covered = desk.covered(wider)
    desk.show(
        in_force(desk.release), desk.followed(), f"for the nodes that come in; staged for {covered}", as_json=as_json
    )
    confirm(f"Let {covered} follow what is staged for {service}?", yes=yes)

    async def deed(client: ConsulClient, by: Act) -> Conflict | None:
        widened = Staged(wider, staged.text, staged.live)
        return await write_staged(client, service, widened, Action.WIDEN, by, seen=entry)

    _do(settings, deed, reason, f"{service}: staged for {covered}", as_json=as_json)


@click.command()
@click.argument("service")
@_reason
@_yes
@json_option
@click.pass_context
def promote(ctx: click.Context, service: str, reason: str, yes: bool, as_json: bool) -> None:
    """Let all nodes follow what is staged for SERVICE: it becomes the release, with the shares and users it has.

    Example: grayctl release promote shop --reason 'a day without errors'
    """
    demand_answer(yes=yes, as_json=as_json)
    settings = settings_of(ctx)
    desk = _Desk.of(settings, service)
    staged, entry = desk.demand_staged()
    document = read_document(staged.text, entry.key, service=service)
    demand_known([document], desk.nodes)
    live = follow(document.release, revision_of(staged.text), staged.live, draw_salt)
    desk.show(
        in_force(desk.release), InForce(document.release, live), "for the nodes beyond the scope", as_json=as_json
    )
    confirm(f"Let all nodes follow what is staged for {service}?", yes=yes)

    async def deed(client: ConsulClient, by: Act) -> Written | Conflict:
        change = Change(desk.release, Action.PROMOTE, staged.text, live)
        return await promote_staged(client, change, by, seen=entry)

    _do(settings, deed, reason, f"{service}: {live.revision} is the release", as_json=as_json)


@click.command()
@click.argument("service")
@_reason
@_yes
@json_option
@click.pass_context
def discard(ctx: click.Context, service: str, reason: str, yes: bool, as_json: bool) -> None:
    """Take back what is staged for SERVICE: its nodes follow the release that all others follow.

    Example: grayctl release discard shop --reason 'too slow'
    """
    demand_answer(yes=yes, as_json=as_json)
    settings = settings_of(ctx)
    desk = _Desk.of(settings, service)
    if desk.entry is None:
        raise GrayctlError(f"nothing is staged for {service}")
    entry = desk.entry
    desk.show(desk.followed(), in_force(desk.release), "for the nodes in the scope", as_json=as_json)
    confirm(f"Take back what is staged for {service}?", yes=yes)

    async def deed(client: ConsulClient, by: Act) -> Conflict | None:
        return await discard_staged(client, desk.release, by, seen=entry)

    _do(settings, deed, reason, f"{service}: nothing is staged any more", as_json=as_json)


# ---------------------------------------------------------------- what they share


@dataclass(frozen=True, slots=True)
class _Desk:
    """What Consul holds around one service when a command begins."""

    settings: Settings
    service: str
    release: Stored
    catalog: Catalog
    nodes: tuple[FleetNode, ...]
    entry: Entry | None
    staged: Staged | Unreadable | None

    @classmethod
    def of(cls, settings: Settings, service: str) -> "_Desk":
        """Read it.

        Raises:
            ConsulError: after a few attempts.
        """
        stored, catalog, nodes = seen_of(settings, [service])
        entry = asked(settings, lambda client: get_staged(client, service))
        staged = decode_staged(entry.key, entry.value) if entry else None
        return cls(settings, service, stored[service], catalog, nodes, entry, staged)

    def demand_staged(self) -> tuple[Staged, Entry]:
        """What is staged, and its entry.

        Raises:
            GrayctlError: nothing is, or it cannot be read.
        """
        if isinstance(self.staged, Unreadable):
            raise GrayctlError(f"{self.staged.reason}. Or take it back: `grayctl release discard {self.service}`")
        if self.staged is None or self.entry is None:
            raise GrayctlError(f"nothing is staged for {self.service}: see `grayctl release apply --scope`")
        return self.staged, self.entry

    def followed(self) -> InForce | None:
        """What the nodes in scope follow; None where nothing is staged that can be read."""
        if self.entry is None or not isinstance(self.staged, Staged):
            return None
        try:
            release = read_document(self.staged.text, self.entry.key, service=self.service).release
        except ReleaseError:  # a newer grayctl wrote it; what follows shows and replaces it
            return None
        return InForce(release, self.staged.live)

    def covered(self, scope: Scope) -> str:
        """The scope, and which of the nodes it covers, in words.

        Raises:
            GrayctlError: there are nodes, and it covers none.
        """
        names = [one.report.node for one in self.nodes]
        found = [
            one.report.node for one in self.nodes if scope.covers(self.service, one.report.node, one.report.labels)
        ]
        if names and not found:
            raise GrayctlError(f"{scope.text} covers none of the nodes {', '.join(names)}: take a wider scope")
        return f"{scope.text}: {len(found)} of {len(names)} nodes{': ' if found else ''}{', '.join(found)}"

    def show(self, before: InForce | None, after: InForce | None, note: str, *, as_json: bool) -> None:
        """What changes where the scope reaches, unless a program reads."""
        if as_json:
            return
        text = self.staged.text if isinstance(self.staged, Staged) else b""
        change = Change(self.release, Action.STAGE, text, after.live if after else None)
        proposal = Proposal(change, before, after, (note,))
        show(proposal, nginx_difference(self.settings, self.catalog, proposal))


def _scope(words: tuple[str, ...]) -> Scope:
    try:
        return parse_scope(words)
    except ValueError as error:
        raise click.UsageError(f"--scope: {error}") from error


def _do(settings: Settings, deed: _Deed, reason: str, done: str, *, as_json: bool) -> NoReturn:
    async def act(client: ConsulClient) -> Written | Conflict | None:
        trace_id = uuid.uuid4().hex[:16]
        return await deed(client, Act(author=await author(client), reason=reason, trace_id=trace_id, time=time.time()))

    result = asked(settings, act)
    if isinstance(result, Conflict):
        finish(Result(outcome="refused", message=result.message, exit_code=EXIT_REFUSED), as_json=as_json)
    finish(Result(outcome="done", message=done), as_json=as_json)
