"""An nginx.conf with something wrong in it, what `check` finds there, and a reader who does what it says."""

import asyncio
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from grayctl.advice.finding import Finding, How
from grayctl.advice.survey import survey
from grayctl.cli import cli
from grayctl.nginx.check import Checked, check
from grayctl.nginx.inspect import inspect
from grayctl.settings import Settings, parse
from tests.support.nginx import Nginx
from tests.support.ports import free_ports

SNIPPET = "include {state}/snippets/shop.conf;"
PASS = "proxy_pass http://$gray_shop;"
INCLUDE = "include {state}/current/http.conf;"


class Bench:
    """A node that is clean until `write` or `configure` puts something wrong into it; nothing of it runs.

    In every text `{state}` is the state directory, `{folder}` the one of nginx.conf, `{web}`, `{marker}`, `{refuse}`
    and `{metrics}` are ports.
    """

    def __init__(self, nginx: Nginx) -> None:
        self.nginx = nginx
        self.folder = nginx.folder
        self.config = nginx.folder / "grayctl.toml"
        self.metrics, self.consul = free_ports(2)
        self.root = Path("/")
        self.configure()
        self.write()

    def fill(self, text: str) -> str:
        nginx = self.nginx
        names = {"folder": self.folder, "state": nginx.state_dir, "web": nginx.web, "marker": nginx.marker}
        names |= {"refuse": nginx.refuse, "metrics": self.metrics}
        return re.sub(r"\{(\w+)\}", lambda found: str(names.get(found[1], found[0])), text)

    # ------------------------------------------------------------ what is wrong

    def write(
        self,
        *,
        main: str = "worker_shutdown_timeout 5m;",
        events: str = "",
        include: str = INCLUDE,
        http: str = "",
        server: str = "",
        location: str = f"{SNIPPET}\n{PASS}",
        error_log: str = "error_log {folder}/error.log;",
        pid: str = "pid {folder}/nginx.pid;",
        files: dict[str, str] | None = None,
    ) -> None:
        """Write nginx.conf, each directive on a line of its own, and other `files` beside it."""
        temporary = "\n".join(
            f"{kind}_temp_path {{folder}}/tmp/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"""{main}
{pid}
{error_log}
events {{
{events}
}}
http {{
{temporary}
access_log {{folder}}/access.log;
{include}
{http}
server {{
listen 127.0.0.1:{{web}};
{server}
location / {{
{location}
}}
}}
}}
"""
        self.nginx.conf.write_text(self.fill(text), encoding="utf-8")
        for name, content in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.fill(content), encoding="utf-8")

    def configure(self, more: str = "") -> None:
        """Write the settings file; `more` is TOML text, joined table by table."""
        self.config.write_text(
            self.fill(f"""node = "edge-1"
state_dir = "{{state}}"
[consul]
address = "http://127.0.0.1:{self.consul}"
prefix = "{self.folder.name}"
[watch]
services = ["shop"]
[nginx]
binary = "{self.nginx.binary}"
conf = "{self.nginx.conf}"
marker = "127.0.0.1:{{marker}}"
refuse = "127.0.0.1:{{refuse}}"
[metrics]
listen = "127.0.0.1:{{metrics}}"
[control]
socket = "{{folder}}/control.sock"
"""),
            encoding="utf-8",
        )
        self.join(self.fill(more))

    def join(self, text: str) -> None:
        """Write settings into the file where they belong: into their table, over what it says of them."""
        old = self.config.read_text(encoding="utf-8")
        for key, value in tomllib.loads(text).items():
            if isinstance(value, dict) and not any(isinstance(one, dict) for one in value.values()):
                for name, inner in value.items():
                    old = _set(old, f"[{key}]", name, inner)
            elif isinstance(value, dict):
                for middle, one in value.items():
                    for name, inner in one.items():
                        old = _set(old, f'[{key}."{middle}"]', name, inner)
            else:
                old = f"{key} = {json.dumps(value)}\n{re.sub(rf'^{key} = .*$', '', old, count=1, flags=re.MULTILINE)}"
        self.config.write_text(old, encoding="utf-8")

    def init(self, *services: str) -> None:
        """`grayctl init`: generation 0, in which the services answer 503."""
        arguments = [word for one in services for word in ("--service", one)]
        done = CliRunner().invoke(cli, ["--config", str(self.config), "init", *arguments])
        assert done.exit_code == 0, done.output

    # ------------------------------------------------------------ what is found

    @property
    def settings(self) -> Settings:
        return parse(self.config.read_text(encoding="utf-8"), str(self.config))

    def findings(self, *, answers: bool = False) -> tuple[Finding, ...]:
        """All of them, the good ones too."""
        source = (str(self.config), self.config.read_text(encoding="utf-8"))
        return asyncio.run(survey(self.settings, source, answers=answers, root=self.root))

    def found(self, rule: str, *, answers: bool = False) -> list[Finding]:
        """Those of one rule."""
        return [one for one in self.findings(answers=answers) if one.rule == rule]

    def tested(self) -> Checked:
        """What a real `nginx -t` says."""
        nginx = self.settings.nginx
        return asyncio.run(check(nginx, inspect(nginx, self.nginx.state_dir), None))

    # ------------------------------------------------------------ who does what it says

    def follow(self, one: Finding) -> None:
        """Write the advised lines where the finding says, or run them."""
        file, _, number = one.where.rpartition(":")
        match one.how:
            case How.RUN:
                init = re.fullmatch(r"grayctl init(?: --service (\S+))?", one.advice)
                if init:
                    self.init(*[init[1]] if init[1] else [])
                else:
                    subprocess.run(["sh", "-ec", one.advice], check=True, timeout=20)
            case How.SETTINGS:
                self.join(one.advice)
            case How.APPEND:
                path = Path(one.where)
                path.write_text(f"{path.read_text()}\n{one.advice}\n", encoding="utf-8")
            case How.INSIDE | How.BESIDE | How.REPLACE | How.REMOVE:
                path, at = Path(file), int(number) - 1
                lines = path.read_text().splitlines()
                lines[at:] = _edited(lines[at:], one)
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            case _:
                raise AssertionError(f"nobody can follow this to the letter: {one}")


def _edited(lines: list[str], one: Finding) -> list[str]:
    """The rest of a file, from the line of a finding on, once it was followed."""
    text = "\n".join(lines)
    match one.how:
        case How.INSIDE:
            brace = text.index("{") + 1
            text = f"{text[:brace]}\n{one.advice}\n{text[brace:]}"
        case How.BESIDE:
            text = f"{one.advice}\n{text}"
        case How.REPLACE:
            assert lines[0].count(";") == 1, "a case writes each directive on a line of its own"
            text = "\n".join([one.advice, *lines[1:]])
        case _:
            end = text.index("}" if "{" in lines[0] else ";") + 1
            text = text[end:]
    return text.splitlines()


def _set(text: str, table: str, name: str, value: object) -> str:
    line = f"{name} = {json.dumps(value)}"
    head, found, rest = text.partition(f"{table}\n")
    if not found:
        return f"{text}\n{table}\n{line}\n"
    own, bracket, others = rest.partition("\n[")
    own, count = re.subn(rf"^{name} = .*$", line.replace("\\", r"\\"), own, flags=re.MULTILINE)
    return "".join((head, found, "" if count else f"{line}\n", own, bracket, others))


@pytest.fixture
def bench(nginx: Nginx) -> Bench:
    """A clean node of which nothing runs: generation 0 stands, with the service shop."""
    one = Bench(nginx)
    one.init("shop")
    return one
