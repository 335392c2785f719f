"""What is true of this machine: ports and who holds them, permissions, limits, SELinux, AppArmor.

This looks and never judges.
"""

import contextlib
import os
import re
import socket
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from grayctl.nginx.staging import namespace_allowed
from grayctl.settings import Settings

_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNITS = (
    "etc/systemd/system/nginx.service",
    "etc/systemd/system/nginx.service.d",
    "usr/lib/systemd/system/nginx.service",
    "lib/systemd/system/nginx.service",
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket, and the processes that hold it; none where this user may not see them."""

    address: str
    port: int
    holders: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A file or directory as stat shows it."""

    path: Path
    uid: int
    gid: int
    mode: int

    def others_may(self, bit: int) -> bool:
        """Whether others than owner and group have the right: 4 to read, 2 to write, 1 to enter."""
        return bool(self.mode & bit)

    @property
    def is_sticky(self) -> bool:
        """Whether only owners may rename and delete in it, as in /tmp."""
        return bool(self.mode & stat.S_ISVTX)


@dataclass(frozen=True, slots=True)
class Process:
    """Who a process runs as. `rights` are its effective capabilities, as a bit mask."""

    pid: int
    uid: int
    rights: int = 0

    def has(self, capability: int) -> bool:
        """Whether it has a capability, by its number in capabilities(7)."""
        return bool(self.rights >> capability & 1)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine.

    Attributes:
        settings: what is looked at.
        us: this process.
        master: nginx's, when it runs.
        daemon: the pid of the grayctl that holds `state_dir`.
        answers: whether a daemon answers on the control socket.
        marker: what the marker answers; empty when it does not.
        listeners: every TCP listener.
        state_dirs: `state_dir` and what it stands in, from the root down, as far as it is there.
        writable: whether this process may write `state_dir`, or make it.
        control_dir: the control socket's directory, when it is there.
        control_writable: whether this process may write or make that.
        token: the token file, when it is there.
        open_files: how many descriptors the daemon may have, or this process when none runs.
        namespace: whether a private mount namespace can be had.
        selinux: enforcing, permissive or empty.
        label: the SELinux label of `state_dir`.
        may_connect: whether SELinux lets nginx connect to instances.
        apparmor: the enforced profiles that look like nginx's.
        apparmor_text: what those profiles say.
        unit: nginx's systemd unit, with its drop-ins.
    """

    settings: Settings
    us: Process
    master: Process | None = None
    daemon: int | None = None
    answers: bool = False
    marker: str = ""
    listeners: tuple[Listener, ...] = ()
    state_dirs: tuple[Node, ...] = ()
    writable: bool = True
    control_dir: Node | None = None
    control_writable: bool = True
    token: Node | None = None
    open_files: int = 1 << 20
    namespace: bool = True
    selinux: str = ""
    label: str = ""
    may_connect: bool = True
    apparmor: tuple[str, ...] = ()
    apparmor_text: str = field(default="", repr=False)
    unit: str = field(default="", repr=False)


def look(settings: Settings, *, master: int | None, marker: str, answers: bool, root: Path = Path("/")) -> Machine:
    """Look at the machine.

    Args:
        settings: which ports and directories.
        master: the pid of nginx's master, when it runs.
        marker: what the marker answers; empty when it does not.
        answers: whether a daemon answers on the control socket.
        root: stands before /proc, /sys and /etc.
    """
    state_dir, control = Path(settings.state_dir), Path(settings.control.socket).parent
    label = _label(state_dir)
    apparmor = _apparmor(root)
    daemon = holder(state_dir / "lock", root)
    return Machine(
        settings=settings,
        us=_process(root, os.getpid()) or Process(os.getpid(), os.geteuid()),
        master=_process(root, master) if master else None,
        daemon=daemon,
        answers=answers,
        marker=marker,
        listeners=listeners(root),
        state_dirs=tuple(node for path in (*reversed(state_dir.parents), state_dir) if (node := _node(path))),
        writable=_may_write(state_dir),
        control_dir=_node(control),
        control_writable=_may_write(control),
        token=_node(Path(settings.consul.token_file)) if settings.consul.token_file else None,
        open_files=_open_files(root, daemon or os.getpid()),
        namespace=namespace_allowed(),
        selinux={"1": "enforcing", "0": "permissive"}.get(_text(root / "sys/fs/selinux/enforce").strip(), ""),
        label=label,
        may_connect=not _text(root / "sys/fs/selinux/booleans/httpd_can_network_connect").startswith("0"),
        apparmor=apparmor,
        apparmor_text=_profiles(root) if apparmor else "",
        unit="\n".join(_text(path) for name in _UNITS for path in _unit_files(root / name)),
    )


def listeners(root: Path = Path("/")) -> tuple[Listener, ...]:
    """Every TCP listener and who holds it: proc(5), /proc/net/tcp and the descriptors of all processes."""
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for row in _text(root / "proc/net" / name).splitlines()[1:]:
            fields = row.split()
            if fields[3] == _LISTENING:
                raw, _, port = fields[1].partition(":")
                found.append((_address(raw, family), int(port, 16), fields[9]))
    holders = _holders(root, {inode for _, _, inode in found})
    return tuple(Listener(address, port, tuple(sorted(holders.get(inode, ())))) for address, port, inode in found)


def _address(raw: str, family: socket.AddressFamily) -> str:
    """An address as the kernel prints it: 32-bit words in the machine's own order."""
    words = [int(raw[start : start + 8], 16) for start in range(0, len(raw), 8)]
    return socket.inet_ntop(family, b"".join(word.to_bytes(4, sys.byteorder) for word in words))


def _holders(root: Path, inodes: Iterable[str]) -> dict[str, set[tuple[int, str]]]:
    wanted, found = set(inodes), dict[str, set[tuple[int, str]]]()
    for process in (root / "proc").iterdir():
        if process.name.isdigit():
            for inode in wanted & _sockets(process):
                found.setdefault(inode, set()).add((int(process.name), _text(process / "comm").strip()))
    return found


def _sockets(process: Path) -> set[str]:
    """The inodes of a process's sockets."""
    return {match[1] for link in _opened(process) if (match := _SOCKET.match(link))}


def _opened(process: Path) -> set[str]:
    """What a process has open; nothing when it has ended, or is not ours to look into."""
    found = set()
    with contextlib.suppress(OSError):
        for one in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                found.add(str(one.readlink()))
    return found


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open, removed or not."""
    return bool(_opened(Path(f"/proc/{pid}")) & {str(path), f"{path} (deleted)"})


def _process(root: Path, pid: int) -> Process | None:
    fields = dict(row.split(":", 1) for row in _text(root / f"proc/{pid}/status").splitlines() if ":" in row)
    if "Uid" not in fields:
        return None
    return Process(pid, int(fields["Uid"].split()[1]), int(fields.get("CapEff", "0"), 16))


def holder(lock: Path, root: Path = Path("/")) -> int | None:
    """The pid that holds a lock file (flock(2)), read from /proc/locks: to try would disturb who starts now."""
    try:
        inode, pid = str(lock.stat().st_ino), lock.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    for row in _text(root / "proc/locks").splitlines():
        fields = row.split()
        if "FLOCK" in fields and pid in fields and any(one.endswith(f":{inode}") for one in fields):
            return int(pid)
    return None


def _open_files(root: Path, pid: int) -> int:
    found = re.search(r"^Max open files\s+(\d+)", _text(root / f"proc/{pid}/limits"), re.MULTILINE)
    return int(found[1]) if found else 1 << 20  # unlimited, or not ours to look at


def mode(path: Path) -> int:
    """The mode as stat shows it, with the kind of file; 0 when it is not there or not ours to see."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _node(path: Path) -> Node | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Node(path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def _may_write(path: Path) -> bool:
    """Whether this process may write to a directory, or make it in the nearest one that is there."""
    there = next((one for one in (path, *path.parents) if mode(one)), Path("/"))
    return os.access(there, os.W_OK | os.X_OK)


def _label(path: Path) -> str:
    try:
        return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()
    except OSError:  # no such directory, or a file system without labels
        return ""


def _apparmor(root: Path) -> tuple[str, ...]:
    rows = _text(root / "sys/kernel/security/apparmor/profiles").splitlines()
    return tuple(row.removesuffix(" (enforce)") for row in rows if "nginx" in row and row.endswith(" (enforce)"))


def _profiles(root: Path) -> str:
    folder = root / "etc/apparmor.d"
    return "\n".join(_text(path) for path in sorted(folder.glob("**/*nginx*")) if path.is_file())


def _unit_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.conf")) if path.is_dir() else [path]


def _text(path: Path) -> str:
    """A file of /proc, /sys or /etc; empty when it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
