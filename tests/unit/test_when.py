"""The `when` language: what an expression means, judged by an evaluator of its own; what is refused, and where."""

import ipaddress
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grayctl.model.release import All, Condition, Predicate, Protocol
from grayctl.policy.conditions import Scope
from grayctl.policy.predicates import text_of
from grayctl.policy.when import parse
from tests.support.expressions import trees, write
from tests.support.judge import LISTS, Request, evaluate, integer, requests

SCOPE = Scope(regions=frozenset({"here", "there"}))


def read(text: str, scope: Scope = SCOPE) -> Predicate:
    faults: list[tuple[int, str, str, str]] = []
    predicate = parse(text, scope, lambda *fault: faults.append(fault))
    assert not faults, faults
    return predicate


def faults(text: str, scope: Scope = SCOPE) -> list[str]:
    found: list[str] = []
    parse(text, scope, lambda at, value, wrong, allowed: found.append(f"{at}: {value}|{wrong}|{allowed}"))
    return found


INPUTS = 'header("NAME"), cookie("NAME"), query("NAME"), path, host, port, method, client_ip, region, device, identity'
UNKNOWN = f"Inputs: {INPUTS}. Functions: matches, has, in_list, present"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ('header("X") == "a"', 'header("X") in ["a"]'),
        ("header('X') == 'a'", 'header("X") in ["a"]'),
        ('"a" == header("X")', 'header("X") in ["a"]'),
        ('header("X") != "a"', 'not header("X") in ["a"]'),
        ('header("X") not in ["b", "a", "b"]', 'not header("X") in ["a", "b"]'),
        ('header("X") == ""', 'not present(header("X"))'),
        ('header("X") != ""', 'present(header("X"))'),
        ('header("X") == 5', 'header("X") in [5]'),
        ('header("X") != 5', 'not header("X") in [5]'),
        ('header("X") in [5, "5", +006, -0]', '(header("X") in ["5"] or header("X") in [0, 5, 6])'),
        ('5 < header("X")', 'header("X") > 5'),
        ('5 >= header("X")', 'header("X") <= 5'),
        ('header("X") > +007', 'header("X") > 7'),
        ('header("X") > -007', 'header("X") > -7'),
        ('header("X") >= -0', 'header("X") >= 0'),
        (f'header("X") < {"0" * 5000}{"9" * 200}', f'header("X") < {"9" * 200}'),
        ("port == 80 or port in [81, '82']", 'port in ["80", "81", "82"]'),
        ("port > 8000", "port > 8000"),
        ('host == "WWW.Example.com."', 'host in ["www.example.com"]'),
        ('host in ["*.example.com"]', 'suffix(host, ".example.com")'),
        ('client_ip in ["10.0.0.0/8", "::ffff:10.1.2.3"]', 'client_ip in ["10.0.0.0/8", "10.1.2.3/32"]'),
        ('region == "here" and device in ["ios", "bot"]', '(device in ["bot", "ios"] and region in ["here"])'),
        ('identity == "u1"', 'identity in ["u1"]'),
        (r'matches(path, "^/\d+\"\'\\$")', r'matches(path, "^/\\d+\"' + r"'" + r'\\$")'),
        (r'header("X") == "\\d"', r'header("X") in ["\\d"]'),
        (r'header("X") == "\d"', r'header("X") in ["\\d"]'),
        ('header("X") == "a && b || !c"', 'header("X") in ["a && b || !c"]'),
        ('header("X") == "北京"', 'header("X") in ["北京"]'),
        (
            '!present(cookie("x"))&&(path=="/a"||method=="GET")',
            '((method in ["GET"] or path in ["/a"]) and not present(cookie("x")))',
        ),
        ('!header("X") == "1"', 'not header("X") in ["1"]'),
        ('!!present(query("q"))', 'present(query("q"))'),
        ('present(query("a")) and\n\tpresent(query("b"))\r\n', '(present(query("a")) and present(query("b")))'),
        (
            'path == "/a" or path == "/b" and method == "GET"',
            '((method in ["GET"] and path in ["/b"]) or path in ["/a"])',
        ),
        ('(path == "/a" or path == "/b") and method == "GET"', '(method in ["GET"] and path in ["/a", "/b"])'),
        ("(" * 49 + 'path == "/a"' + ")" * 49, 'path in ["/a"]'),
        ("not " * 50 + 'path == "/a"', 'path in ["/a"]'),
    ],
)  # fmt: skip
def test_what_it_means(text: str, meaning: str) -> None:
    assert text_of(read(text)) == meaning


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["0: |the expression is empty|Leave `when` out, or say what must hold"]),
        (" \n", ["0: |the expression is empty|Leave `when` out, or say what must hold"]),
        ('path = "/"', ["5: =|is no comparison|Write =="]),
        ('path == "/', ["8: |a text begins here and does not end|"]),
        ("path == '/\"", ["8: |a text begins here and does not end|"]),
        ('header("X") > 18.5', ["14: 18.5|is no number here|Write an integer, or a text in quotes"]),
        ('header("X") > 2e1', ["14: 2e1|is no number here|Write an integer, or a text in quotes"]),
        ('header("X") > 0x20', ["14: 0x20|is no number here|Write an integer, or a text in quotes"]),
        ('header("X") > 1_000', ["14: 1_000|is no number here|Write an integer, or a text in quotes"]),
        ('path == "/" & path == "/"', ["12: &|is not part of the language|Texts stand in quotes"]),
        ("_0 == 5", ["0: _|is not part of the language|Texts stand in quotes"]),
        ("path.x == 5", ["4: .|is not part of the language|Texts stand in quotes"]),
        ("host == \uff58", ["8: \uff58|is not part of the language|Texts stand in quotes"]),
        ('path == "/" )', ["12: |the expression cannot be read from here on|"]),
        ('( path == "/"', ["0: |the expression cannot be read from here on|"]),
        ('path == "/" path', ["12: |the expression cannot be read from here on|"]),
        ("path ==", ["7: |the expression cannot be read from here on|"]),
        ('path == "/" and', ["15: |the expression cannot be read from here on|"]),
        ('path == r"/"', ["9: |the expression cannot be read from here on|"]),
        ("(" * 51 + 'path == "/"' + ")" * 51, ["50: |the expression is nested too deeply|50 levels are the most"]),
        ("not " * 51 + 'path == "/"', ["200: |the expression is nested too deeply|50 levels are the most"]),
        ("!" * 51 + 'path == "/"', ["50: |the expression is nested too deeply|50 levels are the most"]),
        ("path", ["0: path|says nothing by itself|Compare it, as in path == ..."]),
        ('cookie("x")', ['0: cookie|says nothing by itself|Write present(cookie("x")), or compare it']),
        ("True", ["0: |a comparison or a function must stand here|"]),
        ('"a"', ["0: |a comparison or a function must stand here|"]),
        ("5", ["0: |a comparison or a function must stand here|"]),
        ("[5]", ["0: |a comparison or a function must stand here|"]),
        ('path if path == "/" else path', ["0: |a comparison or a function must stand here|"]),
        ("lambda", ["6: |the expression cannot be read from here on|"]),
        ("paht == 5", [f"0: paht|is not known here|Did you mean path? {UNKNOWN}"]),
        ('heder("X") == 5', [f"0: heder|is not known here|Did you mean header? {UNKNOWN}"]),
        ('match(path, "/")', [f"0: match|is not known here|Did you mean matches? {UNKNOWN}"]),
        ('path("x") == "/"', ["0: path|is written otherwise|Write path"]),
        ("header() == 5", ['0: header|is written otherwise|Write header("NAME")']),
        ('header("a", "b") == 5', ['0: header|is written otherwise|Write header("NAME")']),
        ("header == 5", ['0: header|needs a name|Write header("NAME")']),
        ("header(X) == 5", ["7: |a text in quotes must stand here|"]),
        ("header(5) == 5", ["7: |a text in quotes must stand here|"]),
        ('header("X_A") == 5', ["7: X_A|is no name of a header|It has up to 128 letters, digits and hyphens"]),
        ("header(header) == 5", ["7: |a text in quotes must stand here|"]),
        ("present()", ["0: present|is written otherwise|Write present(INPUT)"]),
        ("has(path)", ['0: has|is written otherwise|Write has(INPUT, "...")']),
        ("present(path)", ["8: path|is always present|"]),
        ('present("a")', [f"8: |an input must stand here|Inputs: {INPUTS}"]),
        ('has("a", "b")', [f"4: |an input must stand here|Inputs: {INPUTS}"]),
        ('has(cookie("a"), 5)', ["17: |a text in quotes must stand here|"]),
        ('matches(path, "(")', ["14: (|is no regular expression: missing closing parenthesis, at its byte 1|"]),
        ('"a" in header("X")', [f"0: |an input must stand here|Inputs: {INPUTS}"]),
        ('header("X") in "abc"', ['15: |a list must stand here|Write such as ["a", "b"]']),
        ('header("X") in ("a", "b")', ['15: |a list must stand here|Write such as ["a", "b"]']),
        ('header("X") in []', ['15: |a list must stand here|Write such as ["a", "b"]']),
        ('header("X") in [path]', ["16: |a list holds texts and numbers only|"]),
        ('header("X") == ["a"]', ["15: |a list stands here|Write `in [...]`"]),
        ('header("X") == cookie("y")', ["15: |two inputs cannot be compared|Compare each with a text or a number"]),
        ('header("X") > cookie("y")', ["14: |two inputs cannot be compared|Compare each with a text or a number"]),
        ("path == host", ["8: |two inputs cannot be compared|Compare each with a text or a number"]),
        ("5 == 5", [f"0: |an input must stand here|Inputs: {INPUTS}"]),
        ('header("X") > "5"', ["14: 5|is a text, and texts have no order here|Compare with a number, without quotes"]),
        ('"5" < header("X")', ["0: 5|is a text, and texts have no order here|Compare with a number, without quotes"]),
        ('1 < header("X") < 5', ["4: |comparisons in a row are not part of the language|Join two of them with and"]),
        ('header("X") is "a"', ["0: |`is` is not part of the language|Write == or !="]),
        ("path == 5", ["8: path|is no number|path takes in, prefix, suffix, regex, has, in_list"]),
        ("path > 5", ["7: path|is no number|path takes in, prefix, suffix, regex, has, in_list"]),
        ("client_ip == 5", ["13: client_ip|is no number|client_ip takes in, in_list"]),
        ('client_ip == "10.0.0.1/8"', [
            "13: 10.0.0.1/8|has host bits beyond its /8|Write 10.0.0.0/8, or 10.0.0.1 for this address alone",
        ]),
        ('matches(client_ip, "a")', ["19: client_ip|takes no regex|client_ip takes in, in_list"]),
        ('region == "her"', ["10: her|is no region of this policy|Did you mean here? `regions` has here, there"]),
        ('path == "x" or device == "ios" and host == "a:1"', [
            "8: x|is no path|A path begins with /",
            "43: a:1|is no host|Write a name without port and path, such as example.com, or *.example.com",
        ]),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, messages: list[str]) -> None:
    assert faults(text) == messages


