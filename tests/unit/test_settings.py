"""Settings: every mistake has one message with file, line, key and what is allowed."""

from pathlib import Path

import pytest

from grayctl.errors import SettingsError
from grayctl.settings import ConsulSettings, Duration, Secret, Settings, load, parse, read_token


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[reload]\nmin_intervall = '1s'",
            "f.toml:2: reload.min_intervall: unknown setting. Did you mean min_interval?",
        ),
        ("nod = 'x'", "f.toml:1: nod: unknown setting. Did you mean node?"),
        ("[watch]\n\nwait = '50x'", "f.toml:3: watch.wait: '50x' is no duration: write 250ms, 2s, 10m or 1h"),
        ("[watch]\nwait = 50", "f.toml:2: watch.wait: 50 is no duration"),
        ("[watch]\nmax_long_polls = 'many'", "f.toml:2: watch.max_long_polls: Expected `int`, got `str`"),
        ("[guard]\nmax_loss = 2", "f.toml:2: guard.max_loss: Expected `float` <= 1.0"),
        ("\nnode = ", "f.toml:2: this is no TOML: Invalid value"),
        ("\nnode = 'x", "f.toml:2: this is no TOML: "),
        ("a.b = 1", "f.toml:1: a: unknown setting"),
        ("'a b' = 1", 'f.toml:1: "a b": unknown setting'),
        ("consul = 5", "f.toml:1: consul: Expected `object`, got `int`"),
        ("[[consul]]", "f.toml:1: consul: Expected `object`, got `array`"),
        ("consul = 'token'", "f.toml:1: consul: Expected `object`, got `str`"),
        ("[services.shop]\nkeepalive = -1", "f.toml:2: services.shop.keepalive: Expected `int` >= 0"),
        ("[services.a]\n[services.b]\nmax_fails = 'x'", "f.toml:3: services.b.max_fails: Expected `int`, got `str`"),
        ("services.shop = 5", "f.toml:1: services.shop: Expected `object`, got `int`"),
        ("[services]\n\nshop = {balance = 'fast'}", "f.toml:3: services.shop.balance: 'fast' is not allowed"),
        (
            "[services.'shop.api']\nkeepalive = 1\nbalance = 'fast'",
            "f.toml:3: services.\"shop.api\".balance: 'fast' is not allowed",
        ),
        ("[services.\"shop.api\"]\nbalnce = 'random'", 'f.toml:2: services."shop.api".balnce: unknown setting'),
        ("[services.shop]\nbalance = 'hash $a; }'", "f.toml:2: services.shop.balance: 'hash $a; }' is not allowed"),
        (f"[services.shop]\nbalance = 'hash {'a' * 256}'", "f.toml:2: services.shop.balance: 'hash aaa"),
        (f"[watch]\nwait = '{'9' * 400}s'", "f.toml:2: watch.wait: '999"),
        ("[watch]\nservices = 'shop'", "f.toml:2: watch.services: Expected `array`, got `str`"),
        ("[watch]\nservices = ['a', 5]", "f.toml:2: watch.services: Expected `str`, got `int`"),
        ("[guard]\nmax_loss = nan", "f.toml:2: guard.max_loss: Expected `float` > 0"),
        ("keep_generations = true", "f.toml:1: keep_generations: Expected `int`, got `bool`"),
        ("keep_generations = 1", "f.toml:1: keep_generations: Expected `int` >= 2"),
        ("node = 2026-01-01", "f.toml:1: node: Expected `str`, got `date`"),
        (
            "[nginx]\nrefuse = '127.0.0.1:65533'",
            "f.toml:2: nginx.refuse: '127.0.0.1:65533' is not allowed. Write a loop",
        ),
        ("[nginx]\nrefuse = '127.0.0.1:99999'", "f.toml:2: nginx.refuse: '127.0.0.1:99999' is not allowed"),
        ("[nginx]\nmarker = '127.0.0.1:0'", "f.toml:2: nginx.marker: '127.0.0.1:0' is not allowed"),
        ("[nginx]\nmarker = '127.999.0.1:80'", "f.toml:2: nginx.marker: '127.999.0.1:80' is not allowed"),
        ("[metrics]\nlisten = '127.0.0.1:8409'", "f.toml:2: metrics.listen: 127.0.0.1:8409 is taken by nginx.marker"),
        ("[metrics]\nlisten = '0.0.0.0:9100'", "f.toml:2: metrics.listen: '0.0.0.0:9100' is not allowed"),
        ("state_dir = ''", "f.toml:1: state_dir: '' is not allowed. Write a directory"),
        ("state_dir = '/a;b'", "f.toml:1: state_dir: '/a;b' is not allowed"),
        ("state_dir = '/a$b'", "f.toml:1: state_dir: '/a$b' is not allowed"),
        ("[consul]\nprefix = '/x/'", "f.toml:2: consul.prefix: '/x/' is not allowed. Write a key prefix"),
        ("[log]\nlevel = 'INFO'", "f.toml:2: log.level: 'INFO' is not allowed. Write debug, info, warning or error"),
        ("[watch]\nversion_from = ['tags']", "f.toml:2: watch.version_from: 'tags' is not allowed. Write meta:KEY"),
        (
            "[services.shop]\nbalance = 'fast'",
            "f.toml:2: services.shop.balance: 'fast' is not allowed. Write round_robin",
        ),
        (
            "[services.shop]\nbalnce = 'random'",
            "f.toml:2: services.shop.balnce: unknown setting. Did you mean balance?",
        ),
        ("[services.shop]\nwhen_empty = 'panic'", "f.toml:2: services.shop.when_empty: 'panic' is not allowed"),
        ("[nginx]\nmarker = '0.0.0.0:80'", "f.toml:2: nginx.marker: '0.0.0.0:80' is not allowed. Write a loopback"),
        ("[nginx]\nmarker = '127.0.0.1:8412'", "f.toml:2: nginx.marker: 127.0.0.1:8412 is taken by nginx.refuse"),
        ("[consul]\ntoken = 'x'", "f.toml:2: consul.token: a token does not belong in the settings"),
        ("[consul]\naddress = 'localhost'", "f.toml:2: consul.address: 'localhost' is not allowed. Write http://HOST"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, "f.toml")
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the settings: No such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "latin").write_bytes(b"node = '\xff'")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(tmp_path / "latin", {})
    with pytest.raises(SettingsError, match="Is a directory"):
        load(None, {"GRAYCTL_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("name", ["nginx.refuse", "nginx.marker", "metrics.listen"])
def test_the_last_port_is_a_port(name: str) -> None:
    table, _, key = name.partition(".")
    port = 65532 if name == "nginx.refuse" else 65535
    assert parse(f"[{table}]\n{key} = '[::1]:{port}'", "f.toml")


def test_an_address_in_the_environment_is_judged_too() -> None:
    with pytest.raises(SettingsError, match=r"CONSUL_HTTP_ADDR: 'a b' is not allowed\. Write HOST:PORT"):
        load(None, {"CONSUL_HTTP_ADDR": "a b"})


def test_every_standard_variable_is_read() -> None:
    variables = {
        "CONSUL_HTTP_ADDR": "unix:///run/consul.sock",
        "CONSUL_HTTP_TOKEN_FILE": "/t",
        "CONSUL_CACERT": "/ca",
        "CONSUL_CLIENT_CERT": "/cert",
        "CONSUL_CLIENT_KEY": "/key",
        "CONSUL_TLS_SERVER_NAME": "consul.example",
    }
    consul = load(None, variables).consul
    assert [consul.address, consul.token_file, consul.ca_file, consul.cert_file, consul.key_file] == [
        *list(variables.values())[:5]
    ]
    assert consul.tls_server_name == "consul.example"


def test_the_environment_speaks_where_the_file_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("node = 'n'\n")
    env = {"CONSUL_HTTP_ADDR": "10.0.0.5:8501", "CONSUL_HTTP_SSL": "true", "CONSUL_CACERT": "/ca.pem"}
    consul = load(path, env | {"CONSUL_HTTP_TOKEN": "from-env"}).consul
    assert (consul.address, consul.ca_file, consul.token) == ("https://10.0.0.5:8501", "/ca.pem", "from-env")
    path.write_text("[consul]\naddress = 'http://10.0.0.6:8500'\ntoken_file = '/etc/token'\n")
    consul = load(None, env | {"GRAYCTL_CONFIG": str(path), "CONSUL_HTTP_TOKEN": "from-env"}).consul
    assert (consul.address, consul.token) == ("http://10.0.0.6:8500", "")


def test_a_token_never_shows_itself(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("5ec2e7\n")
    token = read_token(ConsulSettings(token_file=str(path)))
    assert token == "5ec2e7"
    assert "5ec2e7" not in repr(ConsulSettings(token=token))
    assert "5ec2e7" not in repr(Settings(consul=ConsulSettings(token=Secret("5ec2e7"))))


@pytest.mark.parametrize(
    ("content", "message"), [("", "holds no token"), ("two words", "holds no token"), (None, "No such")]
)
def test_a_token_file_that_holds_none_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_token(ConsulSettings(token_file=str(path)))
    assert str(path) in str(caught.value)
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("2s", 2), ("1.5s", 1.5), ("10m", 600), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds
