"""Where `nginx -t` runs: a mount namespace of its own, in which the candidate is bound over the current generation.

A thread enters the namespace and starts nginx, so that neither `unshare` nor a shell has to be spawned, and the
namespace is gone with thread and child: unshare(2), mount(2), FACTS.md ("staging").
"""

import ctypes
import io
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from grayctl.errors import NginxError

Overlay = tuple[Path, Path]
"""(candidate, place): show the directory `candidate` at `place` to nginx."""

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
# Large maps cost page faults by the thousand without the pad (FACTS.md, "cost of configuration"); a thousand services
# cost a quarter of theirs in huge pages, where the kernel has them. Another libc knows neither.
_MALLOC = {"MALLOC_TOP_PAD_": "33554432", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_OURS = ("CONSUL_", "GRAYCTL_", "NOTIFY_SOCKET", "WATCHDOG_")
_CHUNK = 1 << 16
# whoever started it may be killed: then it must not wait for ever
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(NginxError):
    """This process may not make a mount namespace: no CAP_SYS_ADMIN, or a sandbox forbids it."""


def namespace_allowed() -> bool:
    """Whether a private mount namespace can be had here: not without CAP_SYS_ADMIN, nor where `/` is no mount point."""
    allowed: list[bool] = []

    def attempt() -> None:
        try:
            leave_namespace()
        except NamespaceError:
            return
        allowed.append(True)

    thread = threading.Thread(target=attempt, name="namespace-probe")
    thread.start()
    thread.join()
    return allowed == [True]


def leave_namespace() -> None:
    """Give this thread a mount namespace of its own.

    Raises:
        NamespaceError: it may not have one.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise NamespaceError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    # slave: what the host mounts still arrives here, what is mounted here never leaves; without that, mount nothing
    if _libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        raise NamespaceError(f"no private mounts: {os.strerror(ctypes.get_errno())}")


def _show(overlay: Overlay) -> None:
    """In a namespace of our own: show the candidate at its place."""
    candidate, place = overlay
    if _libc.mount(os.fsencode(candidate), os.fsencode(place), None, _MS_BIND, None) != 0:
        raise NamespaceError(f"cannot bind {candidate} over {place}: {os.strerror(ctypes.get_errno())}")


def run(
    command: Sequence[str], timeout: float, overlay: Overlay | None, spawned: Callable[[], None]
) -> tuple[int | None, str]:
    """Run a command to its end; with an overlay, in a namespace that the calling thread is left in.

    Args:
        command: what to run.
        timeout: seconds; then it is killed, with all that it has started.
        overlay: what it shall see.
        spawned: called once it runs.

    Returns:
        Its exit code, None when it was killed for the time; and what it said on stderr.

    Raises:
        NamespaceError: with an overlay, where no mount namespace can be had.
        NginxError: it cannot be started.
    """
    if overlay is not None:
        leave_namespace()
        _show(overlay)
    with _memory() as said:
        child = _spawn(command, said)
        spawned()
        return _end(child, timeout, said)


class Spare:
    """The nginx of the next check, started ahead of it and held before it reads anything.

    Half of what a check of few services takes is the dynamic linker's (docs/benchmarks.md). nginx opens its error log
    first of all: here that is a named pipe, and who opens one for writing waits until somebody has it open for reading:
    fifo(7). It waits in a namespace of its own, where the candidate is bound before it goes on.

    Args:
        command: `nginx -t` with its options, without `-e`.
        gate: where to make the pipe; whatever is there goes.
    """

    def __init__(self, command: Sequence[str], gate: Path) -> None:
        self._command = list(command)
        self._identity = _identity(command[0])
        self._mounts = _Mounts()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._held: subprocess.Popen[bytes] | None = None
        self._gate = gate
        self._said: IO[bytes] = io.BytesIO()
        self._thread = threading.Thread(target=self._live, name="nginx-spare", daemon=True)
        self._thread.start()

    def fits(self, command: Sequence[str]) -> bool:
        """Whether it waits, and is what `command` would start now."""
        held = self._held
        return (
            held is not None
            and held.poll() is None
            and self._command == list(command)
            and self._identity == _identity(command[0])
            and not self._mounts.changed
        )

    def do(self, work: Callable[[], None]) -> None:
        """Have `work`, which calls `finish`, done in the thread that shares nginx's namespace; then the thread ends."""
        self._work.put(work)

    def finish(self, timeout: float, overlay: Overlay, spawned: Callable[[], None]) -> tuple[int | None, str]:
        """As `run`, from where nginx was held. An exit code below 0: it was killed, maybe while it waited."""
        assert self._held is not None  # noqa: S101 -- `fits` has said so
        _show(overlay)
        # from here on nginx does not wait; what it logs must not fill the pipe, or it would again
        log = os.open(self._gate, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            spawned()
            return _end(self._held, timeout, self._said, log)
        finally:
            os.close(log)

    def close(self) -> None:
        """End what waits, and what is under way."""
        self._work.put(None)
        if self._held is not None:
            _kill(self._held)
        self._thread.join()
        self._mounts.close()

    def _live(self) -> None:
        with ExitStack() as stack:
            try:
                leave_namespace()
                self._gate.unlink(missing_ok=True)
                os.mkfifo(self._gate, 0o600)
                stack.callback(self._gate.unlink, missing_ok=True)
                self._said = stack.enter_context(_memory())
                held = _spawn([*_ENDS_WITH_US, *self._command, "-e", str(self._gate)], self._said)
            except (NginxError, OSError):
                return  # then each check starts its own
            stack.callback(_kill, held)
            self._held = held
            work = self._work.get()
            if work is not None:
                work()


class _Mounts:
    """Whether anything was mounted or unmounted since; it need not reach a namespace that was made before: proc(5)."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)

    @property
    def changed(self) -> bool:
        return bool(self._poll.poll(0))

    def close(self) -> None:
        os.close(self._file)


def _memory() -> IO[bytes]:
    """A file and not a pipe: then the end of the child is all there is to wait for."""
    return os.fdopen(os.memfd_create("nginx-check"), "rb")


def _identity(program: str) -> tuple[int, int, int] | None:
    """Which file would be executed now."""
    try:
        found = Path(shutil.which(program) or program).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _spawn(command: Sequence[str], said: IO[bytes]) -> "subprocess.Popen[bytes]":
    try:
        # -t opens every log and resolves names as the master would; its own group, so that a hang is killed whole
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise NginxError(f"{command[0]}: cannot be started: {error.strerror}") from error


def _end(
    child: "subprocess.Popen[bytes]", timeout: float, said: IO[bytes], log: int | None = None
) -> tuple[int | None, str]:
    if not _ends_within(child.pid, timeout, log):
        _kill(child)
        return None, ""
    child.wait()
    said.seek(0)
    return child.returncode, said.read().decode(errors="replace")


def _kill(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        with suppress(ProcessLookupError):  # another thread was first
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _ends_within(pid: int, timeout: float, log: int | None) -> bool:
    """Whether a child ends in so many seconds. subprocess itself would look in growing pauses, of up to 50 ms."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if log is not None:
            poll.register(log, select.POLLIN)
        deadline = time.monotonic() + timeout
        while found := poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if any(one == descriptor for one, _ in found):
                return True
            if log is not None and not os.read(log, _CHUNK):
                poll.unregister(log)  # nobody has it open for writing any more
        return False
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """Our environment without what is ours alone: a token is no business of the modules that nginx -t loads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return {**kept, **_MALLOC}
