"""Consul: reachable, readable with our token, with room for our long polls, and of one mind about the time."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from grayctl.advice.finding import Finding, How, Level, Rule, ok
from grayctl.advice.fleet import Fleet
from grayctl.advice.view import setting_place
from grayctl.consul.client import PATH_CONNECTIONS, SHORT_CONNECTIONS, Right
from grayctl.consul.selection import KV_NAMES, wanted_services
from grayctl.consul.store import node_key
from grayctl.settings import Settings

UNREACHABLE = Rule(
    "consul-unreachable", Level.FAILURE, "consul", "grayctl keeps serving what it knows, and hears of no change"
)
DENIED = Rule("consul-denied", Level.FAILURE, "consul", "Consul refuses the token: nothing can be read")
LACKS = Rule(
    "token-lacks",
    Level.FAILURE,
    "consul",
    "Consul leaves out what a token may not read, without an error: instances and policies would look gone",
)
CANNOT_REPORT = Rule(
    "token-cannot-report",
    Level.WARNING,
    "consul",
    "this node is missing from the fleet's view; what nginx serves does not depend on it",
)
EMPTY = Rule(
    "empty-catalog",
    Level.WARNING,
    "consul",
    "under ACLs an anonymous token is answered 200 and nothing; a real catalog has at least consul itself",
)
UNKNOWN = Rule("service-unknown", Level.WARNING, "consul", "its variable answers 503 until an instance registers")
LIMIT = Rule(
    "agent-connection-limit",
    Level.WARNING,
    "consul",
    "an abandoned poll keeps its connection until its wait ends, so a quick restart counts double; everybody on this "
    "host shares the limit, and beyond it the agent closes connections without a word",
)
EXCEEDED = Rule(
    "agent-connection-limit-exceeded",
    Level.FAILURE,
    "consul",
    "beyond its limit the agent closes connections without a word, those of everybody else on this host too",
)
COLD = Rule(
    "services-cold",
    Level.OK,
    "consul",
    "the services that changed last have a long poll of their own; a changed registration of another is served within "
    "5 s instead of at once, a failed check of it at once",
)
UNREAD = Rule(
    "agent-limits-unread",
    Level.OK,
    "consul",
    "whether the agent takes our connections cannot be said without its limits",
)
OLD = Rule("consul-old", Level.WARNING, "consul", "grayctl is tested with Consul 1.8 and newer")
CLOCK = Rule(
    "clock-skew",
    Level.WARNING,
    "consul",
    "only records go by the wall clock, no decision does; but logs, history and audit of the fleet cannot be compared",
)

_OLDEST = (1, 8)
_SKEW, _LARGE_SKEW = 2.0, 30.0
_OTHER_POLLS = len(KV_NAMES) + 4  # catalog/services, catalog/nodes, state/critical, state/warning
_NODES = 'node_prefix "" { policy = "read" }'
_TOKEN_LINE = '[consul]\ntoken_file = "/etc/grayctl/token"'  # noqa: S105 -- a file's name
_LIMIT = "http_max_conns_per_client"


@dataclass(frozen=True, slots=True)
class ConsulView:
    """What Consul said.

    Attributes:
        error: why it said nothing; then everything else is empty.
        denied: whether that was a refusal of the token.
        services: name -> tags.
        blind: watched services that the catalog lists and whose instances do not show.
        lacking: what the token may not do, of what is needed.
        agent: the agent's /v1/agent/self; None when the token may not read it.
        fleet: what the nodes reported.
        policies: key -> text of every release.
        skew: how many seconds our clock is ahead; None when Consul did not say.
    """

    settings: Settings
    source: tuple[str, str] = ("", "")
    error: str = ""
    denied: bool = False
    services: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    lacking: tuple[Right, ...] = ()
    agent: Mapping[str, object] | None = None
    fleet: Fleet = field(default_factory=Fleet)
    policies: Mapping[str, bytes] = field(default_factory=dict)
    skew: float | None = None

    @property
    def debug(self) -> Mapping[str, object]:
        """The agent's configuration in force."""
        found = (self.agent or {}).get("DebugConfig")
        return found if isinstance(found, dict) else {}

    @property
    def watched(self) -> frozenset[str]:
        """The services that grayctl would watch."""
        return wanted_services(self.services, self.settings.watch)


def needed(settings: Settings, agent_node: str, *, empty: bool = False) -> tuple[Right, ...]:
    """What the token must be allowed, as far as it can be named.

    Args:
        settings: ours.
        agent_node: the agent's node in Consul; empty when it is not known.
        empty: Consul names no service: newer agents name none whose nodes are hidden.
    """
    keys = (Right("key", f"{settings.consul.prefix}/{name}/") for name in (*KV_NAMES, "nodes"))
    sessions = (Right("session", agent_node, "write"),) if agent_node else ()
    report = Right("key", node_key(settings.consul.prefix, settings.node), "write")
    nodes = (Right("node", agent_node),) if agent_node and empty else ()
    return (report, *sessions, *keys, *nodes, *(Right("service", name) for name in settings.watch.exact))


def reached(view: ConsulView) -> Iterator[Finding]:
    """Whether Consul answers, and knows anything."""
    address = view.settings.consul.address
    if view.denied:
        yield DENIED.found(view.error, how=How.SETTINGS, advice=_TOKEN_LINE)
    elif view.error:
        yield UNREACHABLE.found(view.error, how=How.DO, advice="start the agent, or name one in consul.address")
    elif not view.services:
        yield EMPTY.found(f"{address} answers, but names no service at all", how=How.SETTINGS, advice=_TOKEN_LINE)
    else:
        yield ok("consul", f"{address}{_version(view)}, {len(view.services)} services, {len(view.watched)} watched")


