"""Durable files: whole or not there, also after a power cut, and errors that say what to do."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from grayctl.errors import Locked, StateError

_ADVICE = {
    errno.ENOSPC: "free some space on this file system",
    errno.EDQUOT: "raise the quota, or free some space",
    errno.EROFS: "remount the file system writable, or move state_dir",
    errno.EACCES: "run grayctl as the owner of state_dir (root), or mend the permissions",
    errno.EPERM: "run grayctl as the owner of state_dir (root), or mend the permissions",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= in the unit)",
    errno.EIO: "look at the kernel's log: the disk fails",
}


_OTHERS_MAY_WRITE = 0o022


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn what the system refuses while `doing` something to `path` into a StateError with advice."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see what else than grayctl changes the state directory")
        raise StateError(
            f"{error.filename or path}: cannot {doing}: {error.strerror or error}. What nginx serves is untouched; "
            f"{advice}; grayctl tries again by itself"
        ) from error


def write_file(path: Path, content: bytes, mode: int = 0o644, *, synced: bool = True) -> None:
    """Put `content` at `path`: after a crash the old file or the new one stands there, whole.

    The caller syncs the directory, once for many files; and the file as well where `synced` is false, before anything
    that survives a crash refers to it. The temporary name is fixed, since one process at a time writes a state
    directory: what a crash leaves behind is overwritten by the next attempt.

    Raises:
        OSError: what the system refused.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if synced:
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the error that matters is on its way already
            fresh.unlink(missing_ok=True)
        raise


def open_lock(path: Path) -> int:
    """A descriptor of the file `path`, to be locked; also on a read-only disk, where what stands can be served.

    Raises:
        OSError: what the system refused.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def point(link: Path, target: str) -> None:
    """Make the symbolic link `link` lead to `target`, in one step. The caller syncs the directory.

    Raises:
        OSError: what the system refused.
    """
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def leads(link: Path, target: str) -> bool:
    """Whether `link` is a symbolic link with exactly this text."""
    try:
        return str(link.readlink()) == target
    except OSError:
        return False


def remove_tree(folder: Path) -> None:
    """Remove a directory: its name goes in one step, so that half of it is never taken for the whole.

    Raises:
        OSError: what the system refused.
    """
    doomed = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a directory.

    Raises:
        OSError: what the system refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def demand_ownership(root: Path) -> None:
    """Refuse a state directory that others may write to: what stands there nginx's master runs, as root mostly.

    Raises:
        StateError: it belongs to somebody else, or its mode lets others write.
    """
    found = root.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & _OTHERS_MAY_WRITE:
        raise StateError(
            f"{root}: others than its owner may write here, and so into what nginx runs as root. "
            f"Run: chown root {root} && chmod go-w {root}"
        )


def hold(descriptor: int, root: Path) -> None:
    """Lock what `open_lock` opened, until it is closed, and write our pid into it.

    Raises:
        Locked: another grayctl holds it; the message names its pid.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise Locked(
            f"{root}: grayctl with pid {pid} writes this state directory; "
            "stop it, or use its commands, or give this one a state_dir of its own"
        ) from error
    with contextlib.suppress(OSError):  # full or read-only: then the lock holds as well, and names nobody
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
