"""The command line as a stranger meets it: help, completion, exit codes, nothing slow imported for --help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_env

SLOW = {"aiohttp", "rich", "jinja2", "structlog", "consul", "crossplane", "prometheus_client", "yaml"}


def grayctl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "grayctl", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_env(),
    )


def test_help_imports_nothing_slow() -> None:
    code = "import sys; from grayctl.cli import cli; cli(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=clean_env()
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1].replace("'", '"'))}
    assert not loaded & SLOW
    assert "Exit codes: 0 done" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = grayctl("completion", shell)
    assert done.returncode == 0
    assert "_GRAYCTL_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["render", "--out", "x"], "--out goes with --catalog"),
        (["--config", "/nowhere.toml", "status"], "/nowhere.toml: cannot read the settings"),
        (["render", "--catalog", "/nowhere.yaml"], "/nowhere.yaml: cannot read the catalog"),
        (["freeze", "--for", "soon"], "--for: 'soon' is no duration"),
    ],
)
def test_wrong_use_exits_2_with_one_message(arguments: list[str], message: str) -> None:
    done = grayctl(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_without_a_daemon_exits_4(tmp_path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text(f"state_dir = '{tmp_path}/state'\n[control]\nsocket = '{tmp_path}/c.sock'\n")
    done = grayctl("--config", config, "generation", "rollback", "1")
    assert done.returncode == 4
    assert "no daemon answers" in done.stderr
    assert "systemctl start grayctl" in done.stderr


def test_an_offline_render_needs_neither_consul_nor_nginx(tmp_path: Path) -> None:
    catalog = tmp_path / "c.yaml"
    catalog.write_text("services:\n  shop: [{id: a, address: 10.0.0.1, port: 80}, {id: b, address: x y, port: 80}]\n")
    config = tmp_path / "g.toml"
    config.write_text(f"state_dir = '{tmp_path}/state'\n")
    done = grayctl("--config", config, "render", "--catalog", catalog)
    assert done.returncode == 0
    assert "server 10.0.0.1:80 weight=1" in done.stdout
    assert "shop: b: address 'x y'" in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_template_error_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "service.conf.j2").write_text("{{ nothing }}\n")
    catalog = tmp_path / "c.yaml"
    catalog.write_text("services:\n  shop: [{id: a, address: 10.0.0.1, port: 80}]\n")
    config = tmp_path / "g.toml"
    config.write_text(f"templates_dir = '{tmp_path}'\nstate_dir = '{tmp_path}/state'\n")
    done = grayctl("--config", config, "render", "--catalog", catalog)
    assert done.returncode == 1
    assert f"{tmp_path}/service.conf.j2:1: 'nothing' is undefined" in done.stderr
    assert "Traceback" not in done.stderr
