"""What lint remarks on, and how far it looks; the command; the examples; the schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from grayctl.cli import cli
from grayctl.errors import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from grayctl.model.naming import VERSION_RULE
from grayctl.model.release import Predicate
from grayctl.policy import wire
from grayctl.policy.document import read_document, read_release
from grayctl.policy.implication import Implication
from grayctl.policy.lint import lint
from grayctl.policy.predicates import every, negate, some, text_of
from tests.support.judge import Request, evaluate

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/releases/*.yaml"))
HEAD = "service: shop\nstable: v1\nregions: {here: [10.0.0.0/8], there: [11.0.0.0/8]}\n"


def predicate(expression: str) -> Predicate:
    """Of a `when`, or of a match where it begins with a brace or bracket."""
    key = "match" if expression.startswith(("{", "[")) else "when"
    written = expression if key == "match" else json.dumps(expression)
    text = f"{HEAD}routes: [{{name: r, {key}: {written}, to: v2}}]"
    (route,) = read_release(text, "p").routes
    return route.predicate


def remarks(text: str, **known: set[str]) -> list[str]:
    found = lint(read_document(text, "p.yaml", service="shop"), **known)
    return [one.text.removeprefix("p.yaml:") for one in found]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('header("X") == "a"', 'header("x") in ["a", "b"]'),
        ('header("X") == "a"', 'present(header("X"))'),
        ('header("X") > 5', 'header("X") >= 6'),
        ('header("X") in [7, 9]', 'header("X") > 6 and header("X") < 10'),
        ('header("X") > 5', 'present(header("X"))'),
        ('matches(header("X"), "^a?$")', 'present(header("X"))'),
        ('has(header("X"), "a")', 'present(header("X"))'),
        ('header("X") == "a, b"', 'has(header("X"), "b")'),
        ('in_list(identity, "l")', "present(identity)"),
        ('client_ip == "10.1.2.3"', 'client_ip in ["10.1.0.0/16", "2001:db8::/32"]'),
        ('client_ip == "2001:db8::1"', 'client_ip in ["10.1.0.0/16", "2001:db8::/32"]'),
        ('device == "ios"', 'device in ["ios", "bot"]'),
        ("{path: /a/b}", "{path: {prefix: /a}}"),
        ("{path: {prefix: /a/b}}", "{path: {prefix: /a}}"),
        ("{path: {prefix: /a/}}", "{path: {prefix: /a}}"),
        ("{path: {suffix: x.png}}", "{path: {suffix: .png}}"),
        ("{host: a.example.com}", '{host: "*.example.com"}'),
        ('path == "/a" and header("X") == "1"', 'header("X") == "1"'),
        ('header("X") == "1"', 'path == "/a" or header("X") == "1"'),
        ('path == "/a" or path == "/b"', 'path in ["/a", "/b", "/c"]'),
        ('not path in ["/a", "/b"]', 'not path == "/a"'),
        ('header("X") == "a"', 'header("X") != "b"'),
        ("port == 80", "port != 81"),
        ('not (path == "/a" or path == "/b")', 'not path == "/a" or header("X") == "1"'),
        ('matches(path, "^/a")', 'matches(path, "^/a")'),
    ],
)
def test_what_is_seen_to_follow(first: str, second: str) -> None:
    assert Implication().implies(predicate(first), predicate(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('header("X") in ["a", "b"]', 'header("x") == "a"'),
        ('header("X") == "a"', 'cookie("X") == "a"'),
        ('header("X") == "a"', 'header("Y") == "a"'),
        ('header("X") >= 5', 'header("X") > 5'),
        ('cookie("X") == "a,b"', 'has(cookie("X"), "b")'),
        ('query("X") == "a b"', 'query("X") != "a+b"'),
        ('region == "here"', 'region != "there"'),
        ('device == "ios"', 'device != "mobile"'),
        ('client_ip == "10.0.0.0/8"', 'client_ip == "10.1.0.0/16"'),
        ('client_ip == "0.0.0.0/0"', 'client_ip == "::/0"'),
        ("{path: {prefix: /a}}", "{path: {prefix: /a/}}"),
        ("{path: {prefix: /ab}}", "{path: {prefix: /a}}"),
        ("{host: example.com}", '{host: "*.example.com"}'),
        ('path == "/a" or header("X") == "1"', 'header("X") == "1"'),
        ('not path == "/a"', 'not path in ["/a", "/b"]'),
        ('present(header("X"))', 'header("X") == "a"'),
        ('not header("X") == "a"', 'header("X") == "b"'),
        ('header("X") == "b"', 'not present(header("X"))'),
        ('header("X") > 5', 'header("X") < 5'),
    ],
)
def test_what_does_not_follow(first: str, second: str) -> None:
    assert not Implication().implies(predicate(first), predicate(second))


@pytest.mark.parametrize(
    ("expression", "never"),
    [
        ('header("X") > 5 and header("X") < 6', True),
        ('header("X") > 5 and header("X") in [5]', True),
        ('header("X") > 5 and header("X") < 7', False),
        ('path == "/a" and path == "/b"', True),
        ('client_ip == "10.0.0.0/8" and client_ip in ["11.0.0.0/8", "2001:db8::/32"]', True),
        ('client_ip == "10.0.0.0/8" and client_ip == "10.1.0.0/16"', False),
        ('region == "here" and region == "there"', False),
        ('device == "ios" and device == "mobile"', False),
        ('not present(header("X")) and header("X") == "a"', True),
        ('(path == "/a" and path == "/b") or (path == "/c" and path == "/d")', True),
        ('(path == "/a" and path == "/b") or path == "/c"', False),
        ('path == "/a" and not path == "/a"', True),
    ],
)
def test_conditions_that_exclude_each_other(expression: str, never: bool) -> None:  # noqa: FBT001 -- a table's column
    assert Implication().never(predicate(expression)) is never


ATOMS = [
    predicate(text)
    for text in (
        *(f'header("X") {sign} {number}' for sign in ("<", "<=", ">", ">=", "==", "!=") for number in (-1, 5, 6)),
        *(f'header("X") in {values}' for values in ("[5, 7]", '["a"]', '["a", "b"]', '["5"]', '["a,b"]', '["b, a"]')),
        *(f'{word}(header("X"), "{text}")' for word in ("has", "in_list") for text in ("a", "l1")),
        'present(header("X"))',
        'matches(header("X"), "^a?$")',
        *(
            f'{{header: {{X: {{{word}: "{text}"}}}}}}'
            for word in ("prefix", "suffix")
            for text in ("a", "a,", "b", ",b")
        ),
        *(f"{{path: {{prefix: {text}}}}}" for text in ("/", "/a", "/a/", "/a/b", "/ab")),
        *(f"{{path: {{suffix: {text}}}}}" for text in ("/", "a", "/b", "/a/b")),
        *(f"{{path: [{text}]}}" for text in ("/", "/a", "/a/b", "'/a', '/a/b'")),
        *(f"client_ip in [{text}]" for text in ('"10.0.0.0/8"', '"10.1.0.0/16", "11.0.0.0/8"', '"10.1.2.3"', '"::/0"')),
        *(f"region in [{text}]" for text in ('"here"', '"there"', '"here", "there"')),
    )
]
DEFAULTS = {"path": "/", "client_ip": "192.0.2.1", "region": set[str]()}
ASKED: list[Request] = [
    {**DEFAULTS, 'header("X")': value, **more}
    for value in ("", "a", "b", "a,b", "b, a", "ab", "-1", "-2", "0", "4", "+5", "5", "6", "7", "18.5", "l1")
    for more in (
        {},
        {"path": "/a", "client_ip": "10.1.2.3", "region": {"here"}},
        {"path": "/a/", "client_ip": "10.1.9.9", "region": {"there"}},
        {"path": "/a/b", "client_ip": "10.9.9.9", "region": {"here", "there"}},
        {"path": "/ab", "client_ip": "11.0.0.1"},
        {"path": "/x/a/b", "client_ip": "2001:db8::1"},
    )
]


def where(one: Predicate) -> set[int]:
    """The requests for which it holds."""
    return {at for at, request in enumerate(ASKED) if evaluate(one, request)}


def test_of_any_two_conditions_what_is_seen_is_so() -> None:
    both = [*ATOMS, *map(negate, ATOMS)]
    holds = [where(one) for one in both]
    seen = 0
    for at, first in enumerate(both):
        for other, second in enumerate(both):
            if Implication().implies(first, second):
                seen += at != other
                assert holds[at] <= holds[other], (text_of(first), text_of(second))
            if Implication().never(every([first, second])):
                assert not holds[at] & holds[other], (text_of(first), text_of(second))
    assert seen > 400


parts = st.sampled_from(ATOMS)
judged = st.recursive(
    parts,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(every),
        st.lists(inner, min_size=2, max_size=3).map(some),
        inner.map(negate),
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(judged, judged, st.lists(parts, min_size=1, max_size=3))
def test_of_any_two_predicates_what_is_seen_is_so(first: Predicate, second: Predicate, more: list[Predicate]) -> None:
    judge = Implication()
    for one, other in ((first, second), (every([first, *more]), second), (first, some([second, *more]))):
        if judge.implies(one, other):
            assert where(one) <= where(other)
        if judge.never(one):
            assert not where(one)


def test_a_monstrous_policy_is_not_judged_for_ever() -> None:
    parts = " or ".join(f'(header("A{n}") == "1" and (cookie("a{n}") == "2" or path == "/{n}"))' for n in range(200))
    judge = Implication(steps=1000)
    assert not judge.implies(predicate(parts), predicate(parts.replace('"/1"', '"/x"')))
    assert judge.steps < 0


MOVE = ". Move it up, or take it out"
OPEN = "info: decides by headers that any client may send: X. Drop them at the edge, or ask for client_ip too, "


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "stable: v1\nrollout: {steps: []}",
            ["2: rollout: warning: is read past: this version of grayctl runs no rollouts"],
        ),
        (
            "stable: v1\nidentity: [client_ip, {cookie: uid}]",
            [
                (
                    "2: identity: warning: names client_ip before its end, and no request is without one: what "
                    "follows never counts. Write client_ip last"
                ),
            ],
        ),
        (
            (
                "stable: v1\nroutes:\n- {name: a, match: {path: {prefix: /a}}, to: v2}\n"
                "- {name: b, match: {path: /a/b}, to: v3}"
            ),
            [f"4: routes[1]: warning: 'b' can never match: route a comes first and holds wherever this does{MOVE}"],
        ),
        (
            (
                "stable: v1\nroutes:\n- {name: a, match: {path: /a}, to: v2}\n- {name: b, match: {path: /b}, to: v2}\n"
                "- {name: c, match: {path: [/a, /b]}, to: v3}"
            ),
            [f"5: routes[2]: warning: 'c' can never match: one of the routes before it always does{MOVE}"],
        ),
        (
            (
                "stable: v1\nroutes:\n- {name: a, match: {path: /a}, to: v2}\n"
                "- {name: b, match: {method: GET}, to: v2}\n"
                "- {name: c, match: [{path: /a}, {method: GET, port: 80}], to: v3}"
            ),
            [f"5: routes[2]: warning: 'c' can never match: one of the routes before it always does{MOVE}"],
        ),
        (
            "stable: v1\nblue_green: {preview: v2, port: 81}\nroutes: [{name: a, match: {port: 81, path: /}, to: v3}]",
            [f"3: routes[0]: warning: 'a' can never match: the preview comes first and holds wherever this does{MOVE}"],
        ),
        (
            'stable: v1\nroutes: [{name: a, match: {path: /a}, when: path == "/b", to: v3}]',
            ["2: routes[0]: warning: 'a' can never match: its conditions exclude each other"],
        ),
        (
            "stable: v1\ntraffic: {v2: 1, v3: 1}\nexplicit: {cookie: v, versions: [v1, v2]}",
            [
                (
                    "3: explicit: warning: knows no `always`, which counts as unknown: there are several canaries "
                    "(v2, v3). Whoever wants one names it"
                ),
                "3: explicit.versions: info: does not list v3: a request that names one of them counts as unknown",
            ],
        ),
        (
            "stable: v1\nregions: {here: 10.0.0.0/8}",
            ["2: regions.here: warning: 'here' is a region that no condition asks for"],
        ),
        (
            "stable: v1\nroutes:\n- {name: a, match: {path: '/a?b=1'}, to: v2}",
            [
                (
                    "3: routes[0]: warning: '/a?b=1' is compared with the decoded path, which has no query; ? and % "
                    "stand for themselves. Write the path decoded, and the query under `query`"
                ),
            ],
        ),
        (
            'stable: v1\nroutes:\n- {name: a, match: {header: {X: " a"}}, to: v2}',
            [
                f"2: routes: {OPEN}where that matters",
                (
                    "3: routes[0]: warning: ' a' is compared with header(\"X\"), around whose value nginx trims "
                    "blanks: they are never equal. Write it without blanks around it"
                ),
            ],
        ),
        (
            "stable: v1\nroutes:\n- {name: a, match: {cookie: {x: {regex: 'a*'}}}, to: v2}",
            [
                (
                    "3: routes[0]: warning: 'a*' is found in the empty text too, but cookie(\"x\") is not asked where "
                    "it is empty or absent. Ask for absence with `present: false`"
                ),
            ],
        ),
        ("stable: v1\nexplicit: {header: X, from: 10.0.0.0/8}", []),
        (
            "stable: v1\nexplicit: {header: X}",
            [f"2: explicit: {OPEN}where that matters"],
        ),
    ],
)
def test_remarks(text: str, messages: list[str]) -> None:
    assert remarks(text) == messages


def test_unknown_lists_are_named_where_they_are_asked() -> None:
    text = (
        "stable: v1\nidentity: [{cookie: u}]\nroutes:\n- {name: a, match: {identity: {in_list: known}}, to: v2}\n"
        "- {name: b, match: {client_ip: {in_list: no}}, to: v2}\n"
        '- {name: c, when: \'in_list(cookie("x"), "no")\', to: v2}'
    )
    said = "'no' is a list that does not exist, so it holds nobody. Write it with `grayctl list put no`"
    assert remarks(text) == []
    assert remarks(text, lists={"known"}) == [
        f"5: routes[1].match.client_ip.in_list: warning: {said}",
        f"6: routes[2].when: warning: {said}",
    ]


def test_versions_without_an_instance_are_named_where_they_stand() -> None:
    text = (
        "stable: '1.0'\ntraffic: {2.0: 5}\nroutes:\n- {name: a, match: {method: GET}, to: v3}\n"
        "- {name: b, match: {method: PUT}, traffic: {v4: 1}}\nexplicit: {cookie: v, versions: [v5, '1.0']}"
    )
    with_always = [one for one in remarks(text, versions={"v3"}) if "healthy" in one]
    assert with_always == [
        "1: stable: warning: '1.0' has no healthy instance, and is stable: `when_empty` says keep_last",
        "2: traffic.'2.0': warning: '2.0' has no healthy instance: its requests go to stable",
        "5: routes[1].traffic.v4: warning: 'v4' has no healthy instance: its requests go to stable",
        "6: explicit: warning: 'v5' has no healthy instance: its requests go to stable",
    ]
    preview = "stable: v1\nblue_green: {preview: v2, port: 81}"
    assert remarks(preview, versions={"v1"}) == [
        "2: blue_green: warning: 'v2' has no healthy instance: its preview answers 503"
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_clean_and_fit_the_schema(example: Path) -> None:
    document = read_document(example.read_bytes(), example.name)
    assert [one.text for one in lint(document) if one.level != "info"] == []
    jsonschema.validate(yaml.safe_load(example.read_bytes()), wire.schema())


def test_every_field_stands_in_an_example() -> None:
    written = "".join(example.read_text(encoding="utf-8") for example in EXAMPLES)
    fields = {name for one in wire.schema()["$defs"].values() for name in one.get("properties", ())}
    assert {name for name in fields if f"{name}:" not in written} == {"exact", "rollout", "hash"}


@pytest.mark.parametrize(
    "text",
    [
        "{service: s}",
        "{service: s, stable: v1, other: 1}",
        "{service: s, stable: [v1]}",
        "{service: s, stable: v1, given: 1}",
        "{service: s, stable: null}",
        "{service: s, stable: v1, protocol: udp}",
        "{service: s, stable: v1, routes: [{name: a, match: {device: phone}, to: v2}]}",
        "{service: s, stable: v1, routes: [{name: a, match: {path: {like: /}}, to: v2}]}",
        "{service: s, stable: v1, upstream: {keepalive: many}}",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), wire.schema())


def test_the_schema_is_a_schema_and_describes_every_field() -> None:
    schema = wire.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "given" not in json.dumps(schema)
    for shape in schema["$defs"].values():
        for name, field in shape.get("properties", {}).items():
            referred = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else {}
            assert "description" in field or "description" in referred, name
    result = CliRunner().invoke(cli, ["release", "schema"])
    assert json.loads(result.output) == schema


def test_lint_ends_with_1_for_errors_and_with_strict_for_warnings(tmp_path: Path) -> None:
    good, warns, bad = tmp_path / "good.yaml", tmp_path / "warns.yaml", tmp_path / "bad.yaml"
    good.write_text("{service: a, stable: v1}")
    warns.write_text("{service: b, stable: v1, rollout: {steps: []}}")
    bad.write_text("{stable: v 1}")

    def run(*args: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(cli, ["release", "lint", *args])
        return result.exit_code, result.output.splitlines()

    assert run(str(good)) == (EXIT_DONE, ["1 policy: 0 errors, 0 warnings"])
    warning = f"{warns}:1: rollout: warning: is read past: this version of grayctl runs no rollouts"
    assert run(str(good), str(warns)) == (EXIT_DONE, [warning, "2 policies: 0 errors, 1 warning"])
    assert run("--strict", str(good), str(warns))[0] == EXIT_REFUSED
    code, lines = run(str(good), str(bad))
    assert code == EXIT_REFUSED
    assert lines == [
        f"{bad}:1: stable: 'v 1' is no version. A version is {VERSION_RULE}",
        f"{bad}:1: service: is missing. Write `service:` and its name in Consul",
        "2 policies: 2 errors, 0 warnings",
    ]
    assert run(str(tmp_path / "none.yaml"))[0] == EXIT_USAGE
    assert run()[0] == EXIT_USAGE


def test_lint_as_json_has_each_part_of_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("service: s\nstable: v1\nroutes:\n- name: a\n  when: path == 5\n  to: v2")
    result = CliRunner().invoke(cli, ["release", "lint", "--json", str(path)])
    assert result.exit_code == EXIT_REFUSED
    assert json.loads(result.output) == {
        "files": 1,
        "errors": 1,
        "warnings": 0,
        "problems": [
            {
                "file": str(path),
                "line": 5,
                "column": 17,
                "path": "routes[0].when",
                "value": "path",
                "wrong": "is no number",
                "allowed": "path takes in, prefix, suffix, regex, has, in_list",
                "level": "error",
            }
        ],
    }


def test_lint_with_a_catalog_knows_the_instances(tmp_path: Path) -> None:
    catalog, policy = tmp_path / "catalog.yaml", tmp_path / "p.yaml"
    catalog.write_text(
        "services:\n  s:\n  - {id: a, address: name.example, port: 1, version: v1}\n"
        "  - {id: b, address: 10.0.0.1, port: 1, version: v2, health: critical}\n"
        "  - {id: c, address: 10.0.0.1, port: 2, version: v3, weight: 0}\n  - {id: d, tags: [version=v4], port: 3}\n"
    )
    policy.write_text("{service: s, stable: v1, traffic: {v2: 1, v3: 1, v4: 1}}")
    result = CliRunner().invoke(cli, ["release", "lint", "--catalog", str(catalog), str(policy)])
    assert [line.split(": ")[1] for line in result.output.splitlines()[:-1]] == ["traffic.v2", "traffic.v3"]
    assert result.exit_code == EXIT_DONE


def test_lint_reads_standard_input() -> None:
    result = CliRunner().invoke(cli, ["release", "lint", "-"], input="{service: a, stable: v1}")
    assert result.exit_code == EXIT_DONE
