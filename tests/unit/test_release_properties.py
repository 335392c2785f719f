"""What holds for every policy: the meaning decides, a text is kept or refused, and no input does anything but that."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grayctl.errors import ReleaseError
from grayctl.model.release import Release
from grayctl.policy import wire
from grayctl.policy.document import read_document, read_release
from grayctl.policy.lint import lint
from tests.support.policies import FIELDS, NASTY

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/releases").glob("*.yaml"))

# ---------------------------------------------------------------- the meaning decides

words = st.sampled_from(
    ["a", "b", "on", "1.10", "019", "null", "~", "true", "1e3", "0x1F", "é", "a: b", "- a", "#", "x y"]
)
versions = st.sampled_from(["v2", "v3", "2.10", "019", "on", "1e3"])
operators = st.fixed_dictionaries(
    {},
    optional={
        "exact": words,
        "prefix": words,
        "suffix": words,
        "regex": st.sampled_from(["^a", "b$", "[0-9]+"]),
        "has": words,
        "in": st.lists(words, min_size=1, max_size=3),
        "in_list": st.sampled_from(["l1", "l2"]),
        "present": st.booleans(),
    },
).filter(bool)
tests = st.one_of(words, st.lists(words, min_size=1, max_size=3), operators)
tables = st.dictionaries(st.sampled_from(["X-A", "b", "C1"]), tests, min_size=1, max_size=3)
matches = st.fixed_dictionaries(
    {},
    optional={
        "header": tables,
        "cookie": tables,
        "query": tables,
        "identity": tests,
        "path": st.sampled_from(["/a", "/a/b"]),
        "host": st.lists(st.sampled_from(["a.example", "*.B.example", "c."]), min_size=1),
        "port": st.sampled_from(["80", "8080"]),
        "method": st.sampled_from(["GET", "POST"]),
        "client_ip": st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32", "10.1.2.3"]), min_size=1),
        "region": st.sampled_from(["here", "there"]),
        "device": st.lists(st.sampled_from(["ios", "bot"]), min_size=1),
    },
).filter(bool)
shares = st.dictionaries(versions, st.sampled_from(["0", "5", "0.25", "12.5%"]), max_size=3)
ends = st.one_of(
    st.fixed_dictionaries({"to": versions}),
    st.fixed_dictionaries({"traffic": shares.filter(bool)}),
)
conditions = st.one_of(
    st.fixed_dictionaries({"match": st.one_of(matches, st.lists(matches, min_size=1, max_size=3))}),
    st.fixed_dictionaries({"when": st.sampled_from(['header("X") > 5', 'not path == "/a" && present(cookie("c"))'])}),
)
routes = st.lists(st.tuples(conditions, ends), max_size=4).map(
    lambda pairs: [{"name": f"r{at}", **condition, **end} for at, (condition, end) in enumerate(pairs)]
)
policies = st.fixed_dictionaries(
    {
        "service": st.just("shop"),
        "stable": st.sampled_from(["v1", "1.10", "off"]),
        "regions": st.just({"here": ["10.0.0.0/8"], "there": {"variable": "$geo", "values": ["no", "CN"]}}),
    },
    optional={
        "protocol": st.sampled_from(["http", "grpc"]),
        "identity": st.lists(
            st.sampled_from([("header", "X-U"), ("cookie", "u"), ("query", "q")]), min_size=1, max_size=3, unique=True
        ).map(lambda pairs: [{source: name} for source, name in pairs]),
        "traffic": shares,
        "routes": routes,
        "explicit": st.fixed_dictionaries(
            {"header": st.just("X-V")},
            optional={"versions": st.lists(versions, min_size=1), "unknown": st.sampled_from(["stable", "reject"])},
        ),
        "balance": st.sampled_from(["random", "ip_hash"]),
        "upstream": st.fixed_dictionaries({}, optional={"keepalive": st.just(8), "fail_timeout": st.just("1.5s")}),
        "when_empty": st.sampled_from(["keep_last", "reject"]),
    },
)


def shuffled(value: Any, draw: Callable[[Any], Any]) -> Any:
    """The same with the keys of every mapping, and the items of lists whose order means nothing, in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(sorted(value)))}
    return [shuffled(one, draw) for one in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(policies, st.data())
def test_neither_the_order_of_keys_nor_yaml_or_json_changes_the_meaning(
    policy: dict[str, Any], data: st.DataObject
) -> None:
    release = read_release(json.dumps(policy), "p")
    other = shuffled(policy, data.draw)
    for text in (
        json.dumps(other, indent="\t"),
        json.dumps(other, ensure_ascii=False, separators=(",", ":")),
        yaml.safe_dump(other, sort_keys=False),
        yaml.safe_dump(other, sort_keys=False, allow_unicode=True, default_flow_style=True),
        yaml.safe_dump(other, sort_keys=False, default_style='"', width=20),
    ):
        assert read_release(text, "p") == release


@settings(deadline=None)
@given(policies, st.data())
def test_the_order_of_alternatives_changes_nothing(policy: dict[str, Any], data: st.DataObject) -> None:
    """Of values in a list, of mappings in a match: any of them holds, whichever comes first."""
    release = read_release(json.dumps(policy), "p")
    other = json.loads(json.dumps(policy))
    for route in other.get("routes", ()):
        if isinstance(route.get("match"), list):
            route["match"] = data.draw(st.permutations(route["match"]))
        for match in route["match"] if isinstance(route.get("match"), list) else [route.get("match", {})]:
            for key in ("host", "client_ip", "device"):
                if isinstance(match.get(key), list):
                    match[key] = data.draw(st.permutations(match[key]))
    assert read_release(json.dumps(other), "p") == release


VALIDATOR = jsonschema.Draft202012Validator(wire.schema())


@settings(deadline=None)
@given(policies)
def test_the_schema_takes_what_the_reader_takes(policy: dict[str, Any]) -> None:
    read_release(json.dumps(policy), "p")
    VALIDATOR.validate(policy)


@settings(deadline=None)
@given(policies)
def test_a_release_survives_encoding_and_lint_never_fails(policy: dict[str, Any]) -> None:
    document = read_document(json.dumps(policy), "p")
    assert msgspec.json.decode(msgspec.json.encode(document.release), type=Release) == document.release
    for one in lint(document, lists=(), versions=()):
        assert one.line == 1
        assert one.level in {"warning", "info"}


# ---------------------------------------------------------------- a text is kept or refused


anything = st.one_of(
    st.sampled_from(NASTY), st.text(), st.text(alphabet="ab01.-_/$*~\\\"'{};: ,", min_size=1, max_size=20)
)


@pytest.mark.parametrize("field", FIELDS)
@settings(deadline=None)
@given(text=anything)
def test_a_text_is_kept_exactly_or_refused(field: str, text: str) -> None:
    write, take = FIELDS[field]
    policy = json.dumps(write(text))
    try:
        kept = take(read_release(policy, "p"))
    except ReleaseError:
        return
    assert kept == text
    assert type(kept) is str, "no mark goes further than the reader"


@pytest.mark.parametrize("field", FIELDS)
def test_some_text_is_kept(field: str) -> None:
    """So that the property above is about something."""
    write, take = FIELDS[field]
    plain = {"method": "GET", "port": "80", "device": "ios", "path": "/a", "path prefix": "/a"}.get(field, "a1")
    assert take(read_release(json.dumps(write(plain)), "p")) == plain


# ---------------------------------------------------------------- nothing else happens

SEEDS = [path.read_bytes() for path in EXAMPLES]


def only_release_errors(text: bytes | str) -> None:
    try:
        document = read_document(text, "p", service="shop")
    except ReleaseError as error:
        problems = error.problems
    else:
        lint(document, lists=())
        return
    assert problems
    for one in problems:
        assert one.line >= 1
        assert "\n" not in one.text, "a problem is a line"
        one.text.encode()


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
@example(b"\xef\xbb\xbfstable: v1")
@example("%YAML 1." + "9" * 5000)
@example("stable: !!binary aGk=")
@example("stable: !!python/object:os.system x")
@example("<<: *a")
@example("? [a]\n: b")
@example('"\\U00110000": 1')
@example("&a [*a]")
@example("{" * 2000)
def test_random_input_is_refused_in_one_way(text: bytes | str) -> None:
    only_release_errors(text)


@settings(deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=4),
)
def test_damaged_policies_are_refused_in_one_way(seed: bytes, damage: list[tuple[int, int, bytes]]) -> None:
    for anywhere, length, instead in damage:
        at = anywhere % (len(seed) or 1)
        seed = seed[:at] + instead + seed[at + length :]
    only_release_errors(seed)


KEYS = ["stable", "routes", "match", "header", "name", "to", "traffic", "when", "in", "path", "identity", "explicit"]
KEYS += ["regions", "balance", "upstream", "blue_green", "rollout", "variable", "values", "port", "preview", "hash"]
structures = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None)
@given(structures)
def test_any_structure_is_refused_in_one_way(structure: Any) -> None:
    only_release_errors(json.dumps(structure))
    only_release_errors(yaml.safe_dump(structure))
