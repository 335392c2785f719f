"""What `grayctl status` makes of a report, for the states that no other test reaches."""

import pytest
from rich.console import Console

from grayctl.cli.status import view
from grayctl.model.report import FreezeReport, NginxReport, Status


def shown(report: Status) -> str:
    console = Console(markup=False, width=300)
    with console.capture() as capture:
        console.print(view(report))
    return capture.get()


@pytest.mark.parametrize(
    ("pid", "orphans", "said"),
    [
        (640, 0, "1.22.1, pid 640, staged check: flip"),
        (None, 0, "1.22.1, not running, staged check: flip"),
        (None, 2, "1.22.1, not running, 2 workers serve on without a master, staged check: flip"),
    ],
)
def test_workers_without_a_master_are_named(pid: int | None, orphans: int, said: str) -> None:
    nginx = NginxReport(version="1.22.1", binary="nginx", conf="nginx.conf", pid=pid, staging="flip", orphans=orphans)
    assert said in shown(Status(node="edge-1", version="0.1.0", daemon=True, nginx=nginx))


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        ({"author": "ann as root", "scope": "fleet"}, "the fleet by ann as root, until `grayctl unfreeze --fleet`: x"),
        ({"author": "", "scope": "node"}, "this node by ?, until `grayctl unfreeze`: x"),
        ({"reason": "", "author": "ann", "scope": "node"}, "this node by ann, until `grayctl unfreeze`: no reason"),
        ({"author": "ann", "scope": "node", "until": 1.0}, "this node by ann, for 0 s more: x"),
    ],
)
def test_a_freeze_says_who_until_when_and_why(freeze: dict[str, str], said: str) -> None:
    one = FreezeReport(**{"reason": "x", "since": 0.0, "until": None} | freeze)  # type: ignore[arg-type]  # -- of mixed types
    assert said in shown(Status(node="edge-1", version="0.1.0", daemon=True, freeze=one))
