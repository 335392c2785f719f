"""The documentation says what is there, all of it, and nothing else."""

import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import get_args, get_type_hints

import click
import msgspec
import pytest

from grayctl import advice
from grayctl.advice.finding import Finding, How, Rule
from grayctl.cli import cli
from grayctl.settings import Duration, ServiceSettings, Settings, parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HIDDEN = {"consul.token"}  # from the environment alone


def _fields(kind: type, prefix: str) -> dict[str, object]:
    """Dotted setting -> default."""
    found: dict[str, object] = {}
    defaults = kind()
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found |= _fields(hint, f"{prefix}{name}.")
        elif name == "services" and kind is Settings:
            assert get_args(hint)[1] is ServiceSettings
            found |= _fields(ServiceSettings, f"{prefix}services.NAME.")
        else:
            found[f"{prefix}{name}"] = getattr(defaults, name)
    return {name: default for name, default in found.items() if name not in HIDDEN}


def _same(written: str, default: object) -> bool:
    if isinstance(default, Duration):
        return Duration.parse(written.strip('"')) == default
    if isinstance(default, tuple):
        return written == "[" + ", ".join(f'"{one}"' for one in default) + "]"
    return written == msgspec.json.encode(default).decode()


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, re.MULTILINE))
    fields = _fields(Settings, "")
    assert rows.keys() == fields.keys()
    wrong = {name: (rows[name], default) for name, default in fields.items() if not _same(rows[name], default)}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_settings_are_accepted(page: Path) -> None:
    for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "toml":
            parse(body, str(page))


def _commands(group: click.Group, context: click.Context) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in _commands(command, context).items()}
    return found


COMMANDS = _commands(cli, click.Context(cli))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documentation_exist(page: Path) -> None:
    """Every `grayctl COMMAND ...` in code names a command and options that are there."""
    called = re.compile(r"(?:`|^ {4}(?:\$ )?)grayctl (?:--config \S+ )?((?!\d)[a-z][^`\n]*)", re.MULTILINE)
    for line in called.findall(page.read_text(encoding="utf-8")):
        words = shlex.split(line.split(" # ")[0], comments=True)
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        assert name in COMMANDS, line
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help", "-h"}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options, line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    if not isinstance(command, click.Group):
        assert f"grayctl {name}" in command.help or name == "run", "the help has an example"


def test_every_rule_of_check_is_in_the_catalogue_and_has_a_test() -> None:
    rules = [
        rule
        for module in pkgutil.iter_modules(advice.__path__, "grayctl.advice.")
        for rule in vars(importlib.import_module(module.name)).values()
        if isinstance(rule, Rule)
    ]
    text = (ROOT / "docs/check.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (ok|warning|failure) \| [^|]+ \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert sorted(rows) == sorted({(one.name, one.level.value, one.why) for one in rules})
    assert len({one.name for one in rules}) == len(rows), "no two rules share a name"
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/advice").glob("*.py"))
    assert [one.name for one in rules if f'"{one.name}"' not in tests] == []


def test_what_the_findings_say_of_their_lines_is_documented() -> None:
    text = (ROOT / "docs/check.md").read_text(encoding="utf-8")
    fields = set(re.findall(r"^\| `(\w+)` \| ", text.split("\n## ")[0], re.MULTILINE))
    assert fields == set(Finding.__struct_fields__)
    (how,) = re.findall(r"^\| `how` \| (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", how)) - {"advice", "where"} == {one.value for one in How if one.value}
