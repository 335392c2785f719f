"""Golden directories: what a catalog becomes, byte by byte, and a real nginx that accepts it.

`UPDATE_GOLDEN=1 pytest tests/render/test_golden.py` writes them anew; read the difference before you commit it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nginx import BINARY
from tests.support.ports import free_ports
from tests.support.process import clean_env

DIGEST = re.compile(r"\bpreview [0-9a-f]{16}\b")
GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def _render(case: str, folder: Path) -> Path:
    """Run `grayctl render --catalog` on a case, in `folder`; `nginx -t` minds no port that is taken."""
    source = GOLDEN / case
    own = source / "grayctl.toml"
    templates = f'templates_dir = "{source}/templates"\n' if (source / "templates").is_dir() else ""
    config = folder / "grayctl.toml"
    config.write_text(
        f"""{templates}state_dir = "{folder}/state"
{own.read_text() if own.exists() else ""}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "grayctl", "--config", str(config), "render"]
    done = subprocess.run(
        [*command, "--catalog", str(source / "catalog.yaml"), "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_env(),
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def _contents(out: Path) -> dict[str, str]:
    """Every file by name, with the digest and the directory, which differ from run to run, made the same."""
    texts = {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in sorted(out.rglob("*.conf"))}
    return {name: DIGEST.sub("preview DIGEST", text.replace(str(out), "/OUT")) for name, text in texts.items()}


def _locations(out: Path) -> str:
    """Two locations for each service: all that it needs in one line, and the snippet beside a pass of one's own."""
    found = ""
    for path in sorted(out.glob("objects/*.conf")):
        slug = path.name.rpartition("-")[0]
        (variable,) = re.findall(r'split_clients "" (\$gray_\w+)', path.read_text(encoding="utf-8"))
        found += f'location /{len(found)} {{ include "{out}/snippets/pass/{slug}.conf"; }}\n'
        found += f'location /{len(found)} {{ include "{out}/snippets/{slug}.conf"; proxy_pass http://{variable}; }}\n'
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_as_expected_and_nginx_accepts_it(case: str, tmp_path: Path) -> None:
    out = _render(case, tmp_path)
    expected = GOLDEN / case / "expected"
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(expected, ignore_errors=True)
        for name, content in _contents(out).items():
            (expected / name).parent.mkdir(parents=True, exist_ok=True)
            (expected / name).write_text(content, encoding="utf-8")
    assert _contents(out) == _contents(expected)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; include {out}/http.conf;\n"
        f"server {{ listen 127.0.0.1:{free_ports(1)[0]};\n{_locations(out)}}} }}\n",
        encoding="utf-8",
    )
    tested = subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stderr