def test_what_another_scope_refuses() -> None:
    tcp, nobody = Scope(Protocol.TCP), Scope(identified=False)
    assert faults('path == "/"', tcp) == ["8: path|cannot decide in a tcp service|There it is client_ip, region, port"]
    assert faults('identity == "u"', nobody) == ["12: identity|is nobody, since the policy says `identity: none`|"]
    assert faults("port == 81 and client_ip != '10.0.0.1'", tcp) == []


# ---------------------------------------------------------------- against an evaluator of its own


def holds(tree: Any, request: Request) -> bool:  # noqa: PLR0911 -- a line for each word of the language
    """What the tree means for a request."""
    word, left, right = tree
    if word in {"and", "&&"}:
        return holds(left, request) and holds(right, request)
    if word in {"or", "||"}:
        return holds(left, request) or holds(right, request)
    if word in {"not", "!"}:
        return not holds(left, request)
    if word == "()":
        return holds(left, request)
    value = request[left]
    if word == "present":
        return bool(value != "")
    if word in {"has", "matches", "in_list"}:
        wanted = right.strip('"')
        return answers(word, value, wanted)
    if word in {"in", "not in"}:
        return any(equal(left, value, one) for one in right) is (word == "in")
    if word in {"==", "!="}:
        return equal(left, value, right) is (word == "==")
    mine, other = integer(value), int(right)
    if mine is None:
        return False
    return {"<": mine < other, "<=": mine <= other, ">": mine > other, ">=": mine >= other}[word]


