"""Child processes that never outlive the test run, and waiting for conditions instead of sleeping."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
SCRUBBED = (
    "CONSUL_",
    "GRAYCTL_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "PYTHONDONTWRITEBYTECODE",  # every child would compile grayctl again, which no installed one does
)


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what could steer Consul, grayctl or a proxy, plus `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SCRUBBED)}
    return kept | dict(extra or {})


def start(
    argv: Sequence[str | Path],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pdeathsig: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a child that gets `pdeathsig` when the thread that started it dies: start from the main thread.

    Pass SIGTERM for a child with children of its own, such as nginx: a killed master orphans its workers.
    Standard output and error go to `log` (appended), or nowhere. `setpriv` replaces itself by the program, so
    the pid is the program's own.
    """
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", pdeathsig.name.removeprefix("SIG"), "--", *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=clean_env() if env is None else dict(env),
            start_new_session=True,  # Ctrl-C on the terminal reaches pytest alone, whose fixtures clean up
        )


def stop(process: subprocess.Popen[bytes], *, sig: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> int:
    """End a child that `start` made: `sig`, then SIGKILL after `timeout` seconds. Returns its exit status."""
    if process.poll() is None:
        process.send_signal(sig)
        process.send_signal(signal.SIGCONT)  # a suspended process takes no signal but this
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def wait_until(condition: Callable[[], T], what: str, *, seconds: float = 20.0, interval: float = 0.02) -> T:
    """Return the first truthy answer of `condition`.

    Raises:
        AssertionError: after `seconds`, naming `what` was waited for and the last answer.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what} (last answer: {answer!r})")
        time.sleep(interval)
    return answer


async def eventually(condition: Callable[[], T], what: str, *, seconds: float = 20.0, interval: float = 0.02) -> T:
    """`wait_until` for coroutines: the loop goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what} (last answer: {answer!r})")
        await asyncio.sleep(interval)
    return answer
