"""How the user's nginx runs: its processes, its files, its listeners, its connections."""

from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule, unit
from grayctl.advice.view import View, in_main
from grayctl.nginx.inspect import is_no_file
from grayctl.settings import listen_address

SHUTDOWN_TIMEOUT = Rule(
    "worker-shutdown-timeout",
    Level.WARNING,
    "nginx",
    "one long stream keeps an old worker after a reload for as long as it lasts, and many reloads keep many",
)
NO_MASTER = Rule(
    "master-process-off",
    Level.FAILURE,
    "nginx",
    "without a master nginx cannot reload: no change would ever be served",
)
WORKING_DIRECTORY = Rule(
    "working-directory-missing",
    Level.FAILURE,
    "nginx",
    "nginx -t and the reload succeed, then every worker dies: a total outage",
)
ERROR_LOG = Rule(
    "error-log-no-file",
    Level.WARNING,
    "nginx",
    "a refused reload is read from the error log; without a file it is known by time-out only",
)
PID_FILE = Rule("pid-file-unusable", Level.FAILURE, "nginx", "the master is found by its pid file")
OPEN_FILES = Rule(
    "worker-files-low",
    Level.WARNING,
    "nginx",
    "a proxied request takes two descriptors; without one nginx answers 500",
)
CONNECTIONS = Rule(
    "worker-connections-low",
    Level.WARNING,
    "nginx",
    "idle connections to instances count too; when a worker has none left it refuses requests",
)
UNIX_LISTENER = Rule(
    "unix-listener",
    Level.WARNING,
    "nginx",
    "a killed nginx leaves the socket, nginx -t passes, and the next start fails",
)
PCRE_JIT = Rule(
    "pcre-jit-off",
    Level.WARNING,
    "nginx",
    "without it nginx interprets the patterns of policies anew for each request, which costs a multiple",
)
LISTEN_CLASH = Rule(
    "listen-clash",
    Level.FAILURE,
    "ports",
    "requests for grayctl would reach that server, or grayctl could not listen",
)

_CONNECTIONS = 512  # nginx's default
_NAMED = 3  # services that a finding names
_METRICS = "metrics.listen"
_WILDCARDS = {"", "*", "0.0.0.0"}  # noqa: S104 -- compared with, not bound


def processes(view: View) -> Iterator[Finding]:
    """Whether reloads work, and end."""
    main = view.tree.main
    if not main.own("worker_shutdown_timeout"):
        what = f"{main.file} sets no worker_shutdown_timeout"
        yield SHUTDOWN_TIMEOUT.found(what, how=How.APPEND, advice="worker_shutdown_timeout 5m;", where=main.file)
    for one in main.own("master_process"):
        if one.first == "off":
            yield NO_MASTER.found(one.text, how=How.REPLACE, advice="master_process on;", where=one.where)


def files(view: View) -> Iterator[Finding]:
    """Whether the files that nginx writes, and its directory, are of use."""
    main, nginx = view.tree.main, view.settings.nginx
    for one in main.own("working_directory"):
        if one.first in view.missing:
            what = f"working_directory {one.first} is not there"
            yield WORKING_DIRECTORY.found(what, how=How.RUN, advice=f"mkdir -p {one.first}", where=one.where)
    logs = main.own("error_log")
    if logs and not nginx.error_log and all(is_no_file(one.first) for one in logs):
        what = f"{logs[-1].text} writes to no file"
        advice = "error_log /var/log/nginx/error.log;"
        yield ERROR_LOG.found(what, how=How.BESIDE, advice=advice, where=logs[-1].where)
    pid = main.last("pid")
    if pid and not nginx.pid_file and pid in view.odd_files:
        how, at, advice = in_main(view, "pid", "pid /run/nginx.pid;")
        yield PID_FILE.found(f"pid {pid} is no regular file", how=how, advice=advice, where=at)


def connections(view: View) -> Iterator[Finding]:
    """Whether a worker may have as many connections as its configuration makes it hold."""
    events = next(iter(view.tree.main.own("events")), None)
    given = events.own("worker_connections") if events else ()
    allowed = int(given[-1].first) if given and given[-1].first.isdigit() else _CONNECTIONS
    limit = view.tree.main.last("worker_rlimit_nofile")
    if limit.isdigit() and int(limit) < allowed:
        how, at, advice = in_main(view, "worker_rlimit_nofile", f"worker_rlimit_nofile {2 * allowed};")
        what = f"worker_rlimit_nofile {limit} is less than {allowed} worker_connections"
        yield OPEN_FILES.found(what, how=how, advice=advice, where=at)
    reached = {route.id for route in view.routes()}
    idle = sum(view.settings.service(view.names.get(name, name)).keepalive for name in reached)
    if idle >= allowed and events:
        what = f"{allowed} worker_connections, and up to {idle} idle ones to {len(reached)} services"
        advice = f"worker_connections {1 << (2 * idle).bit_length()};"
        how, at = (How.REPLACE, given[-1].where) if given else (How.INSIDE, events.where)
        yield CONNECTIONS.found(what, how=how, advice=advice, where=at)


def listeners(view: View) -> Iterator[Finding]:
    """Sockets that a killed nginx leaves, and ports that are grayctl's."""
    ours = _ours(view)
    for placed in view.tree.walk():
        one = placed.directive
        if one.name != "listen" or placed.context != "server":
            continue
        path = one.first.removeprefix("unix:")
        if path != one.first:
            if f"rm -f {path}" not in view.unit:
                advice = unit("nginx", f"ExecStartPre=/bin/rm -f {path}")
                yield UNIX_LISTENER.found(one.text, how=How.UNIT, advice=advice, where=one.where)
            continue
        for key, (address, first, count) in ours.items():
            if _clashes(one.first, address, range(first, first + count), wildcard=key == _METRICS):
                yield LISTEN_CLASH.found(
                    f"{one.text} takes a port of {key}",
                    how=How.DO,
                    advice=f"let that server, or {key} in the settings, listen on another port",
                    where=one.where,
                )


def _clashes(listen: str, address: str, ports: range, *, wildcard: bool) -> bool:
    """Whether a server's listen takes one of our ports; nginx itself keeps a wildcard and an address apart."""
    host, _, port = listen.rpartition(":") if not listen.endswith("]") else (listen, ":", "80")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    return port.isdigit() and int(port) in ports and (host == address or (wildcard and host in _WILDCARDS))


def _ours(view: View) -> dict[str, tuple[str, int, int]]:
    """Setting -> address, first port, number of ports."""
    settings = view.settings
    given = (
        ("nginx.marker", settings.nginx.marker, 1),
        ("nginx.refuse", settings.nginx.refuse, 4),
        (_METRICS, settings.metrics.listen, 1),
    )
    return {key: (*listen_address(value), count) for key, value, count in given}


def patterns(view: View) -> Iterator[Finding]:
    """Whether patterns are compiled to machine code."""
    if view.patterned and view.tree.main.last("pcre_jit") != "on":
        services = ", ".join(sorted(view.patterned)[:_NAMED])
        more = f" and {len(view.patterned) - _NAMED} more" if len(view.patterned) > _NAMED else ""
        how, at, advice = in_main(view, "pcre_jit", "pcre_jit on;")
        what = f"pcre_jit is off, and there are patterns in the policies of {services}{more}"
        yield PCRE_JIT.found(what, how=how, advice=advice, where=at)


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (processes, files, connections, listeners, patterns)
