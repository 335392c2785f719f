"""Where nginx gives a pattern up, `explain` says the same."""

import pytest

from grayctl.model.tables import Map
from grayctl.model.tokens import Joined, Regex, Text, Variable
from grayctl.policy.explain import Explainer, explain, murmur2, slot_of
from grayctl.policy.request import Request
from tests.releases.site import Instance, plan_of


def test_a_pattern_that_takes_too_long_is_not_found_and_nothing_behind_it_is_asked() -> None:
    """As nginx 1.22 does: pcre2_match() failed, -47; the map's default."""
    patterns = ((Regex("^(a+)+$"), Text("first")), (Regex("b"), Text("second")))
    table = Map(Variable("grayver_x"), Joined((Variable("http_y"),)), patterns, Text(""), None)
    explainer = Explainer("x", "x", (table,))

    def found(sent: bytes) -> str:
        return explainer.explain(Request(headers=((b"Y", sent),))).version

    assert (found(b"aab"), found(b"a" * 40 + b"b")) == ("second", "")


POLICY = """
service: shop
stable: v1
identity: [{header: X-User-ID}, client_ip]
regions: {office: [10.1.0.0/16]}
routes:
  - {name: office, match: {region: office, device: ios}, to: v2}
  - {name: testers, match: {header: {X-Version: v2}}, to: v2}
"""


def test_the_trace_says_what_was_looked_at_and_which_rule_decided() -> None:
    plan = plan_of(POLICY, [Instance(80, "v1", host="10.0.0.1"), Instance(80, "v2", host="10.0.0.2")])
    told = explain("shop", "shop", plan.tables, Request(address="10.1.2.3", headers=((b"X-Version", b"v2"),)))
    assert (told.version, told.route, told.upstream, told.status, told.fallback) == (
        "v2",
        "testers",
        "shop.v2.gray",
        200,
        False,
    )
    assert [(step.name, step.held) for step in told.trace] == [("office", False), ("testers", True)]
    assert told.trace[0].why == "region in [\"office\"] holds ('10.1.2.3'); device in [\"ios\"] does not hold ('')"
    assert told.trace[1].why == 'header("X-Version") in ["v2"] holds (\'v2\')'


def test_a_hundred_regions_are_one_test() -> None:
    """nginx evaluates variables within variables 100 deep, and no deeper."""
    networks = {f"n{number}": f"[10.{number}.0.0/16]" for number in range(120)}
    variables = {f"c{number}": f"{{variable: $country, values: [c{number}, all]}}" for number in range(120)}
    regions = ", ".join(f"{name}: {value}" for name, value in (networks | variables).items())
    policy = f"""
service: shop
stable: v1
regions: {{{regions}}}
routes:
  - {{name: near, match: {{region: [{", ".join((*networks, *variables))}]}}, to: v2}}
"""
    plan = plan_of(policy, [Instance(80, "v1", host="10.0.0.1"), Instance(80, "v2", host="10.0.0.2")])
    tests = [one for one in plan.tables if isinstance(one, Map) and one.rule]
    assert len(tests) == 2, "one of the networks, one of the variable"
    for address, version in (("10.119.0.1", "v2"), ("10.120.0.1", "v1")):
        assert explain("shop", "shop", plan.tables, Request(address=address)).version == version


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        (b"/a/b", b"/a/b"),
        (b"/a//b///", b"/a/b/"),
        (b"/a/../b", b"/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a%2Fb%20c", b"/a/b c"),
        (b"/%E5%8C%97?x=/../y", "/\u5317".encode()),
        (b"/a/..", b"/"),
    ],
)
def test_a_path_is_decoded_and_normal(target: bytes, uri: bytes) -> None:
    assert Request(target=target).variable("uri") == uri


def test_a_path_that_leaves_the_root_is_refused_as_nginx_does() -> None:
    with pytest.raises(ValueError, match="400"):
        Request(target=b"/../x").variable("uri")


@pytest.mark.parametrize(("nginx", "seen"), [((1, 22, 1), b"a"), ((1, 23, 0), b"a, b")])
def test_a_repeated_header_is_what_that_nginx_makes_of_it(nginx: tuple[int, ...], seen: bytes) -> None:
    assert Request(headers=((b"X-A", b"a"), (b"x-a", b" b ")), nginx=nginx).variable("http_x_a") == seen


def test_without_users_an_explanation_says_that_it_is_chance() -> None:
    policy = "service: shop\nstable: v1\nidentity: none\ntraffic: {v2: 20}\n"
    plan = plan_of(policy, [Instance(80, "v1", host="10.0.0.1"), Instance(80, "v2", host="10.0.0.2")])
    told = explain("shop", "shop", plan.tables, Request())
    assert (told.by_chance, told.version, told.slot) == (True, "v1", None)
    assert told.trace[-1].why == "each request is decided on its own: 20% v2, 80% v1"


def test_a_request_that_brings_its_id_is_certain_where_nobody_is_anybody() -> None:
    policy = "service: shop\nstable: v1\nidentity: none\ntraffic: {v2: 50}\n"
    plan = plan_of(policy, [Instance(80, "v1", host="10.0.0.1"), Instance(80, "v2", host="10.0.0.2")])
    explainer = Explainer("shop", "shop", plan.tables)
    told = [explainer.explain(Request(variables={"request_id": b"%032x" % number})) for number in range(1000)]
    assert not any(one.by_chance or one.slot is None for one in told)
    assert 400 < sum(one.version == "v2" for one in told) < 600


@pytest.mark.parametrize(
    "upgrade",
    ["websocket", "WebSocket", "Websocket", "h2c", "HTTP/2.0", "TLS/1.0", "SPDY/3.1", "connect-udp", "connect-ip"],
)
def test_what_a_client_upgrades_to_is_no_empty_upgrade(upgrade: str) -> None:
    """http.conf.j2 tells them apart by `split_clients`: its first 0.01 % are for an empty header."""
    assert murmur2(b"") == 0
    assert slot_of(murmur2(upgrade.encode())) > 0


def test_a_release_of_shares_alone_costs_nginx_no_map() -> None:
    """A map costs each check and each reload of nginx a millisecond."""
    policy = "service: shop\nstable: v1\ntraffic: {v2: 20, v3: 10}\nidentity: [client_ip]\n"
    versions = {"v1": "10.0.0.1", "v2": "10.0.0.2", "v3": "10.0.0.3"}
    plan = plan_of(policy, [Instance(80, version, host=host) for version, host in versions.items()])
    assert [table.kind for table in plan.tables] == ["split"] * 3
    explainer = Explainer("shop", "shop", plan.tables)
    told = [explainer.explain(Request(address=f"10.0.{number // 250}.{number % 250}")) for number in range(1000)]
    assert {(one.version, one.route, one.upstream) for one in told} == {
        ("v1", "stable", "shop.v1.gray"),
        ("v2", "traffic", "shop.v2.gray"),
        ("v3", "traffic", "shop.v3.gray"),
    }
