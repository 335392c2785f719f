"""libyaml scans what it is sure to scan as PyYAML does: the same texts, lines and columns, or PyYAML is asked."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grayctl import marked

_FOLDER = Path(__file__).parents[2] / "examples" / "releases"
EXAMPLES = [one.read_text(encoding="utf-8") for one in sorted(_FOLDER.glob("*.yaml"))]
PIECES = [
    "a", "v1", "1.10", "on", "null", "~", "--", "---", "...", "{", "}", "[", "]", ",", ":", "'", '"', "#", "|", "|-",
    "|2", ">", ">-", ">2", "?", "\\", "\\n", "\\x41", "%YAML", "&", "&a", "*", "*a", "!", "!t", "!!str", "@", "`", "=",
    "<<:", "{}", "[]", "''", '""', "x:", "-",
]  # fmt: skip
SPACES = [" ", "  ", "    ", "\n", "\n  ", "\n    ", "\n- ", "\n  - ", ": ", ", ", "- ", "? ", " # ", "\t", "\r\n"]
ODD = ["\ufeff", "\xa0", "\u3000", "é", "🦀", "\x00", "\x7f", '"\\ud83e\\udd80"', "x" * 1025]
pieces = st.sampled_from(PIECES + SPACES + ODD)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A policy with up to three pieces put in, each perhaps over a few of its characters."""
    text = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(pieces) + text[at + draw(st.integers(0, 3)) :]
    return text


def tree(node: yaml.Node) -> object:
    """All that is made use of."""
    place = node.start_mark.line, node.start_mark.column
    if isinstance(node, yaml.ScalarNode):
        return node.value, node.style or "", place, node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode):
        return place, [tree(one) for one in node.value]
    return place, [(tree(key), tree(one)) for key, one in node.value]


@given(st.lists(pieces, max_size=20).map("".join) | damaged())
def test_who_scans_makes_no_difference(text: str) -> None:
    try:
        alone = yaml.compose(text, Loader=marked._Loader)
    except (yaml.YAMLError, ValueError, marked._TooDeepError) as error:
        with pytest.raises(type(error)):
            marked._root(text)
        return
    either = marked._root(text)
    assert (either and tree(either)) == (alone and tree(alone))


def test_the_examples_have_texts_to_damage() -> None:
    assert len(EXAMPLES) > 10
