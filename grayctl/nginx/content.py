"""Files judged by their content: hashes, and the memory that spares reading an unchanged file twice."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

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


class Hashes:
    """The hashes of files; one is read again only when its inode, size or times moved."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, int, int, int], str]] = {}

    def of(self, path: Path) -> str | None:
        """The hash of a file's content; None when it is missing or unreadable."""
        name = os.fspath(path)
        try:
            found = os.stat(name)  # noqa: PTH116 -- thousands a second; Path.stat costs three times as much
            mark = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            held = self._seen.get(name)
            if held is None or held[0] != mark:
                held = (mark, content_sha(path.read_bytes()))
                self._seen[name] = held
        except OSError:
            self._seen.pop(name, None)
            return None
        return held[1]
