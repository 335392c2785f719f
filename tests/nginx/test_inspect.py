"""What the user's own configuration says is read as nginx reads it."""

from pathlib import Path

import pytest

from grayctl.errors import NginxConfigError, NginxError
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect, is_fresh
from grayctl.settings import NginxSettings
from tests.support.nginx import BINARY, Nginx, write


def settings(
    conf: Path, *, binary: str = BINARY, prefix: str = "", pid_file: str = "", error_log: str = ""
) -> NginxSettings:
    return NginxSettings(binary=binary, conf=str(conf), prefix=prefix, pid_file=pid_file, error_log=error_log)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "nginx.conf"


def test_what_the_configuration_names_wins_over_the_compiled_default(conf: Path) -> None:
    conf.write_text("pid run/n.pid; error_log /var/log/x.log info; events {} http { variables_hash_bucket_size 128; }")
    facts = inspect(settings(conf), conf.parent / "state")
    assert facts.version.count(".") == 2
    assert facts.pid_file == facts.prefix / "run/n.pid", "relative to the prefix"
    assert facts.error_log == Path("/var/log/x.log")
    assert facts.variables_hash_bucket_size == 128
    assert facts.conf == conf
    assert not facts.is_script


def test_settings_win_over_the_configuration(conf: Path, tmp_path: Path) -> None:
    conf.write_text("pid a.pid; error_log a.log; events {}")
    facts = inspect(settings(conf, pid_file="/b.pid", error_log="/b.log", prefix=str(tmp_path)), tmp_path / "state")
    assert (facts.pid_file, facts.error_log, facts.prefix) == (Path("/b.pid"), Path("/b.log"), tmp_path)


@pytest.mark.parametrize("target", ["stderr", "syslog:server=unix:/dev/log", "memory:32k"])
def test_an_error_log_that_is_no_file_is_none(conf: Path, target: str) -> None:
    conf.write_text(f"error_log {target}; events {{}}")
    assert inspect(settings(conf), conf.parent / "state").error_log is None


@pytest.mark.parametrize(
    ("text", "included"),
    [
        ("http { include {state}/current/http.conf; }", True),
        ("http { include state/current/http.conf; }", True),
        ("http { include {state}/../state/current/http.conf; }", True),
        ("http { include conf.d/*.conf; }", True),
        ("include conf.d/whole.inc; ", True),
        ("http { server { include {state}/current/http.conf; } }", False),
        ("http { include {state}/current/stream.conf; }", False),
        ("http { # include {state}/current/http.conf;\n }", False),
        ("include {state}/current/http.conf;", False),
        ("http { }", False),
    ],
)
def test_the_include_counts_where_nginx_would_see_it(conf: Path, text: str, *, included: bool) -> None:
    state = conf.parent / "state"
    (conf.parent / "conf.d").mkdir()
    (conf.parent / "conf.d/gray.conf").write_text(f"include {state}/current/http.conf;")
    (conf.parent / "conf.d/whole.inc").write_text(f"http {{ include {state}/current/http.conf; }}")
    conf.write_text("events {} " + text.replace("{state}", str(state)))
    assert inspect(settings(conf), state).included is included


def test_what_grayctl_generates_is_not_parsed(nginx: Nginx, store: Store) -> None:
    """A thousand services would cost seconds, and a damaged object must not hide the user's own configuration."""
    store.flip(write(store, nginx.files("v0", http="} this { is ; no ' configuration")).number)
    facts = inspect(nginx.settings(), nginx.state_dir)
    assert facts.included
    assert not [path for path, _ in facts.sources if path.startswith(str(nginx.state_dir))]


def test_streams_are_had_when_the_module_is_loaded(conf: Path) -> None:
    conf.write_text("load_module modules/ngx_stream_module.so; events {}")
    assert inspect(settings(conf), conf.parent / "state").has_stream


def test_a_change_makes_facts_stale(conf: Path) -> None:
    (conf.parent / "conf.d").mkdir()
    conf.write_text("events {} http { include conf.d/*.conf; }")
    facts = inspect(settings(conf), conf.parent / "state")
    assert is_fresh(facts)
    (conf.parent / "conf.d/new.conf").write_text("# appeared\n")
    assert not is_fresh(facts)
    facts = inspect(settings(conf), conf.parent / "state")
    conf.unlink()
    assert not is_fresh(facts)


def test_a_wrapper_is_recognised(conf: Path, tmp_path: Path) -> None:
    conf.write_text("events {}")
    wrapper = tmp_path / "wrapped"
    wrapper.write_text('#!/bin/sh\nexec nginx "$@"\n')
    wrapper.chmod(0o755)
    assert inspect(settings(conf, binary=str(wrapper)), tmp_path / "state").is_script


def test_a_missing_binary_is_named(conf: Path) -> None:
    with pytest.raises(NginxError, match=r"nginx\.binary: there is no executable 'no-such-nginx'"):
        inspect(settings(conf, binary="no-such-nginx"), conf.parent / "state")


def test_a_binary_that_is_no_nginx_is_named(conf: Path) -> None:
    with pytest.raises(NginxError, match=r"names no nginx version|does not answer"):
        inspect(settings(conf, binary="true"), conf.parent / "state")


@pytest.mark.parametrize("text", [None, "events { ", "events }"])
def test_an_unreadable_configuration_is_named_with_its_path(conf: Path, text: str | None) -> None:
    if text is not None:
        conf.write_text(text)
    with pytest.raises(NginxConfigError, match=str(conf)):
        inspect(settings(conf), conf.parent / "state")


def test_an_included_file_that_only_nginx_understands_is_left_to_nginx(conf: Path) -> None:
    (conf.parent / "odd.conf").write_text("events } {")
    conf.write_text("pid /x.pid; include odd.conf;")
    assert inspect(settings(conf), conf.parent / "state").pid_file == Path("/x.pid")
