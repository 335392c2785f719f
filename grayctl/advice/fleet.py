"""The fleet: which node runs which grayctl, as the nodes report it to Consul."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grayctl.advice.finding import Finding, How, Level, Rule, ok
from grayctl.model.node import FleetNode

MIXED = Rule(
    "fleet-mixed-versions",
    Level.WARNING,
    "fleet",
    "two versions may render one policy differently, so that what a user gets depends on the node that answers; and "
    "the older one may not understand what the newer one stores",
)
DAEMON = Rule(
    "daemon-other-version",
    Level.WARNING,
    "fleet",
    "what was installed takes effect when the daemon is restarted; nginx serves on meanwhile",
)
UNREADABLE = Rule(
    "fleet-unreadable", Level.WARNING, "fleet", "which versions the fleet runs cannot be said while a report is damaged"
)

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the nodes reported.

    Attributes:
        node: this one's name.
        version: of this grayctl, which need not be the daemon's.
        prefix: `consul.prefix`.
        nodes: every report that can be read; none when Consul could not be asked.
        damaged: the keys of those that cannot.
    """

    node: str = ""
    version: str = ""
    prefix: str = ""
    nodes: tuple[FleetNode, ...] = ()
    damaged: tuple[str, ...] = ()


def readable(fleet: Fleet) -> Iterator[Finding]:
    """Every report can be read."""
    for key in fleet.damaged:
        node = key.rpartition("/")[2]
        advice = f"consul kv delete {key}\n# then, on {node}, so that it reports again:\nsystemctl restart grayctl"
        yield UNREADABLE.found(f"{key} is no node report", how=How.RUN, advice=advice)


def versions(fleet: Fleet) -> Iterator[Finding]:
    """All nodes run one version."""
    runs: dict[str, list[FleetNode]] = {}
    for one in fleet.nodes:
        runs.setdefault(one.report.version, []).append(one)
    newest_first = sorted(runs, key=_age, reverse=True)
    if len(runs) == 1:
        yield ok("fleet", f"all {len(fleet.nodes)} nodes run grayctl {newest_first[0]}")
    elif runs:
        shown = "; ".join(f"{version} on {_named(runs[version])}" for version in newest_first)
        behind = [one for version in newest_first[1:] for one in runs[version]]
        yield MIXED.found(
            f"the fleet runs {len(runs)} versions of grayctl: {shown}",
            how=How.RUN,
            advice="\n".join(_upgrade(fleet, behind, newest_first[0])),
        )


def _age(version: str) -> tuple[list[int], bool, str]:
    """Sorts versions: by their numbers, and 1.0.0 after 1.0.0rc1."""
    release = re.match(r"[\d.]*", version)
    numbers = release[0] if release else ""
    return [int(one) for one in _NUMBER.findall(numbers)], version == numbers, version


def _named(nodes: list[FleetNode]) -> str:
    return ", ".join(one.report.node + ("" if one.live else " (silent)") for one in nodes)


def _upgrade(fleet: Fleet, behind: list[FleetNode], newest: str) -> Iterator[str]:
    live, silent = [one for one in behind if one.live], [one for one in behind if not one.live]
    for nodes, when in ((live, ""), (silent, ", should it come back")):
        if nodes:
            names = ", ".join(one.report.node for one in nodes)
            yield f"# on {names}{when}, in a checkout of grayctl {newest}:"
            yield "/opt/grayctl/bin/pip install . && systemctl restart grayctl"
    if silent:
        yield "# what is gone for good, and no more than that:"
        yield from (f"consul kv delete {fleet.prefix}/nodes/{one.report.node}" for one in silent)


def daemon(fleet: Fleet) -> Iterator[Finding]:
    """This node's daemon is of the version that is installed."""
    for one in fleet.nodes:
        if one.live and one.report.node == fleet.node and one.report.version != fleet.version:
            what = f"the daemon of {fleet.node} is grayctl {one.report.version}, this command is {fleet.version}"
            yield DAEMON.found(what, how=How.RUN, advice="systemctl restart grayctl")


JUDGES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (readable, versions, daemon)
