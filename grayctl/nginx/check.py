"""The staged check: `nginx -t` over a candidate, inside the user's own full configuration, live tree untouched.

In a private mount namespace the candidate is bound over the current generation, and `nginx -t` runs there
(FACTS.md, "staging"). A thread of its own enters the namespace and starts nginx, so that neither `unshare` nor
a shell has to be spawned, and the namespace is gone with thread and child: unshare(2), mount(2).
"""

import asyncio
import ctypes
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grayctl.errors import NginxError
from grayctl.nginx.inspect import Facts
from grayctl.settings import NginxSettings

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
# On a terminal and in a pipe nginx begins with its name, once error_log is open with a date and its pid.
_PROBLEM = re.compile(r"(?:nginx: |\S+ \S+ )\[(?:emerg|alert|crit)\] (?:\d+#\d+: )?(?P<text>.*)")
_WARNING = re.compile(r"(?:nginx: |\S+ \S+ )\[warn\] (?:\d+#\d+: )?(?P<text>.*)")
_PLACE = re.compile(r" in (?P<file>/.+):(?P<line>\d+)$")
# Large maps cost page faults by the thousand without it (FACTS.md, "cost of configuration").
_MALLOC = {"MALLOC_TOP_PAD_": "33554432"}

_OURS = ("CONSUL_", "GRAYCTL_", "NOTIFY_SOCKET", "WATCHDOG_")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Culprit:
    """Where nginx saw the error."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What `nginx -t` said.

    Attributes:
        messages: nginx's own words, without its prefix; never empty when it refused.
        seconds: how long it took.
        warnings: what nginx finds wrong and takes all the same.
    """

    ok: bool
    culprit: Culprit | None
    messages: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()


class NamespaceError(NginxError):
    """This process may not make a mount namespace: no CAP_SYS_ADMIN, or a sandbox forbids it."""


async def check(
    settings: NginxSettings,
    facts: Facts,
    overlay: tuple[Path, Path] | None,
    *,
    spawned: Callable[[], None] = lambda: None,
) -> Checked:
    """Run `nginx -t`.

    Args:
        settings: the binary, the configuration, the time it may take.
        facts: where nginx keeps its pid file.
        overlay: (candidate, place): show the directory `candidate` at `place` to nginx; None for the tree as it is.
        spawned: called in another thread once nginx runs.

    Raises:
        NamespaceError: with an overlay, where no mount namespace can be had.
        NginxError: nginx cannot be started.
    """
    command = [settings.binary, "-t", "-c", str(facts.conf)]
    if settings.prefix:
        command += ["-p", settings.prefix]
    pid_file_before = facts.pid_file.exists()
    began = time.monotonic()
    returncode, output = await _in_own_thread(lambda: _run(command, settings.check_timeout, overlay, spawned))
    seconds = time.monotonic() - began
    if not pid_file_before:
        _drop_empty(facts.pid_file)
    if returncode is None:
        return Checked(
            ok=False,
            culprit=None,
            messages=(f"nginx -t did not end within {settings.check_timeout:g} s and was killed",),
            seconds=seconds,
        )
    if returncode == 0 and (unseen := _unseen(facts)):
        return Checked(ok=False, culprit=None, messages=(unseen,), seconds=seconds)
    problems = [found["text"] for line in output.splitlines() if (found := _PROBLEM.match(line))]
    place = next((found for text in problems if (found := _PLACE.search(text))), None)
    return Checked(
        ok=returncode == 0,
        culprit=Culprit(place["file"], int(place["line"])) if place else None,
        messages=tuple(problems) if problems or returncode == 0 else (output.strip() or f"exit code {returncode}",),
        seconds=seconds,
        warnings=tuple(found["text"] for line in output.splitlines() if (found := _WARNING.match(line))),
    )


def _unseen(facts: Facts) -> str:
    """What `nginx -t` accepts and every new worker dies of; empty when there is nothing."""
    folder = facts.working_directory
    if folder is None or not folder.is_absolute() or folder.is_dir():
        return ""
    return (
        f'working_directory "{folder}" is no directory: `nginx -t` passes, but every worker of the next reload '
        f"would die. Make it (mkdir -p {folder}), or change {facts.conf}"
    )


def namespace_allowed() -> bool:
    """Whether a private mount namespace can be had here: not without CAP_SYS_ADMIN, nor where `/` is no mount point."""
    allowed: list[bool] = []

    def attempt() -> None:
        try:
            _leave_namespace()
        except NamespaceError:
            return
        allowed.append(True)

    thread = threading.Thread(target=attempt, name="namespace-probe")
    thread.start()
    thread.join()
    return allowed == [True]


def _run(
    command: list[str], timeout: float, overlay: tuple[Path, Path] | None, spawned: Callable[[], None]
) -> tuple[int | None, str]:
    if overlay is not None:
        _enter_namespace(*overlay)
    # a file and not a pipe: then the end of the child is all there is to wait for
    with os.fdopen(os.memfd_create("nginx-check"), "rb") as said:
        try:
            # -t opens every log and resolves names as the master would; its own group, so that a hang is killed whole
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise NginxError(f"{command[0]}: cannot be started: {error.strerror}") from error
        spawned()
        if not _ends_within(child.pid, timeout):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None, ""
        child.wait()
        said.seek(0)
        return child.returncode, said.read().decode(errors="replace")


def _ends_within(pid: int, timeout: float) -> bool:
    """Whether a child ends in so many seconds. subprocess itself would look in growing pauses, of up to 50 ms."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """Our environment without what is ours alone: a token is no business of the modules that nginx -t loads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return {**kept, **_MALLOC}


def _leave_namespace() -> None:
    """Give this thread a mount namespace of its own."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise NamespaceError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    # slave: what the host mounts still arrives here, what is mounted here never leaves; without that, mount nothing
    if _libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        raise NamespaceError(f"no private mounts: {os.strerror(ctypes.get_errno())}")


def _enter_namespace(candidate: Path, place: Path) -> None:
    """Leave the namespace of the process, for this thread alone, and show `candidate` at `place`."""
    _leave_namespace()
    if _libc.mount(os.fsencode(candidate), os.fsencode(place), None, _MS_BIND, None) != 0:
        raise NamespaceError(f"cannot bind {candidate} over {place}: {os.strerror(ctypes.get_errno())}")


async def _in_own_thread(work: Callable[[], tuple[int | None, str]]) -> tuple[int | None, str]:
    """Run `work` in a thread that ends with it: a pooled one would stay in the namespace."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[int | None, str]] = loop.create_future()

    def settle(result: tuple[int | None, str] | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def body() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 -- it is raised again where it is awaited; lost here, that would hang
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=body, name="nginx-check", daemon=True).start()
    return await future


def _drop_empty(pid_file: Path) -> None:
    """`nginx -t` leaves an empty pid file where nginx does not run; a later start script would trip over it."""
    try:
        if pid_file.stat().st_size == 0:
            pid_file.unlink()
    except FileNotFoundError:
        return
