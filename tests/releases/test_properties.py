"""What holds for every policy, seen in what is rendered and in what a real nginx decides of it."""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import crossplane
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.errors import ReleaseError
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.plan import Plan, ServicePlan, Upstream
from grayctl.model.release import HUNDRED_PERCENT
from grayctl.model.tables import Constant, Geo, Split, Table
from grayctl.model.tokens import Joined, Token
from grayctl.policy.document import read_release
from grayctl.policy.explain import explain, murmur2
from grayctl.policy.live import follow
from grayctl.policy.request import Request
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.quoting import quote
from tests.releases import invent
from tests.releases.clients import Connection
from tests.releases.oracle import Sent, World, decide
from tests.releases.site import SETTINGS, TEMPLATES, Instance, plan_in_force, plan_of, served
from tests.support.hostile import NASTY
from tests.support.ports import free_ports

V1, V2, V3 = (Instance(80, version, host=f"127.0.1.{number}") for number, version in enumerate(("v1", "v2", "v3"), 1))


def _object(plan: ServicePlan) -> str:
    objects, failed = Renderer(TEMPLATES, SETTINGS, Dialect()).objects(Plan({plan.service: plan}, {}))
    assert not failed
    return objects[plan.service].content


@contextmanager
def _nginx(folder: Path, plans: Iterable[ServicePlan]) -> Iterator[Connection]:
    """Answers a line of version and route for each plan."""
    plans, (port,) = tuple(plans), free_ports(1)
    body = "".join(f"$grayver_{one.id} $grayroute_{one.id}\\n" for one in plans)
    listen = f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }}'
    with served(folder, plans, http=listen, ports=[port]), closing(Connection(port)) as connection:
        yield connection


def _asked(connection: Connection, headers: Mapping[str, str]) -> list[str]:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return connection.ask("\r\n".join(["GET / HTTP/1.1", "Host: x", *lines, "", ""]).encode()).splitlines()


def _told(plan: ServicePlan, headers: Mapping[str, str]) -> str:
    request = Request(headers=tuple((name.encode(), value.encode()) for name, value in headers.items()))
    found = explain(plan.service, plan.id, plan.tables, request)
    return f"{found.version} {found.route}"


# ---------------------------------------------------------------- shares

USERS = 100_000
SIGMAS = 5
PEOPLE: dict[str, Callable[[int], str]] = {
    "numbers": str,
    "numbers in a row": lambda user: f"{10**9 + user}",
    "names": lambda user: f"user-{user}",
    "addresses": lambda user: f"10.{user >> 16}.{user >> 8 & 255}.{user & 255}",
    "mail": lambda user: f"anna.{user * 7919}@example.com",
    "hex": lambda user: f"{user * 2654435761 % 2**32:08x}-{user:04x}",
}


@pytest.mark.parametrize("people", PEOPLE)
@settings(max_examples=2, deadline=None)
@given(
    salt=st.text("0123456789abcdef", min_size=8, max_size=8),
    shares=st.lists(st.integers(1, 4000), min_size=1, max_size=2),
    route=st.integers(1, 9999),
)
def test_shares_are_what_the_policy_says(people: str, salt: str, shares: list[int], route: int) -> None:
    """Over 100,000 identities of any shape, within five standard deviations; a route's too."""
    traffic = {f"v{at}": hundredths / 100 for at, hundredths in enumerate(shares, 2)}
    policy = {
        "service": "shop",
        "stable": "v1",
        "identity": [{"header": "X-User-ID"}, "client_ip"],
        "traffic": traffic,
        "routes": [{"name": "part", "match": {"header": {"X-Part": "1"}}, "traffic": {"v2": route / 100}}],
    }
    release = read_release(json.dumps(policy), "policy")
    plan = plan_in_force(release, follow(release, "", None, lambda: salt), [V1, V2, V3])
    hashes = sorted(murmur2(f"{salt}{PEOPLE[people](user)}".encode()) for user in range(USERS))
    general, part = (
        _counted(table, hashes)
        for name in ("traffic", "part")
        for table in plan.tables
        if isinstance(table, Split) and table.rule and table.rule.name == name
    )
    for counted, wanted in ((general, dict(enumerate(shares, 2))), (part, {2: route})):
        for number, hundredths in wanted.items():
            share = hundredths / HUNDRED_PERCENT
            seen = sum(count for text, count in counted.items() if text.endswith(f" v{number}"))
            assert abs(seen - USERS * share) <= SIGMAS * math.sqrt(USERS * share * (1 - share)) + 1


