"""The unit files: systemd understands every line of them, and how far their sandbox is closed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.consul import REPOSITORY
from tests.support.rights import demand_root

UNITS = REPOSITORY / "systemd"
INSTANCE = {
    "nginx.service": "nginx@%i.service",
    "ExecStart=grayctl run": "ExecStart=grayctl --config /etc/grayctl/%i.toml run",
    "Directory=grayctl": "Directory=grayctl-%i",
    "Nginx and Consul": "Nginx and Consul, beside nginx@%i",
}


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`; a missing one fails the run, it does not skip."""
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def quiet(*command: str | Path) -> str:
    """What a command says that has to succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def installed(folder: Path, *drop_ins: str) -> list[Path]:
    """Both units as they would be installed, with drop-ins; the template as an instance."""
    found = []
    for name in ("grayctl.service", "grayctl@.service"):
        unit = folder / name.replace("@", "@public")
        # systemd-analyze demands that the program is there, and PATH is not where it looks for it
        text = (UNITS / name).read_text(encoding="utf-8").replace("=grayctl ", f"={shutil.which('true')} ")
        unit.write_text(text, encoding="utf-8")
        for drop_in in drop_ins:
            (folder / f"{unit.name}.d").mkdir(exist_ok=True)
            shutil.copy(UNITS / "drop-ins" / drop_in, folder / f"{unit.name}.d")
        found.append(unit)
    return found


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("drop_ins", [[], ["no-namespace.conf"], ["strict.conf"]], ids=str)
def test_systemd_understands_every_line(tmp_path: Path, drop_ins: list[str]) -> None:
    for unit in installed(tmp_path, *drop_ins):
        done = analyze("verify", "--man=no", "--recursive-errors=no", unit)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("drop_ins", "exposure"),
    [([], 3.4), (["no-namespace.conf"], 2.8), (["strict.conf"], 3.0), (["no-namespace.conf", "strict.conf"], 2.5)],
    ids=str,
)
def test_the_sandbox_is_as_closed_as_documented(tmp_path: Path, drop_ins: list[str], exposure: float) -> None:
    """Newer versions of systemd-analyze know further directives, and may count them: the bound has room for one."""
    for unit in installed(tmp_path, *drop_ins):
        done = analyze("security", "--offline=true", "--no-pager", f"--threshold={exposure * 10 + 2:.0f}", unit)
        assert done.returncode == 0, done.stdout
    page = (REPOSITORY / "docs" / "systemd.md").read_text(encoding="utf-8")
    named = " and ".join(f"`{one}`" for one in drop_ins) or "as shipped"
    assert re.search(rf"^\| {re.escape(named)} \| {exposure} \|", page, re.MULTILINE)


def test_each_open_end_is_in_the_table_with_its_reason() -> None:
    """Every line that `systemd-analyze security` counts against the unit."""
    page = (REPOSITORY / "docs" / "systemd.md").read_text(encoding="utf-8")
    table = re.findall(r"^\|.*\|$", page.partition("| open | without it |")[2].partition("\n\n")[0], re.MULTILINE)
    named = " ".join(row.split("|")[1] for row in table)
    done = analyze("security", "--offline=true", "--no-pager", "--json=short", UNITS / "grayctl.service")
    for one in json.loads(done.stdout):
        if one["set"] is False:  # null: it makes no difference to the unit
            directive, _, value = one["name"].partition("=")
            wanted = re.findall(r"[A-Z_]{3,}", value) if directive == "CapabilityBoundingSet" else [directive]
            assert any(word.removeprefix("CAP_") in named for word in wanted if word != "CAP_"), one


def test_the_template_is_the_unit_with_an_instance_in_it() -> None:
    unit, template = (directives((UNITS / name).read_text()) for name in ("grayctl.service", "grayctl@.service"))
    for old, new in INSTANCE.items():
        unit = [line.replace(old, new) for line in unit]
    assert template == unit


def test_sysusers_makes_the_group(tmp_path: Path) -> None:
    demand_root("owners are root's to give")
    (tmp_path / "etc").mkdir()
    file = UNITS / "sysusers.d" / "grayctl.conf"
    assert "Creating group 'grayctl'" in quiet("systemd-sysusers", "--dry-run", f"--root={tmp_path}", file)
    quiet("systemd-sysusers", f"--root={tmp_path}", file)
    assert (tmp_path / "etc" / "group").read_text(encoding="ascii").startswith("grayctl:x:")


def test_tmpfiles_makes_the_directories_and_closes_the_token(tmp_path: Path) -> None:
    """On a bare root, and over what stands there with other modes."""
    demand_root("owners are root's to give")
    (tmp_path / "etc" / "grayctl").mkdir(parents=True)
    token = tmp_path / "etc" / "grayctl" / "token"
    token.write_text("secret", encoding="ascii")
    token.chmod(0o644)
    assert quiet("systemd-tmpfiles", "--create", f"--root={tmp_path}", UNITS / "tmpfiles.d" / "grayctl.conf") == ""
    names = ("etc/grayctl", "etc/grayctl/token", "var/lib/grayctl")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in names] == [0o755, 0o600, 0o700]
