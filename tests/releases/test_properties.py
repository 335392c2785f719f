"""What holds for every policy, seen in what is rendered and in what a real nginx decides of it."""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from grayctl.model.catalog import Catalog, Registration
from grayctl.model.plan import Plan
from grayctl.model.release import HUNDRED_PERCENT
from grayctl.model.tables import Split
from grayctl.policy.document import read_release
from grayctl.policy.explain import murmur2
from grayctl.policy.live import follow
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer
from tests.releases import invent
from tests.releases.asking import answering, asked, object_of, told
from tests.releases.site import SETTINGS, TEMPLATES, Instance, plan_in_force, plan_of

V1, V2, V3 = (Instance(80, version, host=f"127.0.1.{number}") for number, version in enumerate(("v1", "v2", "v3"), 1))


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
    with answering(tmp_path, [plan]) as connection:
        for user in range(3000):
            headers = {"X-User-ID": PEOPLE["mail"](user)}
            assert asked(connection, headers) == [told(plan, headers)]


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
    lists = {name: tuple(entries[:100]) for name, entries in invent.LISTS.items()}  # it is no test of their length
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
        rendered.add(object_of(plan_in_force(release, live, instances, lists)))
    assert len(rendered) == 1


def test_a_service_without_a_policy_emits_one_upstream_and_one_constant() -> None:
    row = Registration(service="shop", id="a", address="127.0.0.1", port=80, meta=(("version", "v1"),))
    (plan,) = resolve(Catalog(services={"shop": (row,)}), {}, SETTINGS, Limits()).services.values()
    lines = [line for line in object_of(plan).splitlines() if not line.startswith(("#", " ", "}"))]
    assert [line.split()[0] for line in lines] == ["upstream", "split_clients"]
    assert lines[1].startswith('split_clients "" $gray_shop { * ')


def test_the_upstreams_that_traffic_is_shifted_between_come_first() -> None:
    """nginx looks at one after another, for each request."""
    others = resolve(Catalog(services=dict.fromkeys(("a", "z"), ())), {}, SETTINGS, Limits()).services
    plans = {**others, "shop": plan_of("service: shop\nstable: v1\ntraffic: {v2: 5}\n", [V1, V2])}
    renderer = Renderer(TEMPLATES, SETTINGS, Dialect())
    objects, _ = renderer.objects(Plan(plans, {}))
    assert re.findall(r"/objects/(\w+)-", renderer.file_set(objects).http) == ["shop", "a", "z"]


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
    with answering(tmp_path, plans) as connection:
        for n in (*range(0, 300, 7), 199, 200, 299, 300):
            for m in (n, n + 1):
                headers = {"X-N": f"n{n}", "X-M": f"m{m}"}
                wanted = {
                    "routes": f"v2 r{n}" if n < 200 else "v1 stable",
                    "deep": "v2 deep" if _holds(49, set()) else "v1 stable",
                    "any": "v2 any" if n < 300 and m != n else "v1 stable",
                    "all": "v1 stable" if n < 300 else "v2 all",
                }
                assert dict(zip(policies, asked(connection, headers), strict=True)) == wanted
        random = Random(7)
        for _ in range(200):
            given_ = set(random.sample(range(50), random.choice([0, 5, 25, 45, 50])))
            answer = asked(connection, {f"X-{n}": "1" for n in sorted(given_)})
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
    with answering(tmp_path, [plan]) as connection:
        for users, wanted in ((hits, "v2 listed"), (misses, "v1 stable")):
            for user in users:
                assert (user, asked(connection, {"X-User-ID": user})) == (user, [wanted])
                assert (user, told(plan, {"X-User-ID": user})) == (user, wanted)


def _spelled(number: int) -> Iterator[str]:
    """A spelling of one text: bit by bit."""
    for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        yield letter.upper() if number >> place & 1 else letter
