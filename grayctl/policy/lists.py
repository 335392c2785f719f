"""Lists: an entry a line, kept in parts that Consul takes. Pure."""

from collections.abc import Iterable

from grayctl.errors import ListError

PART = 256 * 1024  # bytes; Consul takes 512 KiB in a key, and one such part in a transaction
MOST_PARTS = 40
LONGEST = 4000  # bytes of a line; nginx refuses longer tokens than 4096
_BOM = b"\xef\xbb\xbf"


def entries_of(parts: Iterable[bytes]) -> tuple[str, ...]:
    """A list's entries in their order, each once: blanks around them trimmed, comments and empty lines skipped."""
    text = b"\n".join(parts).decode("utf-8", "surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#") and "\0" not in line))


def parts_of(text: bytes, file: str) -> tuple[bytes, ...]:
    """A list's text, cut where lines end into parts of at most PART bytes; one at least.

    Comments stay. What editors and other systems add (a byte order mark, CRLF) does not.

    Raises:
        ListError: naming `file`; a line is too long or holds a NUL, or there are more than MOST_PARTS parts.
    """
    parts: list[bytes] = []
    found: list[bytes] = []
    size = 0
    for number, line in enumerate(text.removeprefix(_BOM).replace(b"\r\n", b"\n").split(b"\n"), 1):
        if len(line) > LONGEST or b"\0" in line:
            wrong = f"is longer than {LONGEST} bytes" if len(line) > LONGEST else "holds a NUL"
            raise ListError(f"{file}:{number}: the line {wrong}. A list has one entry a line")
        if size + len(line) + 1 > PART:
            parts.append(b"\n".join(found))
            found, size = [], 0
        found.append(line)
        size += len(line) + 1
    parts.append(b"\n".join(found))
    if len(parts) > MOST_PARTS:
        raise ListError(f"{file}: it has {len(text)} bytes; {MOST_PARTS * PART} are the most. Make it several lists")
    return tuple(parts)
