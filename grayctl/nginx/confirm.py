"""The proof that nginx serves a generation: workers, marker and error log together (FACTS.md, "reload").

No exit code and no single answer is proof: a reload that nginx refuses exits 0 too, and the old generation goes
on answering for 100 ms after the new one began.
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from grayctl.nginx.process import Master, Worker, suspended, workers

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_MARKER_TIMEOUT = 1.0
_RETRIED = "failed (98"  # EADDRINUSE: nginx tries five times in 2.5 s, then says "still could not bind()"


@dataclass(frozen=True, slots=True)
class Proven:
    """Nginx serves the generation, and nothing else any more."""


@dataclass(frozen=True, slots=True)
class NotProven:
    """It does not. `refused`: the master kept its old configuration and workers, by its own words."""

    reason: str
    refused: bool


@dataclass(frozen=True, slots=True)
class MasterGone:
    """The master that was signalled is no more, or no more the one that counts."""


@dataclass(frozen=True, slots=True)
class NotRunning:
    """There is no master to prove anything."""


Proof = Proven | NotProven | MasterGone


class ErrorLog:
    """What a master writes into its error log from now on, across rotation and truncation."""

    def __init__(self, path: Path | None, master: Master) -> None:
        self._path = path
        # by pid: `nginx -t` and other masters may write into the same file
        self._refusal = re.compile(rf"\[emerg\] {master.pid}#")
        self._lost_worker = re.compile(rf"\[alert\] {master.pid}#.*cannot be respawned")
        self._failed: tuple[str, bool] | None = None
        self._busy = ""
        self._descriptor = -1
        self._rest = b""
        if path is not None:
            self._open(at_end=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def failure(self) -> tuple[str, bool] | None:
        """The line that says that the reload failed, and whether the master refused it; None while there is none.

        Once there is one, it stays the answer.
        """
        for line in self._lines():
            if self._failed is None and self._lost_worker.search(line):
                self._failed = line, False
            if self._failed is None and self._refusal.search(line):
                if _RETRIED in line:
                    self._busy = line  # the last word, "still could not bind()", does not name the address
                else:
                    self._failed = (f"{line}: {self._busy}" if self._busy else line), True
        return self._failed

    def _lines(self) -> list[str]:
        if self._path is None:
            return []
        content = self._drain()
        if self._rotated():
            self._open(at_end=False)
            content += self._drain()
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]

    def _drain(self) -> bytes:
        if self._descriptor < 0:
            return b""
        if os.fstat(self._descriptor).st_size < os.lseek(self._descriptor, 0, os.SEEK_CUR):
            os.lseek(self._descriptor, 0, os.SEEK_SET)  # truncated in place
        content = b""
        while chunk := os.read(self._descriptor, 1 << 16):
            content += chunk
        return content

    def _rotated(self) -> bool:
        if self._path is None:
            return False
        try:
            now = self._path.stat()
        except OSError:
            return False
        if self._descriptor < 0:
            return True
        held = os.fstat(self._descriptor)
        return (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino)

    def _open(self, *, at_end: bool) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            # not blocking: it may be a pipe (/dev/stderr in a container), which says nothing to us
            self._descriptor = os.open(self._path or "", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return  # not there yet, or unreadable: workers and marker still have to prove
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            self._descriptor, self._path = -1, None
        elif at_end:
            os.lseek(self._descriptor, 0, os.SEEK_END)


async def ask_marker(host: str, port: int) -> str:
    """What the marker answers: `<number> <digest>`; empty when it does not.

    Always on a connection of its own: a kept one could reach a worker of the old generation.
    """
    try:
        async with asyncio.timeout(_MARKER_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /generation HTTP/1.0\r\nHost: grayctl-marker\r\n\r\n")
                head, _, body = (await reader.read(4096)).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""
    return body.decode("ascii", "replace").strip() if head.startswith(b"HTTP/1.1 200") else ""


async def confirm(
    master: Master,
    before: Collection[Worker],
    errors: ErrorLog,
    *,
    stays: Callable[[], bool],
    marker: tuple[str, int],
    stamp: str,
    timeout: float,  # noqa: ASYNC109 -- the time nginx has, and what it says in it, is the very subject
) -> Proof:
    """Watch a reload until it is proven or has failed.

    Args:
        master: who was signalled.
        before: its workers before the signal.
        errors: its error log, opened before the signal.
        stays: whether `master` is still nginx's master.
        marker: host and port of the marker.
        stamp: what the marker must answer.
        timeout: seconds; after them an unproven reload has failed.
    """
    old = {(one.pid, one.start_time) for one in before}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pause, answer = _FIRST_PAUSE, ""
    while True:
        if not stays():
            return MasterGone()
        if failed := errors.failure():
            return NotProven(*failed)
        now = workers(master)
        fresh = any((one.pid, one.start_time) not in old for one in now)
        stale = any((one.pid, one.start_time) in old and not (one.leaving or one.suspended) for one in now)
        if fresh and not stale:
            answer = await ask_marker(*marker)
            if answer == stamp and not errors.failure():
                return Proven()
        if loop.time() >= deadline:
            if words := suspended(master):
                return NotProven(words, refused=False)
            return NotProven(_why(timeout, answer, stamp, fresh=fresh, stale=stale), refused=False)
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.5)


def _why(timeout: float, answer: str, stamp: str, *, fresh: bool, stale: bool) -> str:
    if not fresh:
        what = "no new worker appeared"
    elif stale:
        what = "a worker of the old generation did not begin to shut down"
    else:
        what = f"the marker answers {answer or 'nothing'} instead of {stamp}"
    return f"not proven within {timeout:g} s: {what}"
