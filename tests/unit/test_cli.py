"""The command line as a stranger meets it: help, completion, exit codes, nothing slow imported for --help."""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grayctl.cli import cli
from grayctl.model.outcome import Applied, Held, Outcome, Rejected, RolledBack, Unchanged
from grayctl.quarantine import Ward
from grayctl.report import result
from tests.support.ports import free_ports
from tests.support.process import clean_env

SLOW = {
    "aiohttp",
    "asyncio",
    "msgspec",
    "rich",
    "jinja2",
    "structlog",
    "consul",
    "crossplane",
    "prometheus_client",
    "yaml",
}


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


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command by its words, groups too."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_every_command_has_help_and_every_one_that_acts_an_example_of_itself(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*words, "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: cli {' '.join(words)}".rstrip())
    if "Commands:" not in shown.output:
        _, found, example = shown.output.partition("Example")
        assert found
        assert re.search(rf"grayctl( --config \S+)? {' '.join(words)}\b", example)


@pytest.mark.parametrize("words", [words for words in commands(cli) if words], ids=" ".join)
def test_an_unknown_option_exits_2(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*words, "--nonsense"])
    assert done.exit_code == 2
    assert "nonsense" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = grayctl("completion", shell)
    assert done.returncode == 0
    assert "_GRAYCTL_COMPLETE" in done.stdout


def test_the_completion_script_is_bash_and_completes_commands() -> None:
    script = grayctl("completion", "bash").stdout
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    code = "from grayctl.cli import cli; cli(prog_name='grayctl')"
    asked = {"_GRAYCTL_COMPLETE": "bash_complete", "COMP_WORDS": "grayctl gen", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=clean_env(asked)
    )
    assert done.stdout.split() == ["plain,generation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["render", "--out", "x"], "--out goes with --catalog"),
        (["render", "--diff", "--json"], "--json goes without --diff"),
        (["render", "--diff", "--catalog", "c.yaml"], "--diff goes without --catalog"),
        (["generation", "show", "many"], "'many' is not a valid integer"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
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


@pytest.mark.parametrize(
    ("outcome", "ward", "code"),
    [
        (Unchanged(1), Ward(), 0),
        (Applied(2, proven=True, changed=(), quarantined={}, timings={}), Ward(), 0),
        (Applied(2, proven=False, changed=(), quarantined={}, timings={}), Ward(), 0),
        (Applied(2, proven=True, changed=(), quarantined={}, timings={}), Ward().admit("shop", "why", 1.0), 1),
        (Held(1, "freeze", "peak"), Ward(), 1),
        (Rejected(1, "d", "no"), Ward(), 1),
        (RolledBack(1, 2, "d", "no", restored=True), Ward(), 3),
        (RolledBack(1, 2, "d", "no", restored=False), Ward().admit("shop", "why", 1.0), 3),
    ],
)
def test_what_an_outcome_makes_a_command_end_with(outcome: Outcome, ward: Ward, code: int) -> None:
    made = result(outcome, ward)
    assert made.exit_code == code
    assert ("shop is in quarantine: why" in made.message) is bool(ward.cases)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a machine without daemon, Consul and nginx."""
    path = tmp_path / "g.toml"
    path.write_text(
        f"""state_dir = "{tmp_path}/state"
[consul]
address = "http://127.0.0.1:{free_ports(1)[0]}"
[nginx]
binary = "{tmp_path}/nginx"
[control]
socket = "{tmp_path}/c.sock"
"""
    )
    return path


CATALOG = "services:\n  shop: [{id: a, address: 10.0.0.1, port: 80}, {id: b, address: x y, port: 80}]\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["render", "--catalog", "{folder}/c.yaml", "--json"], 0),
        (["render", "--catalog", "{folder}/c.yaml", "--out", "{folder}/out", "--json"], 0),
        (["generation", "list", "--json"], 0),
        (["freeze", "--for", "1h", "--reason", "peak", "--json"], 0),
        (["unfreeze", "--json"], 0),
        (["check", "--json"], 1),
    ],
)
def test_json_is_one_document_on_standard_output(tmp_path: Path, config: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "c.yaml").write_text(CATALOG)
    (tmp_path / "state").mkdir()
    done = grayctl("--config", config, *[word.format(folder=tmp_path) for word in arguments])
    assert done.returncode == code, done.stderr
    json.loads(done.stdout)


def test_the_json_of_an_offline_render_is_what_the_files_say(tmp_path: Path, config: Path) -> None:
    (tmp_path / "c.yaml").write_text(CATALOG)
    out = tmp_path / "out"
    done = grayctl("--config", config, "render", "--catalog", tmp_path / "c.yaml", "--out", out, "--json")
    said = json.loads(done.stdout)
    assert list(said["objects"].values()) == [path.read_text() for path in out.glob("objects/*.conf")]
    assert said["digest"] in (out / "http.conf").read_text()


def test_a_place_that_nginx_could_not_include_is_refused(tmp_path: Path, config: Path) -> None:
    (tmp_path / "c.yaml").write_text(CATALOG)
    done = grayctl("--config", config, "render", "--catalog", tmp_path / "c.yaml", "--out", tmp_path / "a;b")
    assert done.returncode == 2
    assert "--out: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["check"], ["completion", "bash"]])
def test_a_pipe_gets_no_colours(config: Path, arguments: list[str]) -> None:
    done = grayctl("--config", config, *arguments)
    assert done.stdout + done.stderr
    assert "\x1b[" not in done.stdout + done.stderr


def test_no_color_is_heeded_on_a_terminal(config: Path) -> None:
    def said(**more: str) -> str:
        ours, theirs = pty.openpty()
        plain = {key: value for key, value in clean_env().items() if key != "NO_COLOR"}
        command = [sys.executable, "-m", "grayctl", "--config", str(config), "check"]
        try:
            subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60, check=False, env=plain | more)
            return os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)

    assert "\x1b[" in said()
    quiet = said(NO_COLOR="1")
    assert "failure" in quiet
    assert "\x1b[" not in quiet


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
    assert "server 10.0.0.1:80;" in done.stdout
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


@pytest.mark.parametrize("words", [("list",), ("show",), ("diff", "1")], ids=" ".join)
def test_who_may_not_read_the_state_directory_is_told_so(words: tuple[str, ...]) -> None:
    """Not that there is no generation, or a damaged one."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        Path(name).chmod(0o755)
        state, config = Path(name, "state"), Path(name, "grayctl.toml")
        (state / "generations").mkdir(parents=True)
        config.write_text(f'state_dir = "{state}"\n', encoding="utf-8")
        state.chmod(0o000)
        try:
            if me == 0:
                os.seteuid(65534)
            result = CliRunner().invoke(cli, ["--config", str(config), "generation", *words])
        finally:
            os.seteuid(me)
            state.chmod(0o700)
    assert f"{state}: permission denied" in str(result.exception)
