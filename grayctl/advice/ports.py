"""The ports that belong to grayctl: the marker and the refusals in nginx, the metrics in the daemon."""

from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule, ok
from grayctl.advice.machine import Listener, Machine
from grayctl.settings import listen_address

TAKEN = Rule(
    "port-taken",
    Level.FAILURE,
    "ports",
    "nginx could not listen there, so every change would be refused or rolled back",
)
METRICS_TAKEN = Rule(
    "metrics-port-taken", Level.WARNING, "ports", "there are no metrics until it is free; the daemon tries every 10 s"
)

_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 -- compared with, not bound
_LAST_PORT = 65535


def ports(machine: Machine) -> Iterator[Finding]:
    """Who listens on our ports and is neither our nginx nor our daemon."""
    settings = machine.settings
    nginx = machine.master.pid if machine.master else None
    clashes = 0
    for rule, key, value, count, rightful in (
        (TAKEN, "nginx.marker", settings.nginx.marker, 1, nginx),
        (TAKEN, "nginx.refuse", settings.nginx.refuse, 4, nginx),
        (METRICS_TAKEN, "metrics.listen", settings.metrics.listen, 1, machine.daemon),
    ):
        if machine.marker and rightful is None and rule is TAKEN:
            continue  # a generation answers: it is an nginx of grayctl's, only its master is not ours to see
        host, first = listen_address(value)
        strangers = [
            one
            for one in machine.listeners
            if first <= one.port < first + count and _same(one, host) and not _held_by(one, rightful)
        ]
        for one in strangers:
            clashes += 1
            section, _, name = key.partition(".")
            line = f'[{section}]\n{name} = "{_shown(host)}:{_free(machine, first, count)}"'
            what = f"{key}: {_shown(host)}:{one.port} is held by {_who(one)}"
            yield rule.found(what, how=How.SETTINGS, advice=line)
    if machine.marker:
        yield ok("ports", f"the marker answers on {settings.nginx.marker}: {machine.marker}")
    elif not clashes:
        yield ok("ports", "the marker's, the refusals' and the metrics' ports are free")


def _same(one: Listener, host: str) -> bool:
    return one.address == host or one.address in _EVERYWHERE


def _held_by(one: Listener, pid: int | None) -> bool:
    return pid is not None and any(holder == pid for holder, _ in one.holders)


def _who(one: Listener) -> str:
    if not one.holders:
        return "a process that only root can see"
    pid, name = one.holders[0]
    return f"{name} (pid {pid})"


def _free(machine: Machine, first: int, count: int) -> int:
    """The next block of ports above, that nobody listens on and no setting names."""
    settings = machine.settings
    taken = {one.port for one in machine.listeners}
    for value, size in ((settings.nginx.marker, 1), (settings.nginx.refuse, 4), (settings.metrics.listen, 1)):
        start = listen_address(value)[1]
        taken |= set(range(start, start + size))
    candidates = (port for port in range(first, _LAST_PORT - count) if not taken & set(range(port, port + count)))
    return next(candidates, first)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


JUDGES: tuple[Callable[[Machine], Iterator[Finding]], ...] = (ports,)
