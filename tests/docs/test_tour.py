"""The reader's tour in ARCHITECTURE.md: every `file:line` `symbol` points to where the symbol is defined."""

import ast
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
STOP = re.compile(r"`(?P<file>grayctl/[\w/]+\.py):(?P<line>\d+)`(?P<gap>\s+)`(?P<symbol>[\w.]+)`")


def _line_of(file: str, symbol: str) -> int:
    """Where `Class.method` or `function` is defined."""
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    line = 0
    for name in symbol.split("."):
        found = next(
            (
                node
                for node in body
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
            ),
            None,
        )
        assert found is not None, f"{file} defines no {symbol}"
        line, body = found.lineno, found.body
    return line


def test_every_stop_of_the_tour_is_where_it_says() -> None:
    """UPDATE_TOUR=1 writes the lines as they are."""
    text = PAGE.read_text(encoding="utf-8")
    stops = list(STOP.finditer(text))
    assert len(stops) > 10
    right = STOP.sub(
        lambda stop: f"`{stop['file']}:{_line_of(stop['file'], stop['symbol'])}`{stop['gap']}`{stop['symbol']}`", text
    )
    if os.environ.get("UPDATE_TOUR"):
        PAGE.write_text(right, encoding="utf-8")
    wrong = [stop.group() for stop in stops if stop.group() not in right]
    assert not wrong, f"run this test with UPDATE_TOUR=1: {wrong}"
