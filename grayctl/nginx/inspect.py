"""What the user's own nginx says about itself: `nginx -V`, and nginx.conf read with crossplane."""

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crossplane

from grayctl.errors import NginxConfigError, NginxError
from grayctl.settings import NginxSettings

_VERSION = re.compile(r"nginx version: \S+?/(\d+)\.(\d+)\.(\d+)")
_OPTION = re.compile(r"--([a-z0-9_-]+)(?:=(\S+))?")
_SIZE = re.compile(r"(\d+)([kKmM]?)\Z")
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_HTTP2_DIRECTIVE = (1, 25, 1)  # `listen ... http2` is deprecated from here on
_NO_FILE = ("syslog:", "stderr", "memory:")


@dataclass(frozen=True, slots=True)
class Facts:
    """The nginx at hand.

    Attributes:
        binary: its resolved executable; `is_script` when that is a wrapper, which no master will ever be seen running.
        conf: the configuration's absolute path; `default_conf` is the compiled one.
        error_log: the main error log, None when it is no file.
        variables_hash_bucket_size: bytes, from the http context, else nginx's default of 64.
        working_directory: where workers go when they start; None where nothing is said.
        included: whether the http context includes `<state_dir>/current/http.conf`.
        sources: the files and directories this was read from, with their modification times: see `is_fresh`.
    """

    version: str
    binary: Path
    conf: Path
    default_conf: Path
    prefix: Path
    pid_file: Path
    error_log: Path | None
    variables_hash_bucket_size: int
    has_http2: bool
    http2_directive: bool
    has_stream: bool
    included: bool
    is_script: bool = False
    working_directory: Path | None = None
    sources: tuple[tuple[str, int], ...] = ()


def inspect(settings: NginxSettings, state_dir: Path) -> Facts:
    """Ask nginx and read its configuration.

    Raises:
        NginxError: the binary is missing or does not answer.
        NginxConfigError: the configuration cannot be read.
    """
    binary = shutil.which(settings.binary)
    if binary is None:
        raise NginxError(f"nginx.binary: there is no executable {settings.binary!r}; install nginx or name its path")
    output = _ask(binary, settings.check_timeout)
    options = dict(_OPTION.findall(output))
    version = _VERSION.search(output)
    if version is None:
        raise NginxError(f"{binary} -V: names no nginx version: {output[:200]!r}")
    prefix = Path(settings.prefix or options.get("prefix", "/usr/local/nginx")).absolute()
    default_conf = _under(prefix, options.get("conf-path") or "conf/nginx.conf")
    conf = _under(prefix, settings.conf)
    tree = _Tree(conf, state_dir)
    main, http = tree.main, tree.http
    pid_file = settings.pid_file or _last(main, "pid") or options.get("pid-path") or "logs/nginx.pid"
    error_log = settings.error_log or _last(main, "error_log") or options.get("error-log-path") or "logs/error.log"
    working_directory = _last(main, "working_directory")
    numbers = tuple(int(part) for part in version.groups())
    return Facts(
        version=".".join(version.groups()),
        binary=Path(binary).resolve(),
        conf=conf,
        default_conf=default_conf,
        prefix=prefix,
        pid_file=_under(prefix, pid_file),
        error_log=None if error_log.startswith(_NO_FILE) else _under(prefix, error_log),
        variables_hash_bucket_size=_size(_last(http, "variables_hash_bucket_size") or "64"),
        has_http2="with-http_v2_module" in options,
        http2_directive=numbers >= _HTTP2_DIRECTIVE,
        has_stream=options.get("with-stream") == ""
        or any("ngx_stream_module" in one["args"][0] for one in main if one["directive"] == "load_module"),
        included=any(
            _names(one["args"][0], conf, state_dir / "current/http.conf")
            for one in http
            if one["directive"] == "include"
        ),
        is_script=_is_script(Path(binary)),
        working_directory=Path(working_directory) if working_directory else None,
        sources=tuple(sorted(tree.sources.items())),
    )


def _ask(binary: str, timeout: float) -> str:
    try:
        return subprocess.run([binary, "-V"], capture_output=True, text=True, timeout=timeout, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise NginxError(f"{binary} -V: does not answer: {error}") from error


def is_fresh(facts: Facts) -> bool:
    """Whether nothing that `facts` were read from was touched since: a few stats."""
    return all(_modified(path) == when for path, when in facts.sources)


def _modified(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 -- the paths are texts, and this runs before every check
    except OSError:
        return 0


def _is_script(binary: Path) -> bool:
    with binary.open("rb") as file:
        return file.read(2) == b"#!"


@dataclass(slots=True)
class _Tree:
    """The main and http contexts of a configuration, includes followed, what grayctl generates left out."""

    conf: Path
    state_dir: Path
    main: list[dict[str, Any]] = field(default_factory=list)
    http: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read(str(self.conf), self.main)

    def _read(self, path: str, context: list[dict[str, Any]]) -> None:
        self.sources[path] = _modified(path)
        payload = crossplane.parse(path, single=True, check_ctx=False, check_args=False)
        for error in payload["errors"]:
            # an included file that only nginx understands costs us nothing; nginx -t judges it
            if path == str(self.conf):
                raise NginxConfigError(f"cannot read nginx's configuration: {error['error']}. Mend it, then try again")
        self._take(payload["config"][0]["parsed"], context)

    def _take(self, directives: list[dict[str, Any]], context: list[dict[str, Any]]) -> None:
        for directive in directives:
            context.append(directive)
            if directive["directive"] == "http" and context is self.main:
                self._take(directive["block"], self.http)
            elif directive["directive"] == "include" and directive["args"]:
                for path in self._included(directive["args"][0]):
                    self._read(path, context)

    def _included(self, argument: str) -> Iterator[str]:
        """The files an include names, relative to the directory of nginx.conf, each followed once."""
        pattern = str(self.conf.parent / argument)
        if glob.has_magic(pattern):
            self.sources[str(Path(pattern).parent)] = _modified(str(Path(pattern).parent))
        for path in sorted(glob.glob(pattern)):  # noqa: PTH207 -- the pattern is a text with wildcards anywhere
            if path not in self.sources and not Path(path).is_relative_to(self.state_dir):
                yield path


def _names(argument: str, conf: Path, wanted: Path) -> bool:
    """Whether an include's argument is `wanted`, however it is spelled."""
    given = conf.parent / argument
    return given.name == wanted.name and given.parent.parent.resolve() / given.parent.name == (
        wanted.parent.parent.resolve() / wanted.parent.name
    )


def _last(context: list[dict[str, Any]], name: str) -> str:
    """The first argument of a directive's last occurrence; empty when there is none."""
    return next((str(one["args"][0]) for one in reversed(context) if one["directive"] == name and one["args"]), "")


def _under(prefix: Path, path: str) -> Path:
    return prefix / path


def _size(text: str) -> int:
    found = _SIZE.match(text)
    return int(found[1]) * _UNITS[found[2].lower()] if found else 64
