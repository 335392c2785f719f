"""What the user's own nginx says about itself: `nginx -V`, and nginx.conf read with crossplane."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
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
        binary: its resolved executable.
        conf: the configuration's absolute path; `default_conf` is the compiled one.
        error_log: the main error log, None when it is no file.
        variables_hash_bucket_size: bytes, from the http context, else nginx's default of 64.
        included: whether the http context includes `<state_dir>/current/http.conf`.
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
    tree = _read(conf)
    main = {d["directive"]: d["args"] for d in tree[0]}
    pid_file = settings.pid_file or _one(main, "pid") or options.get("pid-path") or "logs/nginx.pid"
    error_log = settings.error_log or _one(main, "error_log") or options.get("error-log-path") or "logs/error.log"
    http = list(_http(tree))
    numbers = tuple(int(part) for part in version.groups())
    return Facts(
        version=".".join(version.groups()),
        binary=Path(binary).resolve(),
        conf=conf,
        default_conf=default_conf,
        prefix=prefix,
        pid_file=_under(prefix, pid_file),
        error_log=None if error_log.startswith(_NO_FILE) else _under(prefix, error_log),
        variables_hash_bucket_size=_size(
            next((d["args"][0] for d in http if _is(d, "variables_hash_bucket_size")), "64")
        ),
        has_http2="with-http_v2_module" in options,
        http2_directive=numbers >= _HTTP2_DIRECTIVE,
        has_stream="with-stream" in options,
        included=any(_is(d, "include") and _names(d["args"][0], conf, state_dir / "current/http.conf") for d in http),
    )


def _ask(binary: str, timeout: float) -> str:
    try:
        return subprocess.run([binary, "-V"], capture_output=True, text=True, timeout=timeout, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise NginxError(f"{binary} -V: does not answer: {error}") from error


def _read(conf: Path) -> list[list[dict[str, Any]]]:
    """The parsed files, the main one first."""
    try:
        payload = crossplane.parse(str(conf), catch_errors=True, comments=False)
    except OSError as error:
        raise NginxConfigError(f"{conf}: cannot read nginx's configuration: {error.strerror}") from error
    return [one["parsed"] for one in payload["config"]]


def _http(tree: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The directives of the http context, included files followed."""
    for block in tree[0]:
        if block["directive"] == "http":
            yield from _followed(block["block"], tree)
        elif block["directive"] == "include":
            for number in block.get("includes", ()):
                for inner in tree[number]:
                    if inner["directive"] == "http":
                        yield from _followed(inner["block"], tree)


def _followed(directives: list[dict[str, Any]], tree: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for directive in directives:
        yield directive
        for number in directive.get("includes", ()):
            yield from _followed(tree[number], tree)


def _is(directive: dict[str, Any], name: str) -> bool:
    return bool(directive["directive"] == name)


def _names(argument: str, conf: Path, wanted: Path) -> bool:
    """Whether an include's argument is `wanted`, however it is spelled."""
    given = conf.parent / argument
    return given.name == wanted.name and given.parent.parent.resolve() / given.parent.name == (
        wanted.parent.parent.resolve() / wanted.parent.name
    )


def _one(main: dict[str, list[str]], name: str) -> str:
    return main[name][0] if main.get(name) else ""


def _under(prefix: Path, path: str) -> Path:
    return prefix / path


def _size(text: str) -> int:
    found = _SIZE.match(text)
    return int(found[1]) * _UNITS[found[2].lower()] if found else 64
