"""Policies that must be refused, each with its message to the letter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grayctl.errors import EXIT_REFUSED, ReleaseError
from grayctl.policy.document import LARGEST, MOST_ROUTES, read_release

HEAD = "service: s\nstable: v1\n"


def _cases() -> Iterator[tuple[str, list[str]]]:
    """Policy and messages, from refused.txt, which says how it is written."""
    text = Path(__file__).with_name("refused.txt").read_text(encoding="utf-8")
    for case in text.strip().split("\n\n")[1:]:
        lines = case.splitlines()
        messages = [line.removeprefix("=> ") for line in lines if line.startswith("=> ")]
        policy = "\n".join(lines[: -len(messages)])
        yield HEAD + policy.removeprefix("...\n") if policy.startswith("...\n") else policy, messages


CASES = list(_cases())


def refused(text: str | bytes, service: str | None = None) -> list[str]:
    """The messages, without the file."""
    with pytest.raises(ReleaseError) as caught:
        read_release(text, "p", service=service)
    assert caught.value.exit_code == EXIT_REFUSED
    assert str(caught.value) == "\n".join(one.text for one in caught.value.problems)
    return [line.removeprefix("p:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(("text", "messages"), CASES)
def test_a_policy_is_refused(text: str, messages: list[str]) -> None:
    assert refused(text) == messages


def test_every_case_is_read() -> None:
    assert len(CASES) > 120
    assert refused("") == ["1: is empty"]


def test_the_limits() -> None:
    assert refused(b"# " + b"x" * (LARGEST - 1)) == ["1: has more than 131072 bytes (128 KiB). Use in_list"]
    assert refused(b"# " + b"x" * (LARGEST - 2)) == ["1: is empty"]
    assert refused("é" * (LARGEST // 2) + "x")[0].startswith("1: has more than 131072 bytes")
    route = "- {name: n%d, match: {path: /%d}, to: v2}\n"
    most = HEAD + "routes:\n" + "".join(route % (n, n) for n in range(MOST_ROUTES))
    assert len(read_release(most, "p").routes) == MOST_ROUTES
    assert refused(most + route % (200, 200)) == ["204: routes: has 201 routes. 200 are the most"]


def test_nesting_has_a_limit() -> None:
    deep = HEAD + "rollout: {a: " + "[" * 48 + "]" * 48 + "}"
    assert read_release(deep, "p").stable == "v1"
    (message,) = refused(HEAD + "rollout: {a: " + "[" * 49 + "]" * 49 + "}")
    assert message.endswith("nested too deeply; 50 levels are the most")
    assert refused("[" * 100_000) == ["1: nested too deeply; 50 levels are the most"]


def test_what_is_no_text_is_refused() -> None:
    assert refused(b"stable: v1\nservice: \xff") == ["2: this is no text: it is not UTF-8"]
    assert refused("stable: v1\nservice: a\x07") == ["2: this is no YAML: the character U+0007 is not allowed"]
    assert refused("stable: v1\nservice: \ud83e") == ["2: this is no YAML: the character U+D83E is not allowed"]
    assert refused('a: "\u2028"') == ['1: the line break U+2028 is refused as it is; write "\\u2028", in quotes']


def test_a_value_has_a_length() -> None:
    route = HEAD + "routes: [{name: a, to: v2, match: {header: {X: %s}}}]"
    read_release(route % ("é" * 128), "p")
    read_release(route % ("{regex: %s}" % ("a" * 1024)), "p")
    (long,) = refused(route % ("é" * 128 + "x"))
    assert long == f"3: routes[0].match.header.X: '{'é' * 80}'... is longer than 256 bytes of UTF-8"
    (long,) = refused(route % ("{regex: %s}" % ("a" * 1025)))
    assert long.endswith("is longer than 1024 bytes of UTF-8")


def test_a_policy_of_another_service_is_refused() -> None:
    assert refused("stable: v1\nservice: other", "shop") == [
        "2: service: 'other' is not shop, whose policy this is. Write that, or move it"
    ]
    assert read_release("stable: v1\nservice: shop", "p", service="shop").service == "shop"
    assert read_release("stable: v1", "p", service="shop").service == "shop"


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    route = "- {name: a b, match: {path: x, host: a/b}, to: v 2}"
    text = f"stable: v 1\nservice: s\nroutes:\n{route}\nbalance: fair\nbalanse: x"
    told = [message.partition(" ")[0] for message in refused(text)]
    lines = [int(one.rstrip(":")) for one in told]
    assert lines == [1, 4, 4, 4, 4, 5, 6]
