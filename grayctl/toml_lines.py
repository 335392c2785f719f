"""Where in a TOML file a key stands, for messages."""

import re


def where(name: str, text: str, key: str) -> str:
    """`FILE:LINE: KEY`, as a message begins; without the line when it cannot be found."""
    line = line_of(text, key)
    return f"{name}:{line}: {key}" if line else f"{name}: {key}"


def line_of(text: str, key: str) -> int | None:
    """The line of TOML `text` on which the dotted `key` stands, counted from 1; None when it cannot be found.

    tomllib keeps no positions, so this follows table headers and key lines; that is exact for settings, which
    hold neither multi-line strings nor arrays of tables.
    """
    wanted = _key_parts(key)
    table: list[str] = []
    best: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"\[\[?\s*([^\[\]]+?)\s*\]", stripped):
            table = _key_parts(header[1])
        elif assigned := re.match(
            r"((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=", stripped
        ):
            path = table + _key_parts(assigned[1])
            if path == wanted:
                return number
            if path == wanted[: len(path)] or wanted == path[: len(wanted)]:
                best = number
            continue
        else:
            continue
        if table[: len(wanted)] == wanted:
            return number
    return best


def quoted(key: str) -> str:
    """A key as TOML writes it."""
    return key if re.fullmatch(r"[\w-]+", key) else f"'{key}'" if '"' in key else f'"{key}"'


def _key_parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(r"[\w-]+|\"[^\"]*\"|'[^']*'", dotted)]
