"""promtool, Prometheus's own judge of rules, configurations and queries."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).parents[2]
NODE = {"instance": "edge-1:8408", "job": "grayctl"}  # the labels of a scrape


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `promtool` from PATH, else from the repository's cache; a missing one fails the run, it does not skip."""
    found = shutil.which("promtool") or str(REPOSITORY / ".cache" / "promtool" / "promtool")
    if not Path(found).exists():
        pytest.fail("no promtool binary: put it on PATH or let `bash tests/run.sh` fetch it", pytrace=False)
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)


def series(page: str, *, times: int) -> list[dict[str, str]]:
    """A page of metrics as promtool's input: scraped once and `times` more, and it never changed."""
    found: list[tuple[str, dict[str, str], float]] = [("up", {}, 1.0)]
    families = text_string_to_metric_families(page)
    found += [(one.name, one.labels, one.value) for family in families for one in family.samples]
    return [{"series": f"{name}{_braced(NODE | own)}", "values": f"{value:f}x{times}"} for name, own, value in found]


def _braced(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def judge(folder: Path, interval: str, group: dict[str, object], *rules: Path) -> subprocess.CompletedProcess[str]:
    """Let `promtool test rules` evaluate one group of its tests every `interval`."""
    tests = folder / "tests.yml"
    content = {
        "rule_files": [str(one) for one in rules],
        "evaluation_interval": interval,
        "tests": [{"interval": interval} | group],
    }
    tests.write_text(yaml.safe_dump(content), encoding="utf-8")
    return promtool("test", "rules", tests)
