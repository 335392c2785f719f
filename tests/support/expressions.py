"""Expressions of the `when` language as trees, and how a tree is written."""

from typing import Any

from hypothesis import strategies as st

from grayctl.policy.predicates import quoted
from tests.support.judge import BIG, HEADERS

numbers = st.sampled_from(["5", "+05", "0", "-00", "-7", BIG, "-" + BIG])
texts = st.sampled_from(["a", "b", "5", " b ,a", "/a", "a,b", ""])
NETWORKS = ("10.0.0.0/8", "10.1.2.3", "::ffff:11.0.0.1", "2001:db8::/32")
atoms = st.one_of(
    st.tuples(st.sampled_from(["==", "!="]), st.sampled_from(HEADERS), st.one_of(texts.map(quoted), numbers)),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), st.sampled_from([*HEADERS, "port"]), numbers),
    st.tuples(
        st.sampled_from(["in", "not in"]),
        st.sampled_from(HEADERS),
        st.lists(st.one_of(texts.map(quoted), numbers), min_size=1, max_size=3),
    ),
    st.tuples(
        st.just("in"), st.just("client_ip"), st.lists(st.sampled_from([quoted(n) for n in NETWORKS]), min_size=1)
    ),
    st.tuples(st.sampled_from(["==", "!="]), st.just("region"), st.just('"here"')),
    st.tuples(st.just("in"), st.just("device"), st.lists(st.sampled_from(['"ios"', '"bot"']), min_size=1)),
    st.tuples(st.just("=="), st.just("path"), st.just('"/a"')),
    st.tuples(st.just("in"), st.just("host"), st.lists(st.sampled_from(['"*.example.com"', '"OTHER."']), min_size=1)),
    st.tuples(st.just("has"), st.sampled_from(HEADERS), st.sampled_from(['"a"', '"b"'])),
    st.tuples(st.just("matches"), st.sampled_from([*HEADERS, "path"]), st.sampled_from(['"a"', '"^[0-9]+$"'])),
    st.tuples(st.just("in_list"), st.sampled_from(HEADERS), st.sampled_from(['"l1"', '"l2"'])),
    st.tuples(st.just("present"), st.sampled_from(HEADERS), st.none()),
)
trees = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "&&", "or", "||"]), inner, inner),
        st.tuples(st.sampled_from(["not", "!", "()"]), inner, st.none()),
    ),
    max_leaves=12,
)
STRENGTH = {"or": 1, "||": 1, "and": 2, "&&": 2, "not": 3, "!": 3}


def write(tree: Any) -> str:
    """With no more parentheses than precedence needs, but for those that `()` asks for."""
    word, left, right = tree
    if word in {"and", "&&", "or", "||"}:
        return f"{_within(left, word)} {word} {_within(right, word)}"
    if word in {"not", "!"}:
        return f"{word} {_within(left, word)}"
    if word == "()":
        return f"({write(left)})"
    if word in {"has", "matches", "in_list"}:
        return f"{word}({left}, {right})"
    if word == "present":
        return f"present({left})"
    return f"{left} {word} {'[' + ', '.join(right) + ']' if isinstance(right, list) else right}"


def _within(tree: Any, word: str) -> str:
    return f"({write(tree)})" if STRENGTH.get(tree[0], 4) < STRENGTH[word] else write(tree)
