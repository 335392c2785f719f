"""Files judged by their content: hashes, and the memory that spares reading an unchanged file twice."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from grayctl.errors import StateError

_DIGITS = 16


def encoded(text: str) -> bytes:
    """The bytes of a generated file. What a registration says need not be valid Unicode, and is kept as it came."""
    return text.encode("utf-8", "surrogatepass")


def content_sha(content: str | bytes) -> str:
    """The first 16 hex digits of the SHA-256 of `content`, as in an object's file name."""
    return hashlib.sha256(encoded(content) if isinstance(content, str) else content).hexdigest()[:_DIGITS]


def snippet_set(hashes: Mapping[str, str]) -> str:
    """The name of a set of snippets, from file name in it -> hash of the content."""
    lines = sorted((name.removesuffix(".conf"), sha) for name, sha in hashes.items())
    return content_sha("".join(f"{name} {sha}\n" for name, sha in lines))


def file_parts(filename: str) -> tuple[str, str]:
    """Slug and hash of an object's file name."""
    slug, _, sha = filename.removesuffix(".conf").rpartition("-")
    return slug, sha


def decoded(path: Path) -> str:
    """The text of a generated file, as it was encoded.

    Raises:
        StateError: it is missing, unreadable or no text.
    """
    try:
        return path.read_bytes().decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise StateError(f"{path}: changed by hand: it is no text") from error
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error


def demand_match(path: Path, content: str, sha: str) -> None:
    """Refuse content that its name does not match.

    Raises:
        StateError: the file was changed by hand.
    """
    if content_sha(content) != sha:
        raise StateError(f"{path}: changed by hand: its content does not match its name")


FileStamp = tuple[int, int, int, int]


def stamp_of(path: str | Path, folder: int | None = None) -> FileStamp:
    """Inode, size and times of a file: it is read again only when one of them has moved.

    Args:
        path: of the file.
        folder: the descriptor of the directory that `path` is relative to.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path, dir_fd=folder)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Hashes:
    """The hashes of files; one is read again only when its stamp has moved."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[FileStamp, str]]] = {}

    def of(self, folder: Path, names: Collection[str]) -> dict[str, str | None]:
        """Name -> hash of the content of each file in `folder`; None for one that is missing or unreadable."""
        place = str(folder)
        seen = self._seen.setdefault(place, {})
        found: dict[str, str | None] = {}
        with _relative(place) as (prefix, descriptor):
            for name in names:
                try:
                    mark = stamp_of(prefix + name, descriptor)
                    held = seen.get(name)
                    if held is None or held[0] != mark:
                        held = seen[name] = mark, content_sha((folder / name).read_bytes())
                    found[name] = held[1]
                except OSError:
                    seen.pop(name, None)
                    found[name] = None
        return found

    def forget(self, folder: Path, names: Collection[str] | None = None) -> None:
        """Forget files of `folder` that are gone for good; without names all of them."""
        if names is None:
            self._seen.pop(str(folder), None)
        for name in names or ():
            self._seen.get(str(folder), {}).pop(name, None)


@contextlib.contextmanager
def _relative(folder: str) -> Iterator[tuple[str, int | None]]:
    """What goes before the name of a file in `folder`, and the descriptor that it is relative to.

    A thousand stats cost a quarter less without the way to the folder; where no descriptor is left they do with it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield f"{folder}/", None
        return
    try:
        yield "", descriptor
    finally:
        os.close(descriptor)
