"""Who may do what: the state directory, the control socket, the token, signals, namespaces, descriptors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from pwd import getpwuid

from grayctl.advice.finding import Finding, How, Level, Rule, ok, unit
from grayctl.advice.machine import Machine, Node

OTHERS_WRITE = Rule(
    "state-dir-writable-by-others",
    Level.FAILURE,
    "permissions",
    "whoever can write there can put directives into what nginx runs as root",
)
UNWRITABLE = Rule("state-dir-unwritable", Level.FAILURE, "permissions", "no generation can be written")
UNREADABLE = Rule(
    "state-dir-unreadable",
    Level.FAILURE,
    "permissions",
    "nginx's master reads the generations at every reload, as its own user",
)
CONTROL_DIR = Rule(
    "control-socket-dir", Level.FAILURE, "permissions", "commands reach the daemon through a socket in that directory"
)
CONTROL_PATH = Rule(
    "control-socket-path", Level.FAILURE, "permissions", "the path of a unix socket ends after 107 bytes: unix(7)"
)
TOKEN_FILE = Rule(
    "token-file-readable", Level.WARNING, "permissions", "every user of this machine can act on Consul with the token"
)
SIGNAL = Rule(
    "signal-denied", Level.FAILURE, "permissions", "nginx could not be reloaded: every change would be rolled back"
)
NAMESPACE = Rule(
    "no-mount-namespace",
    Level.WARNING,
    "permissions",
    "candidates are checked by flipping them in, testing, and flipping back: a reload by hand in between serves one",
)
OPEN_FILES = Rule(
    "open-files-low",
    Level.WARNING,
    "permissions",
    "each long poll takes a descriptor; without one Consul cannot be asked and nothing can be written",
)
ELSEWHERE = Rule(
    "daemon-elsewhere",
    Level.WARNING,
    "daemon",
    "commands with these settings do not reach it, and a second daemon on one state directory ends at once",
)

_CAP_KILL = 5
_OTHERS_WRITE, _ANYBODY, _GROUP, _ENTER = 0o022, 0o002, 0o020, 1
_SUN_PATH = 107
_MARGIN = 8 + 128  # the short calls; templates, generations, scrapes, nginx -t


def state_dir(machine: Machine) -> Iterator[Finding]:
    """The state directory belongs to grayctl alone, and nginx's master can read it."""
    root = Path(machine.settings.state_dir)
    for node in machine.state_dirs:
        if _open_to_others(node, is_root=node.path == root):
            yield OTHERS_WRITE.found(
                f"{node.path} can be written by others than its owner",
                how=How.RUN,
                advice=f"chmod go-w {node.path}",
                where=str(node.path),
            )
        if node.uid not in {0, machine.us.uid}:
            yield OTHERS_WRITE.found(
                f"{node.path} belongs to {_user(node.uid)}",
                how=How.RUN,
                advice=f"chown {_user(machine.us.uid)} {node.path}",
                where=str(node.path),
            )
        if machine.master is not None and not _enters(machine, node):
            yield UNREADABLE.found(
                f"{node.path} is closed to {_user(machine.master.uid)}, who nginx's master runs as",
                how=How.RUN,
                advice=f"chmod o+rx {node.path}",
                where=str(node.path),
            )
    if not machine.writable:
        yield UNWRITABLE.found(
            f"{_user(machine.us.uid)} may not write {root}",
            how=How.RUN,
            advice=f"install -d -m 0755 -o {_user(machine.us.uid)} {root}",
            where=str(root),
        )


def _open_to_others(node: Node, *, is_root: bool) -> bool:
    """Whether others may write: above `state_dir` a sticky directory and root's own group are harmless."""
    if is_root:
        return bool(node.mode & _OTHERS_WRITE)
    if node.is_sticky:
        return False
    return bool(node.mode & _ANYBODY) or (bool(node.mode & _GROUP) and node.gid != 0)


def _enters(machine: Machine, node: Node) -> bool:
    """Whether nginx's master can pass; groups are not followed, since nginx drops to those of its user."""
    master = machine.master
    return master is None or master.uid in {0, node.uid} or node.others_may(_ENTER)


def control(machine: Machine) -> Iterator[Finding]:
    """Whether the daemon can make its socket, and nobody else can in its place."""
    path = machine.settings.control.socket
    folder = Path(path).parent
    if len(path.encode()) > _SUN_PATH:
        yield CONTROL_PATH.found(
            f"control.socket: {path} has {len(path.encode())} bytes",
            how=How.SETTINGS,
            advice='[control]\nsocket = "/run/grayctl/control.sock"',
        )
    if not machine.control_writable:
        what = f"{_user(machine.us.uid)} may not write {folder}"
        advice = f"install -d -m 0755 -o {_user(machine.us.uid)} {folder}"
        yield CONTROL_DIR.found(what, how=How.RUN, advice=advice, where=str(folder))
    node = machine.control_dir
    if node is not None and node.others_may(2) and not node.is_sticky:
        what = f"{folder} can be written by everybody, who could listen in the daemon's place"
        yield CONTROL_DIR.found(what, how=How.RUN, advice=f"chmod o-w {folder}", where=str(folder))


def token(machine: Machine) -> Iterator[Finding]:
    """The token is not everybody's."""
    node = machine.token
    if node is not None and node.mode & 0o007:
        what = f"consul.token_file: {node.path} can be read by everybody"
        yield TOKEN_FILE.found(what, how=How.RUN, advice=f"chmod o-rwx {node.path}", where=str(node.path))


def rights(machine: Machine) -> Iterator[Finding]:
    """Whether we may signal nginx, and check without touching the live tree."""
    us, master = machine.us, machine.master
    if master is not None and master.uid != us.uid and not us.has(_CAP_KILL):
        what = f"{_user(us.uid)} may not signal nginx (pid {master.pid}), whose master is {_user(master.uid)}'s"
        yield SIGNAL.found(what, how=How.UNIT, advice=unit("grayctl", f"User={_user(master.uid)}"))
    if machine.namespace:
        yield ok("permissions", "candidates are checked in a private mount namespace")
    else:
        yield NAMESPACE.found(
            "no private mount namespace can be had: no CAP_SYS_ADMIN, or a sandbox forbids it",
            how=How.UNIT,
            advice=unit("grayctl", "AmbientCapabilities=CAP_SYS_ADMIN", "RestrictNamespaces=mnt"),
        )


def descriptors(machine: Machine) -> Iterator[Finding]:
    """Whether the daemon may open what its long polls need."""
    needed = machine.settings.watch.max_long_polls + _MARGIN
    if machine.open_files < needed:
        yield OPEN_FILES.found(
            f"{machine.open_files} open files are allowed, {needed} are needed for "
            f"watch.max_long_polls = {machine.settings.watch.max_long_polls}",
            how=How.UNIT,
            advice=unit("grayctl", f"LimitNOFILE={max(4096, 2 * needed)}"),
        )


def daemon(machine: Machine) -> Iterator[Finding]:
    """Whether a daemon runs, and these settings are its own."""
    pid, socket = machine.daemon, machine.settings.control.socket
    if pid is not None and not machine.answers:
        yield ELSEWHERE.found(
            f"pid {pid} holds {machine.settings.state_dir}, and nothing answers on {socket}",
            how=How.DO,
            advice="use the settings that it was started with, or give these a state_dir of their own",
        )
    else:
        yield ok("daemon", "one runs" + (f", pid {pid}" if pid else "") if machine.answers else "none runs")


def _user(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


JUDGES: tuple[Callable[[Machine], Iterator[Finding]], ...] = (state_dir, control, token, rights, descriptors, daemon)