def _counted(table: Split, hashes: list[int]) -> dict[str, int]:
    """Text of a share -> how many of the sorted hashes fall into it."""
    counted: dict[str, int] = {}
    bound, before = 0, 0
    for share, text in table.shares:
        bound += share.hundredths
        upto = bisect_left(hashes, bound * 0xFFFFFFFF // HUNDRED_PERCENT)
        counted[text.text] = counted.get(text.text, 0) + upto - before
        before = upto
    counted[table.rest.text] = counted.get(table.rest.text, 0) + len(hashes) - before
    return counted


def test_nginx_cuts_the_users_alike(tmp_path: Path) -> None:
    plan = plan_of(
        "service: shop\nstable: v1\nidentity: [{header: X-User-ID}]\ntraffic: {v2: 33.33, v3: 0.5}\n", [V1, V2, V3]
    )
    with _nginx(tmp_path, [plan]) as connection:
        for user in range(3000):
            headers = {"X-User-ID": PEOPLE["mail"](user)}
            assert _asked(connection, headers) == [_told(plan, headers)]


# ---------------------------------------------------------------- the meaning decides


def _shuffled(value: Any, random: Random) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key], random) for key in random.sample(sorted(value), len(value))}
    return [_shuffled(one, random) for one in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**48))
def test_neither_the_order_of_keys_nor_yaml_or_json_shows_in_the_object(seed: int) -> None:
    random = Random(seed)
    document = json.loads(json.dumps(invent.policy(random, "shop").policy).replace("{port}", "80"))
    other = _shuffled(document, random)
    lists = {name: tuple(entries) for name, entries in invent.LISTS.items()}
    rendered = set()
    for text in (
        json.dumps(document),
        json.dumps(other, ensure_ascii=False, indent=1),
        yaml.safe_dump(other, sort_keys=False, allow_unicode=True),
        yaml.safe_dump(other, sort_keys=False, default_flow_style=True, width=30),
    ):
        release = read_release(text, "policy")
        live = follow(release, "", None, lambda: "salt")
        instances = [Instance(80, version) for version in release.versions]
        rendered.add(_object(plan_in_force(release, live, instances, lists)))
    assert len(rendered) == 1


def test_a_service_without_a_policy_emits_one_upstream_and_one_constant() -> None:
    row = Registration(service="shop", id="a", address="127.0.0.1", port=80, meta=(("version", "v1"),))
    (plan,) = resolve(Catalog(services={"shop": (row,)}), {}, SETTINGS, Limits()).services.values()
    lines = [line for line in _object(plan).splitlines() if not line.startswith(("#", " ", "}"))]
    assert [line.split()[0] for line in lines] == ["upstream", "split_clients"]
    assert lines[1].startswith('split_clients "" $gray_shop { * ')


# ---------------------------------------------------------------- hostile texts

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
    assert _parsed(_object(plan), tmp_path) == [*map(_upstream, plan.upstreams), *map(_directive, plan.tables)]
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
    options = [f"max_fails={one.max_fails}", f"fail_timeout={math.ceil(one.fail_timeout)}s"]
    servers = [["server", server.address.text, f"weight={server.weight}", *options] for server in one.servers]
    key = [["hash", one.balance.key.text, "consistent"]] if one.balance.key else []
    return (
        "upstream",
        [one.name.text],
        [["zone", one.name.text, one.zone], *key, *servers, ["keepalive", str(one.keepalive)]],
    )


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
    written = quote(token)
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
    with _nginx(tmp_path_factory.mktemp("hostile"), plans) as connection:
        for headers in ({"X-Test": "yes"}, {"X-User-ID": "u1"}, {"X": "1"}, {"X": "$host", "Cookie": "X=1"}):
            assert _asked(connection, headers) == [_told(one, {"Host": "x"} | headers) for one in plans]


# ---------------------------------------------------------------- size