def _version(view: ConsulView) -> str:
    found = _config(view).get("Version")
    return f" {found}" if isinstance(found, str) else ""


def _config(view: ConsulView) -> Mapping[str, object]:
    found = (view.agent or {}).get("Config")
    return found if isinstance(found, dict) else {}


def rights(view: ConsulView) -> Iterator[Finding]:
    """What the token may not read, and whether it may report."""
    reads = [right for right in view.lacking if right.access != "write"]
    rules = [_rule(right, view.settings.consul.prefix) for right in reads]
    rules += [_NODES] if view.blind else []
    if rules:
        missing = [f"{right.kind}:{right.access} on {right.name}" for right in reads]
        missing += [f"node:read, so that the instances of {', '.join(view.blind)} do not show"] if view.blind else []
        advice = "\n".join(dict.fromkeys(rules))
        yield LACKS.found(f"the token lacks {'; '.join(missing)}", how=How.POLICY, advice=advice)
    if writes := [right for right in view.lacking if right.access == "write"]:
        what = f"the token lacks {'; '.join(f'{right.kind}:write on {right.name}' for right in writes)}"
        advice = "\n".join(f'{right.kind} "{right.name}" {{ policy = "write" }}' for right in writes)
        yield CANNOT_REPORT.found(what, how=How.POLICY, advice=advice)


def _rule(right: Right, prefix: str) -> str:
    if right.kind == "key":  # in one rule for all of them
        return f'key_prefix "{prefix}/" {{ policy = "{right.access}" }}'
    if right.kind == "node":
        return _NODES
    return f'{right.kind} "{right.name}" {{ policy = "read" }}'


def known(view: ConsulView) -> Iterator[Finding]:
    """The services that are watched by name are there."""
    hidden = {right.name for right in view.lacking if right.kind == "service"}
    if not view.services:
        return
    for name in sorted(set(view.settings.watch.exact) - view.services.keys() - hidden):
        near = get_close_matches(name, view.services, n=1)
        what = f"watch.services names {name}, which Consul does not know"
        where = setting_place(view.source, "watch.services")
        if near:
            names = [near[0] if one == name else one for one in view.settings.watch.services]
            advice = f"[watch]\nservices = {json.dumps(names)}"
            yield UNKNOWN.found(f"{what}; did you mean {near[0]}?", how=How.SETTINGS, advice=advice, where=where)
        else:
            yield UNKNOWN.found(what, how=How.DO, advice=f"register an instance of {name}, or drop it", where=where)


def limits(view: ConsulView) -> Iterator[Finding]:
    """The agent's connections for one client address, against what we hold."""
    if view.error:
        return
    polls = view.settings.watch.max_long_polls
    connections = polls + SHORT_CONNECTIONS + PATH_CONNECTIONS
    limit = view.debug.get("HTTPMaxConnsPerClient")
    if not isinstance(limit, int):
        yield UNREAD.found(
            f"the token may not read the agent's limits; {connections} connections are used, twice that after a quick "
            "restart, and the default limit is 200",
            how=How.POLICY,
            advice='agent_prefix "" { policy = "read" }',
        )
    elif 0 < limit < 2 * connections:
        rule = EXCEEDED if limit < connections else LIMIT
        yield rule.found(
            f"the agent takes {limit} connections from one address; we use {connections}, {2 * connections} after a "
            "quick restart",
            how=How.AGENT,
            advice=f"limits {{ {_LIMIT} = {_round(2 * connections)} }}",
        )
    yield from _cold(view, polls, limit)


def _cold(view: ConsulView, polls: int, limit: object) -> Iterator[Finding]:
    """Services beyond the poll budget, and what would give each a poll of its own."""
    wanted = len(view.watched) + _OTHER_POLLS
    if wanted <= polls:
        return
    enough = _round(wanted + wanted // 10)
    room = 2 * (enough + SHORT_CONNECTIONS + PATH_CONNECTIONS)
    settings = f"[watch]\nmax_long_polls = {enough}"
    what = f"{wanted - polls} of {len(view.watched)} watched services have no long poll of their own"
    if isinstance(limit, int) and 0 < limit < room:
        agent = f"limits {{ {_LIMIT} = {_round(room)} }}"
        yield COLD.found(
            f"{what}; first raise the agent's limit, then watch.max_long_polls to {enough}", how=How.AGENT, advice=agent
        )
    else:
        yield COLD.found(what, how=How.SETTINGS, advice=settings)


def _round(number: int) -> int:
    """Up to a whole hundred: a figure that people recognise."""
    return -(-number // 100) * 100


def version(view: ConsulView) -> Iterator[Finding]:
    """Consul is one that grayctl is tested with."""
    parts = _version(view).strip().split(".")
    numbers = tuple(int(part) for part in parts[:2] if part.isdigit())
    if len(numbers) == len(_OLDEST) and numbers < _OLDEST:
        yield OLD.found(f"Consul {'.'.join(parts)}", how=How.DO, advice="upgrade to Consul 1.8 or newer")


def clock(view: ConsulView) -> Iterator[Finding]:
    """Our wall clock and the agent's agree."""
    if view.skew is None or abs(view.skew) <= _SKEW:
        return
    direction = "ahead of" if view.skew > 0 else "behind"
    much = ": certificates and tokens may be taken for expired" if abs(view.skew) > _LARGE_SKEW else ""
    what = f"this machine's clock is {abs(view.skew):.0f} s {direction} Consul's{much}"
    yield CLOCK.found(what, how=How.RUN, advice="timedatectl set-ntp true")


JUDGES: tuple[Callable[[ConsulView], Iterator[Finding]], ...] = (reached, rights, known, limits, version, clock)
