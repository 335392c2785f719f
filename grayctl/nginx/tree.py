"""The user's nginx configuration as nginx reads it: contexts nested, includes followed, each directive with its line.

What grayctl generates is left out and recognised: a thousand services would cost seconds, and a damaged object must
not hide the user's own configuration.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import crossplane

from grayctl.errors import NginxConfigError
from grayctl.nginx import lua

lua.teach()
# What the user includes of a generation, and in which context.
ENTRIES = {"http.conf": "http", "stream.conf": "stream"}


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive.

    Attributes:
        args: without quotes; the parentheses of an `if` are gone.
        file: absolute path.
        line: from 1; 0 for the pseudo-directive `main` that holds everything.
        block: what stands between its braces, with the content of included files behind their `include`; None for a
            directive that ends with a semicolon.
        entries: for an `include`, which of ENTRIES it names, or would match.
        dangling: for an `include`, that it names one file, which is not there.
        snippet: what it stands in below `<state_dir>/snippets`, and for an `include` what it names there, such as
            `pass/shop.conf`; otherwise empty.
    """

    name: str
    args: tuple[str, ...]
    file: str
    line: int
    block: tuple["Directive", ...] | None = None
    entries: tuple[str, ...] = ()
    dangling: bool = False
    snippet: str = ""

    @property
    def where(self) -> str:
        """`FILE:LINE`; the file alone for `main`."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def slug(self) -> str:
        """That of the service whose snippet it is."""
        return self.snippet.rpartition("/")[2].removesuffix(".conf")

    @property
    def first(self) -> str:
        """The first argument; empty when there is none."""
        return self.args[0] if self.args else ""

    @property
    def has_magic(self) -> bool:
        """Whether its first argument is a pattern, as nginx sees it."""
        return glob.has_magic(self.first)

    @property
    def text(self) -> str:
        """The directive as one writes it, quoted where it must be; without its block."""
        return line(self.name, *self.args)

    def own(self, name: str) -> tuple["Directive", ...]:
        """The directives called `name` in its block, not deeper."""
        return tuple(one for one in self.block or () if one.name == name)

    def last(self, name: str) -> str:
        """The first argument of the last directive called `name` in its block; empty when there is none."""
        return next((one.first for one in reversed(self.own(name))), "")


@dataclass(frozen=True, slots=True)
class Placed:
    """A directive and the blocks it stands in, `main` first."""

    directive: Directive
    above: tuple[Directive, ...]

    @property
    def context(self) -> str:
        """The name of the block it stands in."""
        return self.above[-1].name

    def inside(self, name: str) -> bool:
        """Whether one of the blocks around it is called `name`."""
        return any(one.name == name for one in self.above)

    def in_force(self, name: str) -> tuple[Directive | None, tuple[Directive, ...]]:
        """By nginx's inheritance: the innermost block around it with directives called `name`, and they."""
        for block in reversed(self.above):
            if found := block.own(name):
                return block, found
        return None, ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole configuration.

    Attributes:
        main: the pseudo-directive that holds everything.
        sources: files and directories it was read from, with their modification times.
        unread: included files that nginx may understand and we do not, with the reason.
    """

    main: Directive
    sources: tuple[tuple[str, int], ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def http(self) -> Directive | None:
        """The http block; the first, should there be several."""
        return next(iter(self.main.own("http")), None)

    def walk(self) -> Iterator[Placed]:
        """Every directive, in the order in which nginx reads them."""
        yield from _walk((self.main,))


def _walk(above: tuple[Directive, ...]) -> Iterator[Placed]:
    for one in above[-1].block or ():
        yield Placed(one, above)
        if one.block:
            yield from _walk((*above, one))


def line(name: str, *args: str) -> str:
    """A directive as one writes it: `name arg "another one";`."""
    return str(crossplane.build([{"directive": name, "args": list(args)}]))


def modified(path: str) -> int:
    """When a file or directory was changed last, in nanoseconds; 0 when it cannot be seen."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 -- the paths are texts, and this runs before every check
    except OSError:
        return 0


