"""Gathers what the judges look at, and asks them. What is missing or away is a finding; the rest is still judged."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TypeVar

from grayctl import __version__
from grayctl.advice import (
    confinement,
    consul,
    decisions,
    fleet,
    includes,
    master,
    names,
    permissions,
    ports,
    releases,
    routes,
    variables,
)
from grayctl.advice.consul import ConsulView, needed
from grayctl.advice.decisions import from_settings
from grayctl.advice.finding import Finding, How, Level, Rule, ok
from grayctl.advice.fleet import Fleet
from grayctl.advice.machine import Machine, has_open, look, mode
from grayctl.advice.names import host_names
from grayctl.advice.view import View
from grayctl.consul.client import ConsulClient, Right
from grayctl.consul.names import Resolver
from grayctl.consul.releases import list_releases
from grayctl.consul.store import decode_node, node_key
from grayctl.errors import ConsulDenied, ConsulProtocolError, GrayctlError, NginxError
from grayctl.nginx.check import Checked
from grayctl.nginx.check import check as test
from grayctl.nginx.confirm import ask_marker
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import Facts, inspect
from grayctl.nginx.process import Master, find_master, hidden_master, orphans, workers
from grayctl.nginx.tree import Tree, read
from grayctl.render.templates import Templates
from grayctl.settings import Settings, listen_address

NO_NGINX = Rule("nginx-unusable", Level.FAILURE, "nginx", "without nginx and its configuration nothing can be applied")
REFUSES = Rule(
    "nginx-refuses", Level.FAILURE, "nginx", "every change is held until the configuration passes; the next start fails"
)
NOT_RUNNING = Rule("nginx-not-running", Level.WARNING, "nginx", "nothing is served; the next start serves the newest")
ORPHANS = Rule(
    "orphan-workers", Level.WARNING, "nginx", "workers of a dead master may hold its ports, and serve an old generation"
)
OLD_WORKERS = Rule(
    "old-workers",
    Level.WARNING,
    "nginx",
    "each keeps its memory, and with so many of them reloads wait for them to end",
)
UNREAD = Rule("include-unread", Level.OK, "nginx", "what stands in there is not judged here; nginx -t judges it")
NO_TEMPLATES = Rule("templates-missing", Level.FAILURE, "templates", "without them nothing new is rendered")
BROKEN_TEMPLATE = Rule("template-broken", Level.FAILURE, "templates", "what it renders stays as it is")
NO_GENERATION = Rule(
    "no-generation", Level.FAILURE, "state", "nginx.conf includes a file that is not there, and nginx does not start"
)
DAMAGED = Rule(
    "generation-damaged", Level.FAILURE, "state", "nginx may not start from it; the daemon heals it when it starts"
)
_LOOKED_INTO = 8  # services whose instances are read to see whether the token shows them
_T = TypeVar("_T")

CONFIGURATION: tuple[Callable[[View], Iterator[Finding]], ...] = (
    *includes.JUDGES,
    *routes.JUDGES,
    *variables.JUDGES,
    *master.JUDGES,
    *names.JUDGES,
    *decisions.JUDGES,
)
MACHINE: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    *ports.JUDGES,
    *permissions.JUDGES,
    *confinement.JUDGES,
)
CONSUL: tuple[Callable[[ConsulView], Iterator[Finding]], ...] = consul.JUDGES
FLEET: tuple[Callable[[Fleet], Iterator[Finding]], ...] = fleet.JUDGES


async def survey(
    settings: Settings, source: tuple[str, str], *, answers: bool, root: Path = Path("/")
) -> tuple[Finding, ...]:
    """Everything there is to say, each thing once.

    Args:
        settings: in force.
        source: name and text of the settings file; empty without one.
        answers: whether a daemon answers on the control socket.
        root: stands before /proc, /sys and /etc.
    """
    said, (facts, tested, master, nginx) = await asyncio.gather(_hear(settings, source), _examine(settings))
    marker = await ask_marker(*listen_address(settings.nginx.marker))
    machine = await asyncio.to_thread(partial(look, settings, master=master, marker=marker, answers=answers, root=root))
    given, unreadable = releases.read(said.policies)
    view = await _view(settings, source, facts, tested, said.services)
    findings = [ok("settings", f"node {settings.node}"), *_templates(settings), *_state(settings), *nginx]
    findings += unreadable
    if view is not None:
        findings += [UNREAD.found(reason) for reason in view.tree.unread]
        findings += _judged(CONFIGURATION, replace(view, unit=machine.unit, decisions=view.decisions + given))
    findings += [*_judged(MACHINE, machine), *_judged(CONSUL, said), *_judged(FLEET, said.fleet)]
    return tuple(dict.fromkeys(findings))


def _judged(judges: Iterable[Callable[[_T], Iterable[Finding]]], view: _T) -> Iterator[Finding]:
    for judge in judges:
        yield from judge(view)


def _templates(settings: Settings) -> Iterator[Finding]:
    folder = settings.templates_dir
    if folder and not S_ISDIR(mode(Path(folder))):
        yield NO_TEMPLATES.found(f"{folder} is no directory", how=How.RUN, advice=f"mkdir -p {folder}")
        return
    broken = Templates(folder).broken
    for error in broken.values():
        yield BROKEN_TEMPLATE.found(str(error), how=How.DO, advice="mend the line, then SIGHUP grayctl")
    if not broken:
        yield ok("templates", "all compile")


def _state(settings: Settings) -> Iterator[Finding]:
    root = Path(settings.state_dir)
    if mode(root) and not os.access(root, os.R_OK | os.X_OK):
        return  # permissions say that it is not ours
    store = Store(root)
    number, current = store.current_number(), store.current()
    if current is not None:
        yield ok("state", f"generation {current.number} stands, {len(current.objects)} services are published")
    elif number is None:
        yield NO_GENERATION.found(f"{settings.state_dir} has no generation", how=How.RUN, advice="grayctl init")
    else:
        what = f"generation {number} in {settings.state_dir} is damaged"
        yield DAMAGED.found(what, how=How.RUN, advice="systemctl restart grayctl")


async def _examine(settings: Settings) -> tuple[Facts | None, Checked | None, int | None, list[Finding]]:
    """Nginx as it says itself: what it is, whether it takes its configuration, the master's pid when it runs."""
    try:
        facts = await asyncio.to_thread(inspect, settings.nginx, Path(settings.state_dir))
        tested = await test(settings.nginx, facts, None)
    except GrayctlError as error:
        advice = "mend that, then run grayctl check again"
        return None, None, None, [NO_NGINX.found(str(error), how=How.DO, advice=advice)]
    findings = [ok("nginx", f"{facts.binary} {facts.version}, {facts.conf}")]
    if not tested.ok:
        what = f"nginx -t refuses the configuration as it stands: {'; '.join(tested.messages)}"
        place = f"{tested.culprit.file}:{tested.culprit.line}" if tested.culprit else ""
        denied = " as root, or with the rights of nginx" if "ermission denied" in what else ""
        advice = f"mend it, then run grayctl check again{denied}"
        findings.append(REFUSES.found(what, how=How.DO, advice=advice, where=place))
    found = find_master(facts)
    pid = found.pid if found else hidden_master(facts.pid_file)
    if pid is not None:
        findings.append(ok("nginx", f"runs as pid {pid}"))
        findings += _old_workers(found, settings) if found else ()
    else:
        what = f"nginx does not run: {facts.pid_file} names no master of {facts.conf}"
        findings.append(NOT_RUNNING.found(what, how=How.RUN, advice="systemctl start nginx"))
    # by its error log a worker is told from those of another nginx on this machine
    log = facts.error_log
    if lost := [pid for pid in orphans(facts) if log is None or has_open(pid, log)]:
        pids = " ".join(map(str, lost))
        findings.append(ORPHANS.found(f"workers without a master: {pids}", how=How.RUN, advice=f"kill -QUIT {pids}"))
    return facts, tested, pid, findings


