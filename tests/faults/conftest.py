"""Writes the table of docs/reliability.md from the rows that the tests left: UPDATE_RELIABILITY=1."""

import os
from pathlib import Path

import msgspec
import pytest

from tests.support.ordeal import Row

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
_HEAD = """| part | fault | requests, failed | cold starts passed | grayctl | recovered after (promised) |
|---|---|---|---|---|---|
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Rows of an earlier run say nothing about this one."""
    if not hasattr(session.config, "workerinput"):
        for row in session.config.cache.mkdir("reliability").glob("*.json"):
            row.unlink()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In the process that leads the run: put what was found into the page."""
    if hasattr(session.config, "workerinput") or not os.environ.get("UPDATE_RELIABILITY"):
        return
    paths = session.config.cache.mkdir("reliability").glob("*.json")
    rows = sorted((msgspec.json.decode(path.read_bytes(), type=Row) for path in paths), key=_order)
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(before + _BEGIN + _HEAD + "".join(map(_line, rows)) + _END + after, encoding="utf-8")


def _order(row: Row) -> tuple[str, str]:
    return row.part, row.fault


def _line(row: Row) -> str:
    figures = f"{row.requests}, {row.failed} | {row.cold} | {row.grayctl} | {row.recovered:g} s ({row.within:g} s)"
    return f"| {row.part} | {row.fault} | {figures} |\n"