def answers(word: str, value: str, wanted: str) -> bool:
    if word == "has":
        return wanted in [part.strip() for part in value.split(",")]
    return value in LISTS[wanted] if word == "in_list" else value != "" and re.search(wanted, value) is not None


def equal(name: str, value: Any, constant: str) -> bool:
    if not constant.startswith('"'):
        return integer(value) == int(constant)
    text = constant.strip('"')
    if name in {"region", "device"}:
        return text in value
    if name == "client_ip":
        address = ipaddress.ip_address(value)
        network = ipaddress.ip_network(text.removeprefix("::ffff:"))
        return address.version == network.version and address in network
    if name == "host":
        return bool(value.endswith(text[1:])) if text.startswith("*") else value == text.lower().rstrip(".")
    return bool(value == text)


@settings(deadline=None)
@given(trees, st.lists(requests, min_size=1, max_size=5))
def test_an_expression_means_what_its_tree_means(tree: Any, asked: list[Request]) -> None:
    predicate = read(write(tree))
    for request in asked:
        assert evaluate(predicate, request) == holds(tree, request), write(tree)


@settings(deadline=None)
@given(trees)
def test_what_is_written_of_a_predicate_is_read_as_the_same(tree: Any) -> None:
    predicate = read(write(tree))
    again = text_of(predicate)
    if "suffix(" not in again:  # `*.example.com` is one: `when` has no word for it
        assert read(again) == predicate


