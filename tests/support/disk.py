"""A small file system of its own that a test may fill and make read-only. Needs the right to mount."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SIZE = 2 * 1024 * 1024
_PAGE = 4096


class Disk:
    """A file system in memory, 2 MiB, at `root`; a page of 4096 bytes is the least that a file takes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"
        root.mkdir()

    def mount(self) -> str:
        """Mount it; returns what the system says against it, empty when it is mounted."""
        done = self._run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=755", "tmpfs", str(self.root))
        return done.stderr if done.returncode else ""

    def unmount(self) -> None:
        """Unmount it, even while it is in use."""
        while os.path.ismount(self.root):
            self._run("umount", "--lazy", str(self.root)).check_returncode()

    def fill(self, *, leave: int = 0) -> None:
        """Leave only so many pages."""
        with self._filler.open("ab", buffering=0) as file:
            while (pages := self._free()) > leave:
                file.write(bytes(_PAGE * (pages - leave)))

    def empty(self) -> None:
        """Free what `fill` took."""
        self._filler.unlink()

    def lock(self) -> None:
        """Make it read-only: a second mount, in front of the first, which cannot be changed while a file is open."""
        self._run("mount", "--bind", str(self.root), str(self.root)).check_returncode()
        self._run("mount", "-o", "remount,bind,ro", str(self.root)).check_returncode()

    def unlock(self) -> None:
        """Make it writable again; who opened a file meanwhile keeps it."""
        self._run("umount", "--lazy", str(self.root)).check_returncode()

    def _free(self) -> int:
        return os.statvfs(self.root).f_bavail

    @staticmethod
    def _run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk at `tmp_path/disk`. Ask for it before what writes there, so that it outlives that."""
    one = Disk(tmp_path / "disk")
    if problem := one.mount():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no file system can be mounted here, and CI must be able to: {problem}", pytrace=False)
        pytest.skip(f"no file system can be mounted here: {problem}")
    yield one
    one.unmount()
