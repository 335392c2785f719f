"""Golden directories: what a catalog becomes, byte by byte, and a real nginx that accepts it.

`UPDATE_GOLDEN=1 pytest tests/render/test_golden.py` writes them anew; read the difference before you commit it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nginx import BINARY
from tests.support.process import clean_env

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
    """Objects and snippets by name; the entry file is the same for all but for paths and ports."""
    paths = [*out.glob("objects/*"), *out.glob("snippets/*")]
    return {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in sorted(paths)}


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
        f"http {{ access_log off; include {out}/http.conf; }}\n",
        encoding="utf-8",
    )
    tested = subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stderr
