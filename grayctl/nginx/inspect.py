"""What the user's own nginx says about itself: `nginx -V`, and nginx.conf read with crossplane."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from grayctl.errors import NginxError
from grayctl.nginx.tree import Directive, modified, read
from grayctl.settings import NginxSettings

_VERSION = re.compile(r"nginx version: \S+?/(\d+)\.(\d+)\.(\d+)")
_OPTION = re.compile(r"--([a-z0-9_-]+)(?:=(\S+))?")
_SIZE = re.compile(r"(\d+)([kKmM]?)\Z")
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_ERROR_LOG_OPTION = (1, 19, 5)
_HTTP2_DIRECTIVE = (1, 25, 1)  # `listen ... http2` is deprecated from here on
_NO_FILE = ("syslog:", "stderr", "memory:")


@dataclass(frozen=True, slots=True)
class Facts:
    """The nginx at hand.

    Attributes:
        binary: its resolved executable; `is_script` when that is a wrapper, which no master will ever be seen running.
        conf: the configuration's absolute path; `default_conf` is the compiled one.
        error_log: the main error log, None when it is no file.
        takes_error_log: it knows the option `-e`.
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
    takes_error_log: bool = False
    working_directory: Path | None = None
    sources: tuple[tuple[str, int], ...] = ()


def inspect(settings: NginxSettings, state_dir: Path) -> Facts:
    """Ask nginx and read its configuration.

    Raises:
        NginxError: the binary is missing or does not answer.
        NginxConfigError: the configuration cannot be read.
    """
    binary, output, numbers = _ask(settings)
    options = dict(_OPTION.findall(output))
    prefix = Path(settings.prefix or options.get("prefix", "/usr/local/nginx")).absolute()
    default_conf = _under(prefix, options.get("conf-path") or "conf/nginx.conf")
    conf = _under(prefix, settings.conf)
    tree = read(conf, state_dir)
    main, http = tree.main, tree.http
    pid_file = settings.pid_file or main.last("pid") or options.get("pid-path") or "logs/nginx.pid"
    error_log = settings.error_log or _log_file(main) or options.get("error-log-path") or "logs/error.log"
    working_directory = main.last("working_directory")
    return Facts(
        version=".".join(map(str, numbers)),
        binary=Path(binary).resolve(),
        conf=conf,
        default_conf=default_conf,
        prefix=prefix,
        pid_file=_under(prefix, pid_file),
        error_log=None if is_no_file(error_log) else _under(prefix, error_log),
        variables_hash_bucket_size=size(http.last("variables_hash_bucket_size") if http else ""),
        has_http2="with-http_v2_module" in options,
        http2_directive=numbers >= _HTTP2_DIRECTIVE,
        has_stream=options.get("with-stream") == ""
        or any("ngx_stream_module" in one.first for one in main.own("load_module")),
        included=http is not None
        and any("http.conf" in one.entries and not one.has_magic for one in http.own("include")),
        is_script=_is_script(Path(binary)),
        takes_error_log=numbers >= _ERROR_LOG_OPTION,
        working_directory=Path(working_directory) if working_directory else None,
        sources=tree.sources,
    )


def version(settings: NginxSettings) -> tuple[int, ...]:
    """Such as (1, 22, 1).

    Raises:
        NginxError: the binary is missing or does not answer.
    """
    return _ask(settings)[2]


def _ask(settings: NginxSettings) -> tuple[str, str, tuple[int, ...]]:
    """The binary, what it says about itself, and its version."""
    binary = shutil.which(settings.binary)
    if binary is None:
        raise NginxError(f"nginx.binary: there is no executable {settings.binary!r}; install nginx or name its path")
    command = [binary, "-V"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=settings.check_timeout, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NginxError(f"{binary} -V: does not answer: {error}") from error
    found = _VERSION.search(done.stderr)
    if found is None:
        raise NginxError(f"{binary} -V: names no nginx version: {done.stderr[:200]!r}")
    return binary, done.stderr, tuple(map(int, found.groups()))


def is_fresh(facts: Facts) -> bool:
    """Whether nothing that `facts` were read from was touched since: a few stats."""
    return all(modified(path) == when for path, when in facts.sources)


def _is_script(binary: Path) -> bool:
    with binary.open("rb") as file:
        return file.read(2) == b"#!"


def _log_file(main: Directive) -> str:
    """The last error_log that is a file: nginx writes to all of them. Else the last one; empty when there is none."""
    targets = [one.first for one in main.own("error_log")]
    return next((one for one in reversed(targets) if not is_no_file(one)), "") or "".join(targets[-1:])


def is_no_file(log: str) -> bool:
    """Whether a target of error_log is no file."""
    return log.startswith(_NO_FILE)


def _under(prefix: Path, path: str) -> Path:
    return prefix / path


def size(text: str) -> int:
    """A size as nginx writes it, in bytes; the default of a hash bucket, 64, for anything else, and for 0."""
    found = _SIZE.match(text)
    return int(found[1]) * _UNITS[found[2].lower()] or 64 if found else 64
