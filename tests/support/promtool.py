"""promtool, Prometheus's own judge of rules, configurations and queries."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `promtool` from PATH, else from the repository's cache; a missing one fails the run, it does not skip."""
    found = shutil.which("promtool") or str(REPOSITORY / ".cache" / "promtool" / "promtool")
    if not Path(found).exists():
        pytest.fail("no promtool binary: put it on PATH or let `bash tests/run.sh` fetch it", pytrace=False)
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