def test_policies_as_large_as_they_may_be_load_and_decide(tmp_path: Path) -> None:
    """200 routes; an expression 50 deep; hundreds of conditions in one: nginx follows variables 100 deep, no deeper."""
    routes = [{"name": f"r{n}", "match": {"header": {"X-N": f"n{n}"}}, "to": "v2"} for n in range(200)]
    any_of = " or ".join(f'header("X-N") == "n{n}" and header("X-M") != "m{n}"' for n in range(300))
    all_of = " and ".join(f'header("X-N") != "n{n}"' for n in range(300))
    wheres = {"deep": _deep(49), "any": any_of, "all": all_of}
    policies = {"routes": {"routes": routes}} | {
        name: {"routes": [{"name": name, "when": when, "to": "v2"}]} for name, when in wheres.items()
    }
    plans = [
        plan_of(json.dumps({"service": name, "stable": "v1"} | policy), [V1, V2]) for name, policy in policies.items()
    ]
    with _nginx(tmp_path, plans) as connection:
        for n in (*range(0, 300, 7), 199, 200, 299, 300):
            for m in (n, n + 1):
                headers = {"X-N": f"n{n}", "X-M": f"m{m}"}
                wanted = {
                    "routes": f"v2 r{n}" if n < 200 else "v1 stable",
                    "deep": "v2 deep" if _holds(49, set()) else "v1 stable",
                    "any": "v2 any" if n < 300 and m != n else "v1 stable",
                    "all": "v1 stable" if n < 300 else "v2 all",
                }
                assert dict(zip(policies, _asked(connection, headers), strict=True)) == wanted
        random = Random(7)
        for _ in range(200):
            given_ = set(random.sample(range(50), random.choice([0, 5, 25, 45, 50])))
            answer = _asked(connection, {f"X-{n}": "1" for n in sorted(given_)})
            assert answer[1] == ("v2 deep" if _holds(49, given_) else "v1 stable"), given_


def _deep(depth: int) -> str:
    own = f'header("X-{depth}") == "1"'
    return f"({own} {'and' if depth % 3 else 'or'} not {_deep(depth - 1)})" if depth else own


def _holds(depth: int, given_: set[int]) -> bool:
    if not depth:
        return 0 in given_
    rest = not _holds(depth - 1, given_)
    return depth in given_ and rest if depth % 3 else depth in given_ or rest


LISTED = 100_000


@pytest.mark.parametrize(
    ("entry", "misses"),
    [
        (
            lambda n: f"user-{n:06}",
            ("User-000001", "user-100000", "user-00000", "user-0000000", "user-000001,user-000002"),
        ),
        (lambda n: sha256(b"%d" % n).hexdigest(), (sha256(b"0").hexdigest()[18:], "0" + sha256(b"0").hexdigest()[1:])),
    ],
    ids=["short", "longer than a bucket"],
)
def test_a_list_of_a_hundred_thousand_entries_loads_and_decides(
    tmp_path: Path, entry: Callable[[int], str], misses: tuple[str, ...]
) -> None:
    end = "e" * 46
    odd: tuple[str, ...] = (
        "Case",
        "$host",
        "cash$",
        "~.",
        "default",
        "北京",
        "a b",
        "\\",
        '"',
        "*",
        "10.0.0.1",
        "Twice",
        "tWICE",
    )
    odd += ("x" * 200, f"1{end}", f"2{end}", f"1{end.upper()}", f"${end}$", "北" * 16 + "x", "\\" * 300, "y" * 3000)
    cases = tuple("".join(_spelled(n)) for n in range(300))  # more spellings of one text than a value can hold
    plan = plan_of(
        "service: shop\nstable: v1\nidentity: [{header: X-User-ID}]\n"
        "routes: [{name: listed, match: {identity: {in_list: everybody}}, to: v2}]\n",
        [V1, V2],
        {"everybody": (*map(entry, range(LISTED)), *odd, *cases, "z" * 5000, '"' * 2500)},
    )
    assert plan.notices == ("list 'everybody': 2 entries are longer than nginx's configuration can say: skipped",)
    hits = (*odd, *map(entry, (0, 1, 9, 4711, 99_999)), *cases[:9])
    misses += ("case", "CASE", "TWICE", "x", "x" * 199, "x" * 201, end, f"3{end}", f"2{end.upper()}", "北" * 16 + "X")
    misses += ("$", "host", "127.0.0.1", "北", "a", "", "10.0.0.10", "z" * 5000, cases[0].swapcase() + "x")
    with _nginx(tmp_path, [plan]) as connection:
        for users, wanted in ((hits, "v2 listed"), (misses, "v1 stable")):
            for user in users:
                assert (user, _asked(connection, {"X-User-ID": user})) == (user, [wanted])
                assert (user, _told(plan, {"X-User-ID": user})) == (user, wanted)


def _spelled(number: int) -> Iterator[str]:
    """A spelling of one text: bit by bit."""
    for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        yield letter.upper() if number >> place & 1 else letter
