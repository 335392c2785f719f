"""Settings: one TOML file and the environment become one frozen value. The only home of defaults.

Every message names the file, the line, the key, and what is allowed.
"""

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from grayctl.errors import SettingsError
from grayctl.toml_lines import quoted, where
from grayctl.wording import did_you_mean

DEFAULT_PATH = Path("/etc/grayctl/grayctl.toml")
_MAX_PORT = 65535
_OLD_FOR_EACH = 4
_T = TypeVar("_T")

_DURATION = re.compile(r"(?P<figure>\d{1,9}(?:\.\d{1,9})?)(?P<unit>ms|s|m|h)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SOURCE = re.compile(r"(meta:[A-Za-z0-9_-]+|tag:[^\s=]+=|weights)\Z")
_BALANCE = re.compile(r"(round_robin|least_conn|ip_hash|random|hash [A-Za-z0-9_$:/.{}=&?-]{1,255})\Z")
_LISTEN = re.compile(r"(127\.\d+\.\d+\.\d+|\[::1\]):(\d+)\Z")


class Duration(float):
    """Seconds, written `250ms`, `2s`, `10m` or `1h`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Read `250ms`, `2s`, `1.5s`, `10m`, `1h`.

        Raises:
            ValueError: on anything else, a bare number included.
        """
        found = _DURATION.match(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{text!r} is no duration: write 250ms, 2s, 10m or 1h, in quotes")
        return cls(float(found["figure"]) * _UNITS[found["unit"]])


class Secret(str):
    """A text that never shows itself in a log, an error or a traceback's locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"


Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class ConsulSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where Consul is and who we are there."""

    address: str = "http://127.0.0.1:8500"
    token_file: str = ""
    datacenter: str = ""
    prefix: str = "grayctl"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    connect_timeout: Duration = Duration(5.0)
    read_timeout: Duration = Duration(10.0)
    # Never in the file: from CONSUL_HTTP_TOKEN only, so that no token ends up in a backup of /etc.
    token: Secret = Secret()


class WatchSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which services, and where their versions and weights stand."""

    services: tuple[str, ...] = ()
    tag: str = "grayctl.enable=true"
    version_from: tuple[str, ...] = ("meta:version", "tag:version=")
    weight_from: tuple[str, ...] = ("meta:weight", "tag:weight=", "weights")
    backup_from: tuple[str, ...] = ("meta:backup", "tag:backup=")
    include_warning: bool = False
    wait: Duration = Duration(50.0)
    max_long_polls: Annotated[int, Meta(ge=12)] = 90
    full_reread: Duration = Duration(300.0)

    @property
    def exact(self) -> tuple[str, ...]:
        """The services that are watched by their exact name, and so are always defined."""
        return tuple(name for name in self.services if not set(name) & set("*?["))


class NginxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which nginx, and the loopback ports that belong to grayctl inside it."""

    binary: str = "nginx"
    conf: str = "/etc/nginx/nginx.conf"
    prefix: str = ""
    pid_file: str = ""
    error_log: str = ""
    check_timeout: Duration = Duration(10.0)
    marker: str = "127.0.0.1:8409"
    refuse: str = "127.0.0.1:8410"


class ReloadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How often nginx may be reloaded, and how long a proof may take."""

    min_interval: Duration = Duration(0.2)
    max_delay: Duration = Duration(2.0)
    max_old_workers: Count = 0
    confirm_timeout: Duration = Duration(10.0)

    def ceiling(self, serving: int) -> int:
        """From how many workers of earlier generations on reloads wait, while so many serve."""
        return self.max_old_workers or _OLD_FOR_EACH * max(1, serving)


class GuardSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When a disappearance is too large to be believed at once."""

    max_loss: Share = 0.5
    min_instances: Count = 10
    window: Duration = Duration(30.0)
    hold: Duration = Duration(300.0)


class DampingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When an instance flips too often, and what is done with it until it is calm."""

    max_flips: Count = 0
    window: Duration = Duration(120.0)
    calm: Duration = Duration(60.0)
    keep: str = "out"


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The loopback listener of /metrics, /healthz and /readyz."""

    listen: str = "127.0.0.1:8408"


class ControlSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where commands reach the daemon."""

    socket: str = "/run/grayctl/control.sock"


class ServiceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One service without a Release (a Release wins)."""

    when_empty: str = "keep_last"
    balance: str = "round_robin"
    keepalive: Count = 32
    max_fails: Count = 1
    fail_timeout: Duration = Duration(10.0)
    zone: str = "auto"


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How the daemon speaks. `auto` is JSON under systemd and colours on a terminal."""

    level: str = "info"
    format: str = "auto"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an installation may choose."""

    node: str = ""
    labels: dict[str, str] = {}
    state_dir: str = "/var/lib/grayctl"
    templates_dir: str = ""
    keep_generations: Annotated[int, Meta(ge=2)] = 20
    consul: ConsulSettings = ConsulSettings()
    watch: WatchSettings = WatchSettings()
    nginx: NginxSettings = NginxSettings()
    reload: ReloadSettings = ReloadSettings()
    guard: GuardSettings = GuardSettings()
    damping: DampingSettings = DampingSettings()
    metrics: MetricsSettings = MetricsSettings()
    control: ControlSettings = ControlSettings()
    log: LogSettings = LogSettings()
    services: dict[str, ServiceSettings] = {}

    def service(self, name: str) -> ServiceSettings:
        """The settings of one service, defaults where the file says nothing."""
        return self.services.get(name, _SERVICE_DEFAULTS)


_SERVICE_DEFAULTS = ServiceSettings()

# key path -> (test, what is allowed): what a type alone cannot say
_RULES: dict[str, tuple[re.Pattern[str], str]] = {
    # it stands in nginx's configuration
    "state_dir": (
        re.compile(r"[^\x00-\x1f\x7f\"'\\${};]+\Z"),
        "a directory, without quotes, \\, $, braces, semicolons",
    ),
    "watch.version_from": (_SOURCE, "meta:KEY, tag:PREFIX= or weights"),
    "watch.weight_from": (_SOURCE, "meta:KEY, tag:PREFIX= or weights"),
    "watch.backup_from": (_SOURCE, "meta:KEY or tag:PREFIX="),
    "nginx.marker": (_LISTEN, "a loopback address and port, such as 127.0.0.1:8409"),
    "nginx.refuse": (_LISTEN, "a loopback address and port, such as 127.0.0.1:8410"),
    "metrics.listen": (_LISTEN, "a loopback address and port, such as 127.0.0.1:8408"),
    "damping.keep": (re.compile(r"(out|in)\Z"), "out or in"),
    "log.level": (re.compile(r"(debug|info|warning|error)\Z"), "debug, info, warning or error"),
    "log.format": (re.compile(r"(auto|json|console)\Z"), "auto, json or console"),
    "consul.address": (
        re.compile(r"(https?://[^/\s]+/?|unix:///\S+)\Z"),
        "http://HOST:PORT, https://HOST:PORT or unix:///PATH",
    ),
    "consul.prefix": (
        re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z"),
        "a key prefix without slashes at its ends",
    ),
    "services.*.when_empty": (re.compile(r"(keep_last|reject)\Z"), "keep_last or reject"),
    "services.*.balance": (_BALANCE, "round_robin, least_conn, ip_hash, random or 'hash $variable'"),
    "services.*.zone": (re.compile(r"(auto|\d+[km])\Z"), "auto, or a size such as 64k or 1m"),
}


def load(path: Path | None, env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings file and apply the environment.

    Args:
        path: the file; None means GRAYCTL_CONFIG, or /etc/grayctl/grayctl.toml where that exists, else defaults.
        env: the environment; None means this process's own.

    Raises:
        SettingsError: with file, line, key and what is allowed.
    """
    env = os.environ if env is None else env
    path = path_in_force(path, env)
    if path is None:
        return _finish(Settings(), env)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"{path}: cannot read the settings: {reason}. Name another file with --config or GRAYCTL_CONFIG"
        ) from error
    return _finish(parse(text, str(path)), env)


def path_in_force(path: Path | None, env: Mapping[str, str] | None = None) -> Path | None:
    """The settings file that `load` reads; None when it takes the defaults."""
    env = os.environ if env is None else env
    if path is None and env.get("GRAYCTL_CONFIG"):
        return Path(env["GRAYCTL_CONFIG"])
    return path or (DEFAULT_PATH if DEFAULT_PATH.exists() else None)


def parse(text: str, name: str) -> Settings:
    """Read settings from TOML text; `name` stands in messages.

    Raises:
        SettingsError: with file, line, key and what is allowed.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        at = line[1] if line else text.count("\n") + 1  # the rest: "at end of document"
        raise SettingsError(f"{name}:{at}: this is no TOML: {error}") from error
    _refuse_unknown(raw, Settings, "", text, name)
    if isinstance(raw.get("consul"), dict) and "token" in raw["consul"]:
        raise SettingsError(
            f"{where(name, text, 'consul.token')}: a token does not belong in the settings; "
            "put it into a file and name that in token_file"
        )
    if isinstance(raw.get("services"), dict):  # one by one: msgspec does not name the key of a mapping
        for service, body in raw["services"].items():
            _convert(body, ServiceSettings, f"services.{quoted(service)}", text, name)
    settings = _convert(raw, Settings, "", text, name)
    _check_rules(msgspec.to_builtins(settings, enc_hook=_encode), text, name)
    _check_ports(settings, text, name)
    return settings


def _convert(raw: object, kind: type[_T], prefix: str, text: str, name: str) -> _T:
    try:
        return msgspec.convert(raw, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `")
        inner = re.sub(r"\[(\d+|\.\.\.)\]", "", at.rstrip("`").removeprefix("$"))
        key = f"{prefix}{inner}".removeprefix(".")
        raise SettingsError(f"{where(name, text, key)}: {message}") from error


def _decode(kind: type, value: object) -> object:
    if kind is Duration:
        return Duration.parse(value)
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError(kind)  # msgspec's protocol for "not mine"


def _encode(value: object) -> object:
    return float(value) if isinstance(value, Duration) else str(value)


def _refuse_unknown(raw: Mapping[str, Any], kind: type, prefix: str, text: str, name: str) -> None:
    """Refuse keys nobody reads: a typing error in a setting must not pass in silence."""
    hints = get_type_hints(kind)
    for key, value in raw.items():
        path = f"{prefix}{quoted(key)}"
        if key not in hints:
            hint = did_you_mean(key, hints)
            allowed = ", ".join(sorted(set(hints) - {"token"}))
            raise SettingsError(f"{where(name, text, path)}: unknown setting. {hint}Allowed here: {allowed}")
        inner = hints[key]
        if isinstance(inner, type) and issubclass(inner, Struct) and isinstance(value, dict):
            _refuse_unknown(value, inner, f"{path}.", text, name)
        elif key == "services" and kind is Settings and isinstance(value, dict):
            for service, body in value.items():
                if isinstance(body, dict):
                    _refuse_unknown(body, get_args(inner)[1], f"{path}.{quoted(service)}.", text, name)


def _check_rules(values: Mapping[str, Any], text: str, name: str) -> None:
    for path, (pattern, allowed) in _RULES.items():
        for concrete, value in _select(values, path.split("."), ""):
            for one in value if isinstance(value, list | tuple) else [value]:
                if not pattern.match(one):
                    raise SettingsError(f"{where(name, text, concrete)}: {one!r} is not allowed. Write {allowed}")


def _select(values: Mapping[str, Any], path: list[str], prefix: str) -> list[tuple[str, Any]]:
    head, *rest = path
    keys = list(values) if head == "*" else [head]
    found: list[tuple[str, Any]] = []
    for key in keys:
        if rest:
            found += _select(values[key], rest, f"{prefix}{quoted(key)}.")
        else:
            found.append((f"{prefix}{quoted(key)}", values[key]))
    return found


def _check_ports(settings: Settings, text: str, name: str) -> None:
    """The marker, the four refusals and the metrics must be addresses, and not share a port."""
    taken: dict[tuple[str, int], str] = {}
    for key, value, count in (
        ("nginx.refuse", settings.nginx.refuse, 4),
        ("nginx.marker", settings.nginx.marker, 1),
        ("metrics.listen", settings.metrics.listen, 1),
    ):
        try:
            host, port = listen_address(value)
            ipaddress.ip_address(host)
        except ValueError:
            host, port = "", 0
        if not 1 <= port <= _MAX_PORT + 1 - count:
            allowed = f"{_RULES[key][1]}; ports go from 1 to {_MAX_PORT + 1 - count} here"
            raise SettingsError(f"{where(name, text, key)}: {value!r} is not allowed. Write {allowed}")
        for address in ((host, port + offset) for offset in range(count)):
            if address in taken:
                raise SettingsError(
                    f"{where(name, text, key)}: {value} is taken by {taken[address]} "
                    "(nginx.refuse takes four consecutive ports). Choose another port"
                )
            taken[address] = key


def _finish(settings: Settings, env: Mapping[str, str]) -> Settings:
    """Apply the environment's standard variables; the file wins over CONSUL_HTTP_ADDR and the like."""
    consul = settings.consul
    changes: dict[str, str] = {}
    if env.get("CONSUL_HTTP_ADDR") and consul.address == ConsulSettings().address:
        changes["address"] = _address_from_env(env["CONSUL_HTTP_ADDR"], ssl=env.get("CONSUL_HTTP_SSL", ""))
    for key, variable in (
        ("token", "CONSUL_HTTP_TOKEN"),
        ("token_file", "CONSUL_HTTP_TOKEN_FILE"),
        ("ca_file", "CONSUL_CACERT"),
        ("cert_file", "CONSUL_CLIENT_CERT"),
        ("key_file", "CONSUL_CLIENT_KEY"),
        ("tls_server_name", "CONSUL_TLS_SERVER_NAME"),
    ):
        if env.get(variable) and not getattr(consul, key):
            changes[key] = env[variable]
    if "token" in changes:
        changes["token"] = Secret(changes["token"])
    if consul.token_file:
        changes.pop("token", None)
    consul = msgspec.structs.replace(consul, **changes)
    return msgspec.structs.replace(
        settings,
        consul=consul,
        node=settings.node or socket.gethostname(),
        state_dir=str(Path(settings.state_dir).absolute()),
    )


def _address_from_env(value: str, *, ssl: str) -> str:
    address = value if "://" in value else f"{'https' if ssl in {'1', 'true'} else 'http'}://{value}"
    pattern, allowed = _RULES["consul.address"]
    if not pattern.match(address):
        raise SettingsError(f"CONSUL_HTTP_ADDR: {value!r} is not allowed. Write HOST:PORT, {allowed}")
    return address


def listen_address(value: str) -> tuple[str, int]:
    """`127.0.0.1:8409` as ("127.0.0.1", 8409); IPv6 comes in brackets and leaves without."""
    parts = urlsplit(f"//{value}")
    return cast("str", parts.hostname), cast("int", parts.port)


def read_token(consul: ConsulSettings) -> Secret:
    """The token: the file's content when one is named, else CONSUL_HTTP_TOKEN, else empty.

    Raises:
        SettingsError: when the file cannot be read or is empty. The token itself is never in a message.
    """
    if not consul.token_file:
        return consul.token
    try:
        token = Path(consul.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(
            f"consul.token_file: cannot read {consul.token_file}: {reason}. "
            "Make it readable for the user that grayctl runs as"
        ) from error
    if not token or any(not 33 <= ord(letter) <= 126 for letter in token):  # noqa: PLR2004 -- printable ASCII
        raise SettingsError(
            f"consul.token_file: {consul.token_file} holds no token: write the token's secret id on one line"
        )
    return Secret(token)
