"""What the commands share that change releases: propose, show, ask, write, tell."""

import re
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff
from typing import NoReturn

import click
import msgspec

from grayctl.cli.common import asked, print_json
from grayctl.consul.client import ConsulClient
from grayctl.consul.once import read_catalog
from grayctl.consul.releases import Change, Conflict, Stored, author, get_release, portions, write_releases
from grayctl.consul.store import read_nodes
from grayctl.errors import EXIT_DONE, EXIT_REFUSED, GrayctlError, ReleaseError
from grayctl.fleet.adopter import draw_salt
from grayctl.model.catalog import Catalog
from grayctl.model.history import Act, Action
from grayctl.model.node import FleetNode
from grayctl.model.release import InForce, Live, Release
from grayctl.policy.difference import difference
from grayctl.policy.document import Document, read_release
from grayctl.policy.live import Ended, Unreadable, decode_live, follow, revision_of
from grayctl.policy.resolve import Limits, resolve
from grayctl.policy.standing import Policies, Standing
from grayctl.policy.wire import known_keys
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import Settings

_PARTS = re.compile(r"[^.\[\]]+")
_MOST_LINES = 60  # of one service's difference for nginx


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of one service's release, and what it means.

    Attributes:
        before: what is in force, as far as Consul tells.
        after: what would be; None: the release ends.
        notes: what whoever decides should know beside.
    """

    change: Change
    before: InForce | None
    after: InForce | None
    notes: tuple[str, ...] = ()

    @property
    def service(self) -> str:
        """Whose release."""
        return self.change.seen.service

    @property
    def revision(self) -> str:
        """Of the policy that would stand; empty when none would."""
        return revision_of(self.change.text) if self.change.text is not None else ""

    @property
    def nothing_new(self) -> bool:
        """Whether the text and the live record that belongs to it stand already."""
        standing = self.change.seen.policy.value if self.change.seen.policy else None
        in_force = self.before.live.revision if self.before else ""
        return standing == self.change.text and in_force == self.revision


def propose(seen: Stored, action: Action, text: bytes, release: Release) -> Proposal:
    """The change that puts a policy, already checked, in the place of what was seen."""
    live, notes = _live(seen)
    after = follow(release, revision_of(text), live, draw_salt)
    before, more = _in_force(seen, live)
    return Proposal(Change(seen, action, text, after), before, InForce(release, after), (*notes, *more))


def in_force(seen: Stored) -> InForce | None:
    """What the policy in Consul says, with its live record; None where there is none or it cannot be read."""
    live, _ = _live(seen)
    return _in_force(seen, live)[0]


def propose_end(seen: Stored) -> Proposal:
    """The change that ends a release."""
    live, _ = _live(seen)
    before, notes = _in_force(seen, live)
    return Proposal(Change(seen, Action.DELETE), before, None, notes)


def _live(seen: Stored) -> tuple[Live | None, tuple[str, ...]]:
    found = decode_live(seen.live.key, seen.live.value) if seen.live else None
    if isinstance(found, Unreadable):
        return None, (f"{found.reason}. This does: users are drawn anew",)
    return (None, ()) if isinstance(found, Ended) else (found, ())


def _in_force(seen: Stored, live: Live | None) -> tuple[InForce | None, tuple[str, ...]]:
    """What the policy in Consul says; the nodes may serve something older, and then it is noted."""
    if seen.policy is None or live is None:
        return None, ()
    try:
        release = read_release(seen.policy.value, seen.policy.key, service=seen.service)
    except ReleaseError as error:
        return None, (f"what stands in Consul is no policy, and the nodes serve what stood before: {error}",)
    late = live.revision != seen.revision
    notes = ("what stands in Consul was edited by hand and is not in force yet",) if late else ()
    return InForce(release, live), notes


# ---------------------------------------------------------------- what it means


async def context(client: ConsulClient, settings: Settings, services: Sequence[str]) -> Catalog:
    """The instances of these services, and the lists.

    Raises:
        ConsulError: after a few attempts.
    """
    watch = msgspec.structs.replace(settings.watch, services=tuple(services), tag="")
    return await read_catalog(client, msgspec.structs.replace(settings, watch=watch))


def nginx_difference(settings: Settings, catalog: Catalog, proposal: Proposal) -> tuple[str, ...]:
    """What nginx would read in the place of what it reads, as a unified difference; a long one without its middle.

    With the templates and settings of this machine, and without what a node remembers: kept instances, quarantine.
    """
    service = proposal.service
    old, new = (_rendered(settings, catalog, service, one) for one in (proposal.before, proposal.after))
    lines = list(unified_diff(old, new, f"now/{service}.conf", f"then/{service}.conf", n=1, lineterm=""))
    if len(lines) <= _MOST_LINES:
        return tuple(lines)
    end = _MOST_LINES // 2  # behind a long list stands what it decides
    return (*lines[:end], f"... {len(lines) - 2 * end} lines more ...", *lines[-end:])


def _rendered(settings: Settings, catalog: Catalog, service: str, in_force: InForce | None) -> list[str]:
    lists = Policies({}).judge({"lists": catalog.kv.get("lists", ())}).lists
    standing = Standing({service: in_force} if in_force else {}, lists, {}, ())
    only = msgspec.structs.replace(catalog, services={service: catalog.services.get(service, ())})
    plan = resolve(only, {}, settings, Limits(), standing=standing)
    objects, failed = Renderer(Templates(settings.templates_dir), settings, Dialect()).objects(plan)
    if service in objects:
        # without what the object remembers about itself: that is for grayctl, nginx does not look
        return [line for line in objects[service].content.splitlines() if not line.startswith("#")]
    return [f"# {failed.get(service) or plan.refused.get(service)}"]


def show(proposal: Proposal, nginx: Sequence[str]) -> None:
    """For a person: what changes for whom, then what nginx reads."""
    click.secho(proposal.service, bold=True)
    for sentence in difference(proposal.before, proposal.after) or ("nothing changes for anybody",):
        click.echo(f"  {sentence}")
    for note in proposal.notes:
        click.echo(f"  note: {note}")
    for line in nginx:
        color = {"+": "green", "-": "red"}.get(line[:1])
        click.secho(f"  | {line}", fg=color)


# ---------------------------------------------------------------- doing it


@dataclass(frozen=True, slots=True)
class Done:
    """What became of it: (service, version) that are written; `conflict` says why the others are not."""

    written: tuple[tuple[str, int], ...]
    conflict: str
    trace_id: str


def confirm(question: str, *, yes: bool) -> None:
    """Ask; ends the command when the answer is no.

    Raises:
        click.UsageError: there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: add --yes")
    click.confirm(question, abort=True)


