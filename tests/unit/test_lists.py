"""A list's text: cut into parts without losing or tearing an entry, and read as the documentation says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grayctl.errors import ListError
from grayctl.policy.lists import LONGEST, MOST_PARTS, PART, entries_of, parts_of

LINES = st.one_of(
    st.sampled_from([b"", b"# comment", b"  blanks around\t", b"u1", b"U1", b"10.0.0.0/8", b"\xff\xfe", b"\r"]),
    st.binary(max_size=40).filter(lambda line: b"\0" not in line and b"\n" not in line),
)


@given(st.lists(LINES, max_size=40).map(b"\n".join), st.integers(1, 3000))
@example(b"", 1)
@example(b"\r\n\r\n", 1)
@example(b"\xef\xbb\xbf", 1)
def test_no_entry_is_lost_or_torn(text: bytes, times: int) -> None:
    whole = b"\n".join([text] * times)
    parts = parts_of(whole, "users.txt")
    kept = whole.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    assert entries_of(parts) == entries_of([kept])
    assert b"\n".join(parts) == kept
    assert all(len(part) <= PART for part in parts)


def test_an_entry_is_a_trimmed_line_that_is_no_comment() -> None:
    text = b"\xef\xbb\xbfann\r\n  bob \r\n# carl\r\n  # dora\n\nANN\nann\ne # f\n\xe5\x8c\x97\xe4\xba\xac"
    assert entries_of(parts_of(text, "users.txt")) == ("ann", "bob", "ANN", "e # f", "北京")


def test_100_000_entries_are_a_few_parts() -> None:
    text = b"".join(b"user-%030d\n" % number for number in range(100_000))
    parts = parts_of(text, "users.txt")
    assert len(parts) == 14
    assert len(entries_of(parts)) == 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"ann\n" + b"x" * (LONGEST + 1),
            "users.txt:2: the line is longer than 4000 bytes. A list has one entry a line",
        ),
        (b"ann\n\nb\0b", "users.txt:3: the line holds a NUL. A list has one entry a line"),
        ((b"x" * LONGEST + b"\n") * (MOST_PARTS * 66), "are the most. Make it several lists"),
    ],
    ids=["long", "nul", "large"],
)
def test_what_can_be_no_list_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ListError) as caught:
        parts_of(text, "users.txt")
    assert message in str(caught.value)