def read(conf: Path, state_dir: Path, *, snippets: bool = False) -> Tree:
    """Read nginx.conf and what it includes.

    Args:
        conf: absolute.
        state_dir: what is included from there is left out.
        snippets: except for `<state_dir>/snippets`, whose content counts where it is included.

    Raises:
        NginxConfigError: `conf` itself cannot be read.
    """
    reader = _Reader(conf, state_dir, snippets)
    block = tuple(reader.file(str(conf), ()))
    main = Directive("main", (), str(conf), 0, block)
    return Tree(main, tuple(sorted(reader.sources.items())), tuple(reader.unread))


@dataclass(slots=True)
class _Reader:
    conf: Path
    state_dir: Path
    snippets: bool
    sources: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    _parsed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def file(self, path: str, through: tuple[str, ...]) -> Iterator[Directive]:
        """What stands in a file; `through` are the files that led here, none of which is entered again."""
        if path not in self._parsed:
            self._parsed[path] = self._parse(path)
        yield from self._take(self._parsed[path], path, (*through, path), self._snippet(Path(path)))

    def _parse(self, path: str) -> list[dict[str, Any]]:
        self.sources[path] = modified(path)
        payload = crossplane.parse(path, single=True, check_ctx=False, check_args=False)
        for error in payload["errors"]:
            # an included file that only nginx understands costs us nothing; nginx -t judges it
            if path == str(self.conf):
                raise NginxConfigError(f"cannot read nginx's configuration: {error['error']}. Mend it, then try again")
            self.unread.append(str(error["error"]))
        parsed: list[dict[str, Any]] = payload["config"][0]["parsed"]
        return parsed

    def _take(
        self, parsed: list[dict[str, Any]], path: str, through: tuple[str, ...], snippet: str
    ) -> Iterator[Directive]:
        for one in parsed:
            name, args = str(one["directive"]), tuple(str(arg) for arg in one["args"])
            block = tuple(self._take(one["block"], path, through, snippet)) if "block" in one else None
            plain = Directive(name, args, path, int(one["line"]), block, snippet=snippet)
            if name == "include" and args:
                yield from self._include(plain, through)
            else:
                yield plain

    def _include(self, one: Directive, through: tuple[str, ...]) -> Iterator[Directive]:
        """The include itself, then what it brings."""
        dangling = not one.has_magic and _is_missing(self.conf.parent / one.first)
        snippet = self._snippet(self.conf.parent / one.first)
        yield replace(one, entries=self._entries(one.first), dangling=dangling, snippet=snippet)
        for inner in self._included(one.first):
            if inner not in through:
                yield from self.file(inner, through)

    def _included(self, argument: str) -> Iterator[str]:
        """The files an include names, relative to the directory of nginx.conf."""
        pattern = str(self.conf.parent / argument)
        if glob.has_magic(pattern):
            folder = str(Path(pattern).parent)
            self.sources[folder] = modified(folder)
        for path in sorted(glob.glob(pattern)):  # noqa: PTH207 -- the pattern is a text with wildcards anywhere
            if not self._is_left_out(Path(path)):
                yield path

    def _is_left_out(self, path: Path) -> bool:
        if self.snippets and self._snippet(path):
            return False
        return path.is_relative_to(self.state_dir) or bool(self._entries(str(path)))

    def _entries(self, argument: str) -> tuple[str, ...]:
        """Which of ENTRIES an include's argument names, however it is spelled."""
        given = self.conf.parent / argument
        return tuple(name for name in ENTRIES if _names(given, self.state_dir / "current" / name))

    def _snippet(self, path: Path) -> str:
        """The name of a file below `<state_dir>/snippets`, however the way there is spelled; empty for another file."""
        above, found, name = str(path).rpartition("/snippets/")  # a link itself, so only what is above is resolved
        return name if found and Path(above).resolve() == self.state_dir.resolve() else ""


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there, and we may not look
        return False
    return False


def _names(given: Path, wanted: Path) -> bool:
    if glob.has_magic(str(given)):
        return len(given.parts) == len(wanted.parts) and all(map(fnmatchcase, wanted.parts, given.parts))
    # `current` is a link, so only what is above it is resolved
    return given.name == wanted.name and given.parent.parent.resolve() / given.parent.name == (
        wanted.parent.parent.resolve() / wanted.parent.name
    )