SOUP = ["header", '("X")', "==", "!=", "<", ">=", "in", "not", "and", "&&", "||", "!", "(", ")", "[", "]", ",", "5",
        '"a"', "'", '"', "\\", "path", "has", "matches", "present", "lambda", "if", "else", "for", "is", "None",
        "await", "yield", "+", "-", "0", "_0", ".", ":", "\n", "\t", "é", "None", "f", "r"]  # fmt: skip


soups = st.lists(st.sampled_from(SOUP), max_size=12)


@settings(deadline=None)
@given(st.one_of(st.text(), soups.map("".join), soups.map(" ".join)))
def test_no_text_makes_it_fail(text: str) -> None:
    """Whatever is written is a predicate or a fault with a place in the text."""
    places: list[int] = []
    predicate = parse(text, SCOPE, lambda at, *_: places.append(at))
    assert all(0 <= at <= len(text) for at in places)
    assert places or text_of(predicate)


def test_a_chain_of_thousands_is_no_nesting() -> None:
    predicate = read(" or ".join(f'path == "/{n}"' for n in range(5000)))
    assert isinstance(predicate, Condition)
    assert len(predicate.values) == 5000
    both = read(" and ".join(f'not path == "/{n}"' for n in range(3000)))
    assert isinstance(both, All)
    assert len(both.parts) == 3000
