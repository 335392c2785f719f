"""docs/reliability.md names every fault that is tested, and no other."""

import pytest

from tests.support import matrix


def test_the_page_names_every_fault_that_is_tested(request: pytest.FixtureRequest) -> None:
    """UPDATE_RELIABILITY=1 bash tests/run.sh tests/faults writes it."""
    marks = [mark for item in request.session.items if (mark := item.get_closest_marker("fault"))]
    tested = {mark.args for mark in marks}
    assert tested <= matrix.documented().keys()
    if matrix.is_whole(request.config):
        assert matrix.documented().keys() == tested, "rows whose test is gone"


def test_every_row_says_that_no_request_failed() -> None:
    """A figure edited by hand, or a row that a failed test left, would show here."""
    rows = {key: line.split("|") for key, line in matrix.documented().items()}
    assert not [key for key, cells in rows.items() if not cells[3].strip().endswith(", 0")]
