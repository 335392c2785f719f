"""The policies that a command is given: files, directories, standard input."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

_SUFFIXES = {".yaml", ".yml", ".json"}


def policy_texts(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file: of a directory those that can be policies; `-` is standard input.

    Raises:
        click.UsageError: one cannot be read, or a directory has none.
    """
    from grayctl.policy.document import LARGEST

    enough = LARGEST + 1  # bytes, to see that it is too much
    for path in paths:
        if path == "-":
            yield "<stdin>", sys.stdin.buffer.read(enough)
            continue
        try:
            files = [Path(path)]
            if Path(path).is_dir():
                files = sorted(one for one in Path(path).iterdir() if one.suffix in _SUFFIXES)
                if not files:
                    raise click.UsageError(f"{path}: there is no file whose name ends in .yaml, .yml or .json")
            for file in files:
                with file.open("rb") as opened:
                    yield str(file), opened.read(enough)
        except OSError as error:
            raise click.UsageError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
