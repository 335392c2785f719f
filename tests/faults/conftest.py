"""Writes the table of docs/reliability.md from the rows that the tests left: UPDATE_RELIABILITY=1."""

import os

import msgspec
import pytest

from tests.support import matrix
from tests.support.ordeal import Row


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
    rows = [msgspec.json.decode(path.read_bytes(), type=Row) for path in paths]
    matrix.write(rows, whole=matrix.is_whole(session.config))
