"""docs/reliability.md names every fault that is tested, and no other."""

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "docs" / "reliability.md"


def _rows() -> list[list[str]]:
    text = _PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- matrix: begin -->\n")[2].partition("<!-- matrix: end -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def _documented() -> set[tuple[str, str]]:
    return {(part, fault) for part, fault, *_ in _rows()}


def test_the_page_names_every_fault_that_is_tested(request: pytest.FixtureRequest) -> None:
    """UPDATE_RELIABILITY=1 bash tests/run.sh tests/faults writes it."""
    marks = [mark for item in request.session.items if (mark := item.get_closest_marker("fault"))]
    tested = {(part, fault) for part, fault in (mark.args for mark in marks)}
    assert tested <= _documented()
    chosen = [Path(argument.partition("::")[0]).resolve() for argument in request.config.args]
    if any(_HERE.is_relative_to(path) for path in chosen) and not request.config.option.keyword:
        assert _documented() == tested, "rows whose test is gone"


def test_every_row_says_that_no_request_failed() -> None:
    """A figure edited by hand, or a row that a failed test left, would show here."""
    assert not [row for row in _rows() if not row[2].endswith(", 0")]
