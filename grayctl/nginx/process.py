"""The nginx process: who its master is, who its workers are, and a signal that can reach nobody else."""

import os
import shlex
import signal
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from grayctl.errors import NginxError
from grayctl.nginx.inspect import Facts

_PROC = Path("/proc")
_MASTER_TITLE = "nginx: master process "
_WORKER_TITLE = "nginx: worker process"
_LEAVING = "is shutting down"
_STAT_START_TIME = 19  # field 22 of proc(5) stat, counted after the command's closing parenthesis
_STAT_PARENT = 1
_SUSPENDED, _DEAD = frozenset("Tt"), frozenset("ZX")
_PAGE = 1 << 16


@dataclass(frozen=True, slots=True)
class Master:
    """A proven master: a pid alone may be anybody's by the time it is used."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process of a master.

    Attributes:
        leaving: it is shutting down.
        suspended: a signal or a debugger stopped it: it takes no request, and reads first thing that it shall leave.
    """

    pid: int
    start_time: int
    leaving: bool
    suspended: bool = False


def find_master(facts: Facts, proven: Master | None = None) -> Master | None:
    """The running master of this nginx: by pid file, proven by executable, command line and start time.

    Args:
        facts: of this nginx.
        proven: found earlier with these very facts; the same process need not be proven again.
    """
    try:
        pid = int(_read(str(facts.pid_file)).strip())
    except (OSError, ValueError):
        return None
    start = start_time(pid)
    if start is None:
        return None
    found = Master(pid, start)
    if found == proven:
        return found
    return found if _is_ours(pid, facts) and is_alive(found) else None  # what was judged is what had this start time


def hidden_master(pid_file: Path) -> int | None:
    """The pid in a pid file, when it calls itself nginx's master and we may not look whether it is."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    try:
        (_PROC / f"{pid}/exe").readlink()
    except PermissionError:
        return pid if _title(pid).startswith(_MASTER_TITLE) else None
    except OSError:
        return None
    return None


def is_alive(master: Master) -> bool:
    """Whether this very process still runs."""
    return start_time(master.pid) == master.start_time


def is_suspended(pid: int) -> bool:
    """Whether a signal (SIGSTOP) or a debugger stopped this process."""
    fields = _stat(pid)
    return fields is not None and fields[0] in _SUSPENDED


def suspended(master: Master) -> str:
    """What to say of a suspended master; empty when it is none."""
    if not is_suspended(master.pid):
        return ""
    return f"nginx's master (pid {master.pid}) is suspended and takes no signal. Resume it: kill -CONT {master.pid}"


def demand_reachable(master: Master | None, pid_file: Path) -> None:
    """Look whether what was found could be signalled and proven now.

    Raises:
        NginxError: the master is suspended, and would take a signal some time later; or what calls itself the master
            cannot be told from a stranger.
    """
    if master is not None and (words := suspended(master)):
        raise NginxError(words)
    if master is None and (pid := hidden_master(pid_file)) is not None:
        raise NginxError(
            f"pid {pid} may be nginx's master, which /proc/{pid}/exe would tell, and grayctl may not read it. Run "
            "grayctl as root, with CAP_SYS_PTRACE where its capabilities are bounded (as in grayctl.service)"
        )


def start_time(pid: int) -> int | None:
    """A process's start time in clock ticks since boot; None when there is no such process, or it is a zombie."""
    fields = _stat(pid)
    return None if fields is None else _started(fields)


def workers(master: Master) -> list[Worker]:
    """The workers of a master, those that are shutting down included; cache helpers are none."""
    found = []
    for pid in _children(master.pid):
        title, fields = _title(pid), _stat(pid)
        start = _started(fields) if fields else None
        if title.startswith(_WORKER_TITLE) and fields and start is not None:
            found.append(Worker(pid, start, _LEAVING in title, fields[0] in _SUSPENDED))
    return found


def orphans(facts: Facts) -> list[int]:
    """Workers of this nginx whose master is dead: they may hold its ports. To be reported, never signalled."""
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or not _title(int(entry.name)).startswith(_WORKER_TITLE):
            continue
        fields = _stat(int(entry.name))
        parent = int(fields[_STAT_PARENT]) if fields else 0
        if fields and not _title(parent).startswith(_MASTER_TITLE) and _executable(int(entry.name)) == facts.binary:
            found.append(int(entry.name))
    return found


def hang_up(master: Master) -> bool:
    """Send SIGHUP to exactly this process (pidfd_send_signal(2)); False when it is gone.

    Raises:
        NginxError: this process may not signal nginx.
    """
    try:
        descriptor = os.pidfd_open(master.pid)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise NginxError(f"cannot reach nginx (pid {master.pid}) for a signal: {error.strerror}") from error
    try:
        # the descriptor holds whoever has the pid now; the start time tells whether that is still our master
        if not is_alive(master):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise NginxError(f"may not signal nginx (pid {master.pid}): run grayctl as the user of its master") from error
    finally:
        os.close(descriptor)
    return True


def _is_ours(pid: int, facts: Facts) -> bool:
    title = _title(pid)
    if not title.startswith(_MASTER_TITLE) or not (facts.is_script or _executable(pid) == facts.binary):
        return False
    return _conf_of(title.removeprefix(_MASTER_TITLE), facts).resolve() == facts.conf.resolve()


def _conf_of(command: str, facts: Facts) -> Path:
    """The configuration that a master's command line names; the compiled default where it names none."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    # getopt's two spellings: `-c FILE` and `-cFILE`; the values of -g and -e are skipped like any other word
    given = dict(pairwise(words)) | {word[:2]: word[2:] for word in words if word[:2] in {"-c", "-p"} and word[2:]}
    conf = given.get("-c")
    return Path(given.get("-p", facts.prefix)) / conf if conf else facts.default_conf


def _children(pid: int) -> list[int]:
    try:
        listed = _read(f"{_PROC}/{pid}/task/{pid}/children")
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN, or no such process
        return [
            int(entry.name)
            for entry in _PROC.iterdir()
            if entry.name.isdigit() and (fields := _stat(int(entry.name))) and int(fields[_STAT_PARENT]) == pid
        ]
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def _started(fields: list[str]) -> int | None:
    return None if fields[0] in _DEAD else int(fields[_STAT_START_TIME])


def _read(path: str) -> str:
    """A small file, whole. A proof reads dozens of them, and pathlib takes three times as long.

    Raises:
        OSError: there is no such process, or no such file.
    """
    content = b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(descriptor, _PAGE):
            content += chunk
    finally:
        os.close(descriptor)
    return content.decode("utf-8", "replace")


def _stat(pid: int) -> list[str] | None:
    try:
        return _read(f"{_PROC}/{pid}/stat").rpartition(") ")[2].split()
    except OSError:
        return None


def _title(pid: int) -> str:
    try:
        return _read(f"{_PROC}/{pid}/cmdline").replace("\0", " ").strip()
    except OSError:
        return ""


def _executable(pid: int) -> Path | None:
    """A process's executable; one that a package upgrade has replaced counts under its old name."""
    try:
        return Path(str((_PROC / f"{pid}/exe").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return None
