"""Where nginx gives a pattern up, `explain` says the same."""

from grayctl.model.tables import Map, Rule
from grayctl.model.tokens import Joined, Regex, Text, Variable
from grayctl.policy.explain import _matches


def test_a_pattern_that_takes_too_long_is_not_found_and_nothing_behind_it_is_asked() -> None:
    """As nginx 1.22 does: pcre2_match() failed, -47; the map's default."""
    patterns = ((Regex("^(a+)+$"), Text("1")), (Regex("b"), Text("2")))
    table = Map(Variable("x"), Joined((Variable("y"),)), patterns, Text(""), Rule("r", "t"))
    assert [value for value, _ in _matches(table, b"aab")] == [Text("2")]
    assert list(_matches(table, b"a" * 40 + b"b")) == []
