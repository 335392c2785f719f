"""The staged check: `nginx -t` over a candidate, inside the user's own full configuration, live tree untouched."""

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grayctl.nginx.inspect import Facts
from grayctl.nginx.staging import Overlay, Spare, run
from grayctl.settings import NginxSettings

# On a terminal and in a pipe nginx begins with its name, once error_log is open with a date and its pid.
_PROBLEM = re.compile(r"(?:nginx: |\S+ \S+ )\[(?:emerg|alert|crit)\] (?:\d+#\d+: )?(?P<text>.*)")
_WARNING = re.compile(r"(?:nginx: |\S+ \S+ )\[warn\] (?:\d+#\d+: )?(?P<text>.*)")
_KILLED = -int(signal.SIGKILL)
_PLACE = re.compile(r" in (?P<file>/.+):(?P<line>\d+)$")


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


async def check(
    settings: NginxSettings,
    facts: Facts,
    overlay: Overlay | None,
    *,
    spare: Spare | None = None,
    spawned: Callable[[], None] = lambda: None,
) -> Checked:
    """Run `nginx -t`.

    Args:
        settings: the binary, the configuration, the time it may take.
        facts: where nginx keeps its pid file.
        overlay: what nginx shall see in the place of what stands; None for the tree as it is.
        spare: an nginx that waits for this check, and is closed by it.
        spawned: called in another thread once nginx runs.

    Raises:
        NamespaceError: with an overlay, where no mount namespace can be had.
        NginxError: nginx cannot be started.
    """
    command = command_of(settings, facts)
    pid_file_before = facts.pid_file.exists()
    began = time.monotonic()
    returncode: int | None = _KILLED
    output = ""
    if spare is not None and overlay is not None and spare.fits(command):
        returncode, output = await _in_thread(spare.do, partial(spare.finish, settings.check_timeout, overlay, spawned))
    if returncode is not None and returncode < 0:  # none waited, or it was killed while it did
        work = partial(run, command, settings.check_timeout, overlay, spawned)
        returncode, output = await _in_thread(_start, work)
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


def command_of(settings: NginxSettings, facts: Facts) -> list[str]:
    """The command that tests the user's configuration."""
    prefix = ["-p", settings.prefix] if settings.prefix else []
    return [settings.binary, "-t", "-c", str(facts.conf), *prefix]


def _start(body: Callable[[], None]) -> None:
    """In a thread that ends with it: a pooled one would stay in the namespace."""
    threading.Thread(target=body, name="nginx-check", daemon=True).start()


async def _in_thread(
    start: Callable[[Callable[[], None]], None], work: Callable[[], tuple[int | None, str]]
) -> tuple[int | None, str]:
    """What `work` returns, which another thread does; `start` hands it over."""
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

    start(body)
    return await future


def _drop_empty(pid_file: Path) -> None:
    """`nginx -t` leaves an empty pid file where nginx does not run; a later start script would trip over it."""
    try:
        if pid_file.stat().st_size == 0:
            pid_file.unlink()
    except FileNotFoundError:
        return