def _old_workers(found: Master, settings: Settings) -> Iterator[Finding]:
    """Workers of earlier generations that long connections keep."""
    crew = workers(found)
    old = sum(one.leaving for one in crew)
    if old >= settings.reload.ceiling(len(crew) - old):
        advice = (
            "set a shorter worker_shutdown_timeout in nginx.conf; it counts for workers that a later reload replaces. "
            "Those of now end with their connections"
        )
        yield OLD_WORKERS.found(f"{old} workers of earlier generations are alive", how=How.DO, advice=advice)


async def _view(
    settings: Settings,
    source: tuple[str, str],
    facts: Facts | None,
    tested: Checked | None,
    listed: Mapping[str, object],
) -> View | None:
    """What the configuration is judged by; None when it cannot be read, which has been said."""
    conf = facts.conf if facts else Path(settings.nginx.conf)
    state_dir = Path(settings.state_dir)
    try:
        tree = await asyncio.to_thread(partial(read, conf, state_dir, snippets=True))
    except NginxError:
        return None
    resolver = Resolver()
    await resolver.ensure(host_names(tree))
    published, patterned = await asyncio.to_thread(_published, Store(state_dir))
    missing, odd_files = await asyncio.to_thread(_files, tree)
    return View(
        tree,
        settings,
        source,
        published=published,
        patterned=patterned,
        listed=frozenset(listed),
        warnings=(*tested.warnings, *tested.messages) if tested else (),
        addresses=resolver.answers,
        missing=missing,
        odd_files=odd_files,
        decisions=tuple(from_settings(settings, source)),
    )


