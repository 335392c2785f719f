"""A policy that says everything becomes the Release that it says."""

from grayctl.model.balance import Balance, Method
from grayctl.model.release import (
    All,
    AnyOf,
    BlueGreen,
    Condition,
    Explicit,
    Input,
    Not,
    Operator,
    Predicate,
    Protocol,
    Region,
    Release,
    Route,
    Source,
    Unknown,
    UpstreamOptions,
)
from grayctl.policy.document import read_release

DEVICE = Input(Source.DEVICE)
REGION = Input(Source.REGION)
CLIENT_IP = Input(Source.CLIENT_IP)

EVERYTHING = """\
service: shop-api
protocol: http
stable: 1.10
identity: [{header: X-User-ID}, {cookie: uid}, {query: u}, client_ip]
traffic: {v2: 5, 019: 0.5, v3: "1.25%", v4: 0}
routes:
  - name: testers
    match: {header: {X-Release-Version: on}}
    to: v2
  - name: vip-ios-shanghai
    match: {header: {X-User-Tags: {has: vip}}, device: ios, region: shanghai}
    traffic: {v2: 20, 1.10: 80 %}
  - name: beta
    match: [{identity: {in_list: beta-users}}, {client_ip: [10.9.0.0/16, "::ffff:10.1.2.3"]}]
    to: v2
  - name: grown-ups
    match: {path: {prefix: /a, suffix: .png}, host: [Shop.Example.COM., "*.shop.example"]}
    when: header("X-Age") > +018 and header("X-City") in ["beijing", "shanghai"] and not cookie("opt_out") == "1"
    to: v2
explicit: {header: X-Release-Version, from: [10.0.0.0/8], unknown: reject}
regions: {shanghai: [10.1.0.0/16], cn: {variable: $GeoIP2_data, values: [CN, HK]}}
balance: {hash: $request_uri}
upstream: {keepalive: 8, max_fails: 3, fail_timeout: 30s, zone: 1m}
when_empty: reject
"""


def header(name: str, operator: Operator, *values: str) -> Condition:
    return Condition(Input(Source.HEADER, name), operator, values)


def test_everything_that_a_policy_can_say() -> None:
    path, host = Input(Source.PATH), Input(Source.HOST)
    assert read_release(EVERYTHING, "p.yaml") == Release(
        service="shop-api",
        stable="1.10",
        protocol=Protocol.HTTP,
        identity=(Input(Source.HEADER, "X-User-ID"), Input(Source.COOKIE, "uid"), Input(Source.QUERY, "u"), CLIENT_IP),
        shares=(("019", 50), ("v2", 500), ("v3", 125), ("v4", 0)),
        routes=(
            Route("testers", header("X-Release-Version", Operator.IN, "on"), to="v2"),
            Route(
                "vip-ios-shanghai",
                All(
                    (
                        Condition(DEVICE, Operator.IN, ("ios",)),
                        header("X-User-Tags", Operator.HAS, "vip"),
                        Condition(REGION, Operator.IN, ("shanghai",)),
                    )
                ),
                shares=(("v2", 2000),),
            ),
            Route(
                "beta",
                AnyOf(
                    (
                        Condition(CLIENT_IP, Operator.IN, ("10.1.2.3/32", "10.9.0.0/16")),
                        Condition(Input(Source.IDENTITY), Operator.IN_LIST, ("beta-users",)),
                    )
                ),
                to="v2",
            ),
            Route(
                "grown-ups",
                All(
                    (
                        AnyOf(
                            (
                                Condition(host, Operator.IN, ("shop.example.com",)),
                                Condition(host, Operator.SUFFIX, (".shop.example",)),
                            )
                        ),
                        header("X-Age", Operator.GREATER, "18"),
                        header("X-City", Operator.IN, "beijing", "shanghai"),
                        Not(Condition(Input(Source.COOKIE, "opt_out"), Operator.IN, ("1",))),
                        Condition(path, Operator.PREFIX, ("/a",)),
                        Condition(path, Operator.SUFFIX, (".png",)),
                    )
                ),
                to="v2",
            ),
        ),
        explicit=Explicit(
            Input(Source.HEADER, "X-Release-Version"),
            ("019", "1.10", "v2", "v3", "v4"),
            ("10.0.0.0/8",),
            Unknown.REJECT,
        ),
        regions=(Region("cn", variable="geoip2_data", values=("CN", "HK")), Region("shanghai", ("10.1.0.0/16",))),
        balance=Balance(Method.HASH, read_release(EVERYTHING, "p").balance.key),
        upstream=UpstreamOptions(8, 3, 30.0, "1m"),
        when_empty="reject",
    )


def predicate(match: str, *, protocol: str = "http") -> Predicate:
    text = f"{{service: s, stable: v1, protocol: {protocol}, routes: [{{name: r, match: {match}, to: v2}}]}}"
    (route,) = read_release(text, "p").routes
    return route.predicate


def test_absence_is_the_opposite_of_presence() -> None:
    present = header("X", Operator.PRESENT)
    assert predicate("{header: {X: {present: true}}}") == present
    assert predicate("{header: {X: {present: false}}}") == Not(present)
    assert predicate('{header: {X: ""}}') == Not(present)
    assert predicate('{header: {X: ["", a]}}') == AnyOf((header("X", Operator.IN, "a"), Not(present)))


def test_a_network_is_canonical() -> None:
    assert predicate('[{client_ip: "::ffff:10.0.0.0/104"}, {client_ip: "2001:DB8:0::/32"}]') == Condition(
        CLIENT_IP, Operator.IN, ("10.0.0.0/8", "2001:db8::/32")
    )


def test_blue_green_by_port_is_a_condition() -> None:
    text = (
        "{service: s, stable: v1, protocol: tcp, blue_green: {preview: v2, port: 8081, match: {client_ip: 10.0.0.1}}}"
    )
    both = All(
        (Condition(CLIENT_IP, Operator.IN, ("10.0.0.1/32",)), Condition(Input(Source.PORT), Operator.IN, ("8081",)))
    )
    assert read_release(text, "p").blue_green == BlueGreen("v2", both)


def test_the_least_policy() -> None:
    assert read_release("stable: v1", "p", service="s") == Release("s", "v1")
    assert read_release("{service: s, stable: v1, traffic: weights}", "p") == Release("s", "v1", by_weights=True)
    assert read_release("{service: s, stable: v1, identity: none}", "p").identity is None
    assert read_release("{service: s, stable: v1, rollout: {steps: [{any: [thing]}]}}", "p") == Release("s", "v1")
