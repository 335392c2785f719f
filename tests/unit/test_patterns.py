"""Patterns say exactly what the values of a condition mean."""

import re
from urllib.parse import quote, quote_plus

import pcre2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.model.release import Input, Operator, Source
from grayctl.model.tokens import MapKey
from grayctl.policy.patterns import keys

HEADER, QUERY, COOKIE = Input(Source.HEADER, "X"), Input(Source.QUERY, "x"), Input(Source.COOKIE, "x")
PATH, HOST = Input(Source.PATH), Input(Source.HOST)
ORDER = {
    Operator.LESS: int.__lt__,
    Operator.LESS_OR_EQUAL: int.__le__,
    Operator.GREATER: int.__gt__,
    Operator.GREATER_OR_EQUAL: int.__ge__,
}
integers = st.one_of(st.integers(-1200, 1200), st.integers(-(10**60), 10**60))
spellings = st.tuples(st.sampled_from(["", "+"]), st.sampled_from(["", "0", "000"]))


def holds(given_: Input, operator: Operator, values: tuple[str, ...], text: str | bytes) -> bool:
    """As nginx's map: a literal key ignores case, no pattern is tried on an empty value."""
    raw = text if isinstance(text, bytes) else text.encode()
    for key in keys(given_, operator, values):
        if isinstance(key, MapKey):
            if key.text.encode().lower() == raw.lower():
                return True
        elif raw and pcre2.compile(key.pattern.encode(), flags=pcre2.IGNORECASE if key.ignore_case else 0).search(raw):
            return True
    return False


def _spelled(number: int, sign: str, zeros: str) -> str:
    return f"-{zeros}{-number}" if number < 0 else f"{sign}{zeros}{number}"


@given(bound=integers, number=integers, spelling=spellings, operator=st.sampled_from(sorted(ORDER)))
def test_an_ordering_is_exact_for_integers_of_any_length(
    bound: int, number: int, spelling: tuple[str, str], operator: Operator
) -> None:
    expected = ORDER[operator](number, bound)
    assert holds(HEADER, operator, (str(bound),), _spelled(number, *spelling)) is expected


@pytest.mark.parametrize("bound", [0, 1, -1, 9, 10, 99, 100, -10, 18, 109, 190, 1000])
@pytest.mark.parametrize("operator", sorted(ORDER))
def test_an_ordering_is_exact_around_its_bound(bound: int, operator: Operator) -> None:
    for number in range(bound - 205, bound + 206):
        assert holds(HEADER, operator, (str(bound),), str(number)) is ORDER[operator](number, bound), number


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.sampled_from(sorted(ORDER)), integers
)
def test_what_is_no_number_is_in_no_order(text: str, operator: Operator, bound: int) -> None:
    if not re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        assert not holds(HEADER, operator, (str(bound),), text)


@pytest.mark.parametrize("text", ["18.5", "2e1", "0x20", "", " 5", "5 ", "--5", "+", "5\n", "\u0665"])
def test_these_are_no_numbers(text: str) -> None:
    for operator in ORDER:
        assert not holds(HEADER, operator, ("-1000",), text)
    assert not holds(HEADER, Operator.NUMBER_IN, ("5",), text)


@pytest.mark.parametrize("text", ["5", "+5", "005", "+0005"])
def test_a_number_equals_its_spellings(text: str) -> None:
    assert holds(HEADER, Operator.NUMBER_IN, ("5", "7"), text)
    assert not holds(HEADER, Operator.NUMBER_IN, ("-5", "50"), text)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@given(value=texts, other=texts, given_=st.sampled_from([HEADER, QUERY, COOKIE, PATH]))
def test_exact_means_this_text_and_its_case(value: str, other: str, given_: Input) -> None:
    assert holds(given_, Operator.IN, (value,), value)
    if given_ in {HEADER, PATH}:
        assert holds(given_, Operator.IN, (value,), other) is (value == other)
        assert holds(given_, Operator.IN, (value,), value.swapcase()) is (value == value.swapcase())
        assert not holds(given_, Operator.IN, (value,), value + "\n")


@given(texts)
def test_a_query_and_a_cookie_are_known_in_their_percent_encoding_too(value: str) -> None:
    for given_ in (QUERY, COOKIE):
        encoded = quote(value, safe="")
        assert holds(given_, Operator.IN, (value,), encoded)
        assert holds(given_, Operator.IN, (value,), re.sub("%..", lambda found: found[0].lower(), encoded))
    assert holds(QUERY, Operator.IN, (value,), quote_plus(value))
    assert not holds(HEADER, Operator.IN, (value,), quote(value, safe="")) or quote(value, safe="") == value


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("/static", "/static", True),
        ("/static", "/static/x", True),
        ("/static", "/staticx", False),
        ("/a/", "/a/b", True),
        ("/a/", "/a", False),
        ("/", "/x", True),
    ],
)
def test_a_path_prefix_covers_whole_segments(prefix: str, path: str, expected: bool) -> None:  # noqa: FBT001 -- a table
    assert holds(PATH, Operator.PREFIX, (prefix,), path) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("a.example.com", True), ("a.b.example.com", True), ("example.com", False), ("aexample.com", False)],
)
def test_a_wildcard_covers_subdomains_and_not_itself(host: str, expected: bool) -> None:  # noqa: FBT001 -- a table
    assert holds(HOST, Operator.SUFFIX, (".example.com",), host) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vip", True),
        ("a, vip ,b", True),
        ("vip,a", True),
        ("a,\tvip", True),
        ("vip2", False),
        ("a vip", False),
        ("", False),
    ],
)
def test_has_splits_at_commas(text: str, expected: bool) -> None:  # noqa: FBT001 -- a table
    assert holds(HEADER, Operator.HAS, ("vip",), text) is expected