def _published(store: Store) -> tuple[frozenset[str], frozenset[str]]:
    """The services of the current generation, and those whose maps have patterns."""
    current = store.current()
    if current is None:
        return frozenset(), frozenset()
    objects = store.objects(current, whole=False)
    return frozenset(current.objects), frozenset(name for name, one in objects.items() if one.has_patterns)


def _files(tree: Tree) -> tuple[frozenset[str], frozenset[str]]:
    """Directories that the configuration names and that are not there; files that are no regular ones."""
    folders = {one.first for one in tree.main.own("working_directory")}
    pids = {one.first for one in tree.main.own("pid")}
    return (
        frozenset(one for one in folders if not S_ISDIR(mode(Path(one)))),
        frozenset(one for one in pids if mode(Path(one)) and not S_ISREG(mode(Path(one)))),
    )


async def _hear(settings: Settings, source: tuple[str, str]) -> ConsulView:
    """What Consul says to us; an error is an answer too."""
    try:
        async with ConsulClient(settings.consul, connections=2) as client:
            return await _ask(client, settings, source)
    except ConsulDenied as error:
        return ConsulView(settings, source, error=str(error), denied=True)
    except GrayctlError as error:
        return ConsulView(settings, source, error=str(error))


async def _ask(client: ConsulClient, settings: Settings, source: tuple[str, str]) -> ConsulView:
    services = (await client.services()).value
    there = [name for name in settings.watch.exact if name in services][:_LOOKED_INTO]
    blind = tuple([name for name in there if not (await client.health(name)).value])
    try:
        agent = await client.agent_self()
    except ConsulDenied:
        agent = None
    theirs = await client.clock()
    member = (agent or {}).get("Config", {}).get("NodeName", "")
    return ConsulView(
        settings,
        source,
        services=services,
        blind=blind,
        lacking=await _lacking(client, settings, member, empty=not services),
        agent=agent,
        fleet=await _fleet(client, settings),
        policies=await _policies(client),
        # HTTP's date has whole seconds: half of one is right on average
        skew=None if theirs is None else time.time() - theirs - 0.5,
    )


async def _lacking(client: ConsulClient, settings: Settings, member: str, *, empty: bool) -> tuple[Right, ...]:
    """Where acl.enable_key_list_policy is on, keys that one may read may yet not be listed; only trying tells."""
    lacking = await client.lacks(needed(settings, member, empty=empty))
    below = f"{settings.consul.prefix}/"
    try:
        await client.kv(f"{below}releases/")
    except ConsulDenied:
        rest = (right for right in lacking if (right.kind, right.access) != ("key", "read"))  # which list includes
        return (Right("key", below, "list"), *rest)
    return lacking


async def _fleet(client: ConsulClient, settings: Settings) -> Fleet:
    told = Fleet(node=settings.node, version=__version__, prefix=settings.consul.prefix)
    nodes, damaged = [], []
    try:
        entries = (await client.kv(node_key(settings.consul.prefix, ""))).value
    except ConsulDenied:  # what the token lacks is said by name
        return told
    for entry in entries:
        try:
            nodes.append(decode_node(entry))
        except ConsulProtocolError:
            damaged.append(entry.key)
    return replace(told, nodes=tuple(nodes), damaged=tuple(damaged))


async def _policies(client: ConsulClient) -> dict[str, bytes]:
    try:
        stored = await list_releases(client)
    except ConsulDenied:  # as above
        return {}
    return {one.policy.key: one.policy.value for one in stored if one.policy}