def demand_answer(*, yes: bool, as_json: bool) -> None:
    """Refuse to ask a program.

    Raises:
        click.UsageError: --json without --yes.
    """
    if as_json and not yes:
        raise click.UsageError("--json goes with --yes: it does not ask")


def carry_out(settings: Settings, proposals: Sequence[Proposal], reason: str) -> Done:
    """Write it all, in as few transactions as hold it, each by itself all or nothing.

    Raises:
        ConsulError: what was written before stands.
    """

    async def act(client: ConsulClient) -> Done:
        trace_id = uuid.uuid4().hex[:16]
        by = Act(author=await author(client), reason=reason, trace_id=trace_id, time=time.time())
        written: list[tuple[str, int]] = []
        for portion in portions([one.change for one in proposals]):
            result = await write_releases(client, portion, by)
            if isinstance(result, Conflict):
                return Done(tuple(written), result.message, trace_id)
            names = (change.seen.service for change in portion)
            written += zip(names, result.numbers, strict=True)
        return Done(tuple(written), "", trace_id)

    return asked(settings, act)


NOTHING_DONE = Done((), "", "")


def tell(done: Done, proposals: Sequence[Proposal], *, same: Sequence[str] = (), as_json: bool) -> NoReturn:
    """Say what was done, and end with the exit code.

    Args:
        done: NOTHING_DONE where nothing was to be done.
        proposals: what was to be done.
        same: services that stood like this already.
        as_json: a document instead of lines; a release that was not written has no version.
    """
    written = dict(done.written)
    if as_json:
        releases = [
            {
                "service": one.service,
                "version": written.get(one.service),
                "revision": one.revision,
                "changes": difference(one.before, one.after),
                "notes": one.notes,
            }
            for one in proposals
        ]
        print_json({"releases": releases, "unchanged": same, "conflict": done.conflict, "trace_id": done.trace_id})
    else:
        for service in same:
            click.echo(f"{service}: stands like this already")
        for one in proposals:
            if one.service in written:
                what = one.revision or "the release has ended"
                click.echo(f"{one.service}: version {written[one.service]} ({what}), trace {done.trace_id}")
        if done.conflict:
            missing = ", ".join(one.service for one in proposals if one.service not in written)
            click.echo(f"not written: {missing}: {done.conflict}", err=True)
    sys.exit(EXIT_REFUSED if done.conflict else EXIT_DONE)


def seen_of(settings: Settings, services: Sequence[str]) -> tuple[dict[str, Stored], Catalog, tuple[FleetNode, ...]]:
    """What Consul holds of these services: their releases, instances and all lists; and the nodes.

    Raises:
        ConsulError: after a few attempts.
    """

    async def look(client: ConsulClient) -> tuple[dict[str, Stored], Catalog, tuple[FleetNode, ...]]:
        stored = {service: await get_release(client, service) for service in services}
        return stored, await context(client, settings, services), await read_nodes(client)

    return asked(settings, look)


def demand_known(documents: Iterable[Document], nodes: Iterable[FleetNode]) -> None:
    """Refuse policies with keys that the grayctl of a live node does not know: it would keep what it serves.

    Raises:
        GrayctlError: naming each node and the keys.
    """
    used = {part for document in documents for path in document.places for part in _PARTS.findall(path)} & known_keys()
    problems = [
        f"node {one.report.node}: its grayctl {one.report.version} does not know {', '.join(sorted(missing))}"
        for one in nodes
        if one.live and (missing := used - set(one.report.policy_keys))
    ]
    if problems:
        raise GrayctlError("\n".join((*problems, "nothing is written: upgrade grayctl there first")))


def with_notes(proposal: Proposal, notes: Sequence[str]) -> Proposal:
    """The same, with more to know."""
    return replace(proposal, notes=(*proposal.notes, *notes))
