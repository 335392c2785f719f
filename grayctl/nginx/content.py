"""Files judged by their content: hashes, and the memory that spares reading an unchanged file twice."""

import hashlib
import os
from collections.abc import Iterable, Mapping
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
    """The name of a set of snippets, from slug -> hash of the content."""
    return content_sha("".join(f"{slug} {sha}\n" for slug, sha in sorted(hashes.items())))


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


def stamp_of(path: str | Path) -> FileStamp:
    """Inode, size and times of a file: it is read again only when one of them has moved.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)  # noqa: PTH116 -- thousands for each change: a Path for each costs five times the stat
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Hashes:
    """The hashes of files; one is read again only when its stamp has moved."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[FileStamp, str]] = {}
        self._asked: set[str] = set()

    def of(self, folder: Path, names: Iterable[str]) -> dict[str, str | None]:
        """Name -> hash of the content of each file in `folder`; None for one that is missing or unreadable."""
        return {name: self._one(f"{folder}/{name}") for name in names}

    def trim(self) -> None:
        """Forget the files that nobody asked for since the last trim: most of them are gone for good."""
        self._seen = {path: held for path, held in list(self._seen.items()) if path in self._asked}
        self._asked.clear()

    def _one(self, path: str) -> str | None:
        self._asked.add(path)
        try:
            mark = stamp_of(path)
            held = self._seen.get(path)
            if held is None or held[0] != mark:
                held = (mark, content_sha(Path(path).read_bytes()))
                self._seen[path] = held
        except OSError:
            self._seen.pop(path, None)
            return None
        return held[1]
