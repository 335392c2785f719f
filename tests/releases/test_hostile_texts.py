"""A hostile text in any field of a policy adds no directive and changes no decision."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import crossplane
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.errors import ReleaseError
from grayctl.model.plan import ServicePlan, Upstream
from grayctl.model.tables import Constant, Geo, Split, Table
from grayctl.model.tokens import Joined, Token
from grayctl.policy.document import read_release
from grayctl.policy.explain import explain
from grayctl.policy.live import follow
from grayctl.policy.request import Request
from grayctl.render.quoting import quote
from tests.releases.asking import answering, asked, object_of, told
from tests.releases.oracle import Sent, World, decide
from tests.releases.site import Instance, plan_in_force
from tests.support.hostile import NASTY

HEAD = {"service": "shop", "stable": "v1", "identity": [{"header": "X-User-ID"}], "traffic": {"v2": 30}}
TESTER = {"name": "tester", "match": {"header": {"X-Test": "yes"}}, "to": "v2"}


def _match(condition: object) -> dict[str, Any]:
    return HEAD | {"routes": [TESTER, {"name": "probe", "match": condition, "to": "v2"}]}


def _operator(source: str, operator: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: _match({source: {"X": {operator: text}}})


FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    **{
        f"{source} {operator}": _operator(source, operator)
        for source in ("header", "cookie", "query")
        for operator in ("exact", "prefix", "suffix", "has", "in_list")
    },
    "header regex": lambda text: _match({"header": {"X": {"regex": text}}}),
    "header in": lambda text: _match({"header": {"X": [text, "other"]}}),
    "header in many": lambda text: _match({"header": {"X": [text, *(f"o{n}" for n in range(40))]}}),
    "header name": lambda text: _match({"header": {text: "1"}}),
    "cookie name": lambda text: _match({"cookie": {text: "1"}}),
    "query name": lambda text: _match({"query": {text: "1"}}),
    "identity": lambda text: _match({"identity": text}),
    "identity name": lambda text: HEAD | {"identity": [{"cookie": text}, {"header": "X-User-ID"}], "routes": [TESTER]},
    "path": lambda text: _match({"path": text}),
    "path prefix": lambda text: _match({"path": {"prefix": text}}),
    "host": lambda text: _match({"host": text}),
    "method": lambda text: _match({"method": text}),
    "client_ip": lambda text: _match({"client_ip": text}),
    "device": lambda text: _match({"device": text}),
    "port": lambda text: _match({"port": text}),
    "region": lambda text: _match({"region": text}) | {"regions": {text: ["10.0.0.0/8"]}},
    "region value": lambda text: (
        _match({"region": "r"}) | {"regions": {"r": {"variable": "$http_x", "values": [text]}}}
    ),
    "region variable": lambda text: _match({"region": "r"}) | {"regions": {"r": {"variable": text, "values": ["a"]}}},
    "route": lambda text: HEAD | {"routes": [TESTER, {"name": text, "match": {"header": {"X": "1"}}, "to": "v2"}]},
    "to": lambda text: HEAD | {"routes": [TESTER, {"name": "probe", "match": {"header": {"X": "1"}}, "to": text}]},
    "stable": lambda text: HEAD | {"stable": text, "routes": [TESTER]},
    "traffic": lambda text: HEAD | {"traffic": {"v2": 30, text: 1}, "routes": [TESTER]},
    "share": lambda text: HEAD | {"traffic": {"v2": text}, "routes": [TESTER]},
    "explicit name": lambda text: HEAD | {"explicit": {"cookie": text}, "routes": [TESTER]},
    "explicit version": lambda text: HEAD | {"explicit": {"header": "X", "versions": ["v1", text]}, "routes": [TESTER]},
    "explicit network": lambda text: HEAD | {"explicit": {"header": "X", "from": [text]}, "routes": [TESTER]},
    "service": lambda text: HEAD | {"service": text, "routes": [TESTER]},
    "hash": lambda text: HEAD | {"balance": {"hash": text}, "routes": [TESTER]},
    "zone": lambda text: HEAD | {"upstream": {"zone": text}, "routes": [TESTER]},
    "fail_timeout": lambda text: HEAD | {"upstream": {"fail_timeout": text}, "routes": [TESTER]},
}
PLAIN = {
    "path": "/a",
    "path prefix": "/a",
    "method": "GET",
    "client_ip": "10.0.0.1",
    "explicit network": "10.0.0.0/8",
    "device": "ios",
    "port": "80",
    "region variable": "$http_x",
    "share": "5",
    "hash": "${uri}$args",
    "zone": "128k",
    "fail_timeout": "10s",
}
hostile = st.one_of(
    st.sampled_from(
        [
            *NASTY,
            *PLAIN.values(),
            "(",
            "a|b",
            "x;y",
            "~*x",
            "\\",
            '\\"',
            '"; }',
            "$uri",
            "a\nb",
            "'",
            "/a",
            '/"; }',
            "10.0.0.0/8",
            "1;",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text("ab1/.-_$*~\\\"'{}; #\n", min_size=1, max_size=12),
)


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=hostile)
def test_no_text_adds_a_directive_or_changes_a_decision(tmp_path: Path, field: str, text: str) -> None:
    """The object parses to what the Plan says, token by token; and what is decided is what the policy says."""
    policy = FIELDS[field](text)
    plan = _plan(policy, text)
    if plan is None:
        return
    assert _parsed(object_of(plan), tmp_path) == [*map(_upstream, plan.upstreams), *map(_directive, plan.tables)]
    if field in {"region variable", "region value"}:
        return  # the oracle knows networks alone
    release = read_release(json.dumps(policy), "policy")
    live = follow(release, "", None, lambda: "salt")
    ring = [(slot.owner, slot.width, slot.held) for slot in live.ring]
    world = World(frozenset(release.versions), live.salt, ring, {}, {text: ["1", text]})
    for sent in (
        Sent(headers=(("X-User-ID", "u1"),)),
        Sent(headers=(("X-User-ID", "u2"), ("X-Test", "yes"))),
        Sent(headers=(("X", "1"), ("X-User-ID", "u7"))),
        Sent(headers=(("X-User-ID", "u3"),), path="/a", address="10.1.2.3"),
    ):
        headers = (("Host", sent.host), *sent.headers)
        asked = Request(
            sent.path.encode(), headers=tuple((a.encode(), b.encode()) for a, b in headers), address=sent.address
        )
        told = explain(plan.service, plan.id, plan.tables, asked)
        assert (told.version, told.route) == decide(policy, sent, world, {}), sent


@pytest.mark.parametrize("field", FIELDS)
def test_some_text_is_followed(field: str) -> None:
    """So that the property above is about something."""
    text = PLAIN.get(field, "a1")
    assert _plan(FIELDS[field](text), text)


def _plan(policy: Mapping[str, Any], text: str) -> ServicePlan | None:
    """None where the policy is refused."""
    try:
        release = read_release(json.dumps(policy), "policy")
    except ReleaseError:
        return None
    instances = [Instance(80, version, host=f"127.0.1.{n}") for n, version in enumerate(release.versions, 1)]
    live = follow(release, "", None, lambda: "salt")
    return plan_in_force(release, live, instances, {text: ("1", text) if text.strip() == text else ("1",)})


def _parsed(content: str, folder: Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """Directives with their arguments, and what stands in their blocks."""
    path = folder / "object.conf"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    payload = crossplane.parse(str(path), single=True, comments=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]
    found = []
    for one in payload["config"][0]["parsed"]:
        assert all("block" not in inner for inner in one["block"])
        found.append((one["directive"], one["args"], [[inner["directive"], *inner["args"]] for inner in one["block"]]))
    return found


def _upstream(one: Upstream) -> tuple[str, list[str], list[list[str]]]:
    options = [f"max_fails={one.max_fails}"] if one.max_fails != 1 else []
    options += [f"fail_timeout={math.ceil(one.fail_timeout)}s"] if one.fail_timeout != 10 else []
    servers = [
        ["server", server.address.text, *([f"weight={server.weight}"] if server.weight != 1 else []), *options]
        for server in one.servers
    ]
    key = [["hash", one.balance.key.text, "consistent"]] if one.balance.key else []
    zone = [one.name.text, one.zone] if one.zone else ["grayctl.upstreams"]
    return "upstream", [one.name.text], [["zone", *zone], *key, *servers, ["keepalive", str(one.keepalive)]]


def _directive(table: Table) -> tuple[str, list[str], list[list[str]]]:
    if isinstance(table, Constant):
        return "split_clients", ["", _token(table.variable)], [["*", _token(table.value)]]
    if isinstance(table, Geo):
        entries = [["default", _token(table.default)], *([_token(a), _token(b)] for a, b in table.entries)]
        return "geo", [_token(table.variable)], entries
    if isinstance(table, Split):
        shares = [[_token(share), _token(text)] for share, text in table.shares]
        return "split_clients", [_token(table.source), _token(table.variable)], [*shares, ["*", _token(table.rest)]]
    entries = [[_token(key), _token(value)] for key, value in table.entries]
    return "map", [_token(table.source), _token(table.variable)], [*entries, ["default", _token(table.default)]]


def _token(token: Token | Joined) -> str:
    """As crossplane gives it back: without quotes, an escaped quote as a quote, all other escapes as they stand."""
    # what was cut to the width of a bucket may begin amid a character, which crossplane replaces
    written = quote(token).encode("utf-8", "surrogateescape").decode(errors="replace")
    if not written.startswith('"'):
        return written
    inside, found = written[1:-1], ""
    while inside:
        width = 2 if inside[0] == "\\" else 1
        found += '"' if inside[:width] == '\\"' else inside[:width]
        inside = inside[width:]
    return found


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False), texts=st.lists(hostile, min_size=30, max_size=30))
def test_nginx_decides_of_hostile_policies_what_explain_says(
    tmp_path_factory: pytest.TempPathFactory, random: Random, texts: list[str]
) -> None:
    plans = []
    fields = sorted(FIELDS.keys() - {"service", "region variable", "hash"})  # nginx may not know a variable
    for number, text in enumerate([*texts, *NASTY]):
        for field in ("header exact", random.choice(fields)):
            plan = _plan(FIELDS[field](text) | {"service": f"s{number}-{fields.index(field)}"}, text)
            plans += [plan] if plan else []
    with answering(tmp_path_factory.mktemp("hostile"), plans) as connection:
        for headers in ({"X-Test": "yes"}, {"X-User-ID": "u1"}, {"X": "1"}, {"X": "$host", "Cookie": "X=1"}):
            assert asked(connection, headers) == [told(one, {"Host": "x"} | headers) for one in plans]
