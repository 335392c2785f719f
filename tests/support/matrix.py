"""The table of docs/reliability.md: one line for each fault that is tested."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.ordeal import Row

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FOLDER = Path(__file__).parents[1] / "faults"
_BEGIN, _END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
_HEAD = """| part | fault | requests, failed | cold starts passed | grayctl | recovered after (promised) |
|---|---|---|---|---|---|
"""


def documented() -> dict[tuple[str, str], str]:
    """(part, fault) -> its line of the page."""
    table = PAGE.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    return {_key(line): line for line in table.splitlines(keepends=True)[2:]}


def write(rows: Iterable[Row], *, whole: bool) -> None:
    """Put `rows` into the page; those of faults that were not tried now stay, unless this run was `whole`."""
    lines = {} if whole else documented()
    lines |= {(row.part, row.fault): _line(row) for row in rows}
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(before + _BEGIN + _HEAD + "".join(lines[key] for key in sorted(lines)) + _END + after, "utf-8")


def is_whole(config: pytest.Config) -> bool:
    """Whether this run holds every test of a fault, so that a row without one is of a test that is gone."""
    chosen = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    narrowed = config.option.keyword or config.option.markexpr
    return not narrowed and any(FOLDER.is_relative_to(path) for path in chosen)


def _key(line: str) -> tuple[str, str]:
    part, fault, *_ = (cell.strip() for cell in line.strip().strip("|").split("|"))
    return part, fault


def _line(row: Row) -> str:
    figures = f"{row.requests}, {row.failed} | {row.cold} | {row.grayctl} | {row.recovered:g} s ({row.within:g} s)"
    return f"| {row.part} | {row.fault} | {figures} |\n"
