"""The quickstart tells a true story, and leaves nothing behind, however it ends."""

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul import REPOSITORY
from tests.support.process import clean_env, start, stop, wait_until

SCRIPT = REPOSITORY / "examples" / "quickstart.sh"


class Ground:
    """Where the quickstart makes its temporary directory: short, since a unix socket's path has to fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = clean_env({"TMPDIR": str(folder)})

    def processes(self) -> list[str]:
        """Every process that works in here: the quickstart starts each with its directory as the current one."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(f"{self.folder}/"):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
        return found

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.folder.iterdir())


@pytest.fixture
def ground() -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="q-", dir="/tmp"))
    yield Ground(folder)
    shutil.rmtree(folder)


def test_the_story_is_true_and_leaves_nothing_behind(ground: Ground) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, "--once"], env=ground.env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert ground.is_clean(), ground.processes()

    story = done.stdout
    figures = re.findall(r"(v\d) +([\d.]+)% served, +([\d.]+)% wanted", story)
    assert all(abs(float(served) - float(wanted)) <= 5 for _, served, wanted in figures)
    wanted = [float(share) for version, _, share in figures if version == "v2"]
    assert wanted == [20.0, 27.3, 46.7, 53.8, 53.8, 53.8, 60.0, 60.0, 60.0, 10.0, 100.0]
    generations = [int(number) for number in re.findall(r"generation (\d+); \d+ requests until now", story)]
    comes, weight, sick, leaves, broken, mended, untaken, over, released, promoted = generations[1:]
    assert generations[0] < comes < weight < sick < leaves < mended, "every change is a generation"
    assert broken == leaves, "a broken template changes nothing"
    assert mended == untaken == over, "what nginx did not take is rolled back"
    assert over < released < promoted, "a release is a generation too"
    assert "nginx answers with v2" in story
    assert 'unknown directive "no_such_directive"' in story
    assert re.search(r"generation \d+ is back, proven again \(exit code 3\)", story)
    assert set(re.findall(r"until now, (\d+) failed", story)) == {"0"}, "no visitor noticed anything"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_everything(ground: Ground, tmp_path: Path, sig: signal.Signals) -> None:
    log = tmp_path / "log"
    quickstart = start(["bash", SCRIPT], log=log, env=ground.env, pdeathsig=signal.SIGTERM)
    try:
        wait_until(lambda: "\n1. " in log.read_text(), "the story has begun", seconds=120)
    finally:
        code = stop(quickstart, sig=sig, timeout=60)
    assert code == 128 + sig, log.read_text()
    assert ground.is_clean(), ground.processes()


def test_the_death_of_its_parent_ends_everything(ground: Ground, tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = start(["bash", "-c", f"bash {SCRIPT}; true"], log=log, env=ground.env)
    try:
        wait_until(lambda: "\n1. " in log.read_text(), "the story has begun", seconds=120)
    finally:
        stop(parent, sig=signal.SIGKILL)
    wait_until(ground.is_clean, "everything is gone", seconds=60)
