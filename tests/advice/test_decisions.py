"""What a client may choose: the rules read plain values; releases and settings name them."""

from pathlib import Path

import pytest

from grayctl.advice import releases
from grayctl.advice.decisions import JUDGES
from grayctl.advice.finding import Finding, How, Level
from grayctl.advice.view import Decision, View
from grayctl.nginx.tree import read
from grayctl.settings import Settings
from tests.support.advised import Bench
from tests.support.consul import Consul

HEAD = "service: shop\nstable: v1\n"
REALIP = "set_real_ip_from 10.0.0.0/8;"


def _findings(folder: Path, *decisions: Decision, http: str = "") -> list[Finding]:
    conf = folder / "nginx.conf"
    conf.write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
    view = View(read(conf, folder / "state"), Settings(), decisions=decisions)
    return [found for judge in JUDGES for found in judge(view)]


def _of(folder: Path, policy: str, *, http: str = "") -> list[Finding]:
    decisions, unreadable = releases.read({"grayctl/releases/shop": policy.encode()})
    assert unreadable == ()
    return _findings(folder, *decisions, http=http)


def _route(text: str) -> str:
    return f"{HEAD}routes:\n  - name: testers\n    to: v2\n{text}\n"


# policy, what the client chooses, the line of the policy, the same policy with the advised line
OPEN = [
    (
        _route("    match: {header: {X-Release-Version: v2}}"),
        "header X-Release-Version",
        4,
        _route("    match: {header: {X-Release-Version: v2}, client_ip: [10.0.0.0/8]}"),
    ),
    (
        _route('    match: [{cookie: {beta: "1"}}, {query: {beta: "1"}}]'),
        "cookie beta, argument beta",
        4,
        _route('    match: [{cookie: {beta: "1"}}, {query: {beta: "1"}}]\n    when: client_ip in ["10.0.0.0/8"]'),
    ),
    (
        _route('    when: header("X-Age") > 18 and not cookie("opt_out") == "1"'),
        "header X-Age",
        4,
        _route('    when: header("X-Age") > 18 and not cookie("opt_out") == "1"\n    match: {client_ip: [10.0.0.0/8]}'),
    ),
    (
        f"{HEAD}explicit: {{header: X-Release-Version, versions: [v1, v2]}}\n",
        "header X-Release-Version",
        3,
        f"{HEAD}explicit: {{header: X-Release-Version, versions: [v1, v2], from: [10.0.0.0/8]}}\n",
    ),
    (
        f"{HEAD}blue_green: {{preview: v2, match: {{header: {{X-Preview: '1'}}}}}}\n",
        "header X-Preview",
        3,
        f"{HEAD}blue_green: {{preview: v2, match: {{header: {{X-Preview: '1'}}, client_ip: [10.0.0.0/8]}}}}\n",
    ),
    (
        _route("    match: {identity: {in: [a]}}\nidentity: [{header: X-User-ID}]"),
        "header X-User-ID",
        4,
        _route("    match: {identity: {in: [a]}, client_ip: [10.0.0.0/8]}\nidentity: [{header: X-User-ID}]"),
    ),
    (
        f"{HEAD}balance: {{hash: $http_x_user}}\n",
        "header x-user",
        3,
        f"{HEAD}balance: {{hash: $remote_addr}}\n",
    ),
]


@pytest.mark.parametrize(("policy", "chosen", "line", "closed"), OPEN, ids=lambda one: str(one)[:30])
def test_what_a_client_writes_is_named_with_the_line_that_closes_it(
    tmp_path: Path, policy: str, chosen: str, line: int, closed: str
) -> None:
    (found,) = _of(tmp_path, policy, http=REALIP)
    assert (found.rule, found.level, found.how) == ("client-decides", Level.WARNING, How.RELEASE)
    assert found.what.endswith(f": the client chooses {chosen}")
    assert found.where == f"grayctl/releases/shop:{line}"
    assert found.advice in closed
    assert _of(tmp_path, closed, http=REALIP) == []


@pytest.mark.parametrize(
    "text",
    [
        "identity: [{header: X-User-ID}]\ntraffic: {v2: 5}\n",
        "routes: [{name: a, to: v2, match: {path: {prefix: /beta}}}]\n",
        'routes: [{name: a, to: v2, when: not cookie("x") == "1"}]\n',
        'routes: [{name: a, to: v2, when: \'header("X") == "1" and region == "r"\'}]\nregions: {r: [10.1.0.0/16]}\n',
        "explicit: {header: X-V, versions: [v2], from: [0.0.0.0/0]}\n",
    ],
)
def test_what_gains_a_client_nothing_or_is_meant_for_everybody_is_left_alone(tmp_path: Path, text: str) -> None:
    assert _of(tmp_path, HEAD + text, http=REALIP) == []


def test_an_address_beside_an_open_alternative_is_no_guard(tmp_path: Path) -> None:
    (found,) = _of(tmp_path, _route("    match: [{client_ip: [10.0.0.0/8]}, {header: {X-Beta: '1'}}]"), http=REALIP)
    assert found.what.endswith("the client chooses header X-Beta")


@pytest.mark.parametrize(
    "text",
    [
        "traffic: {v2: 5}\n",
        "identity: [{cookie: uid}, client_ip]\ntraffic: {v2: 5}\n",
        "routes: [{name: a, traffic: {v2: 5}, match: {path: /}}]\n",
        "routes: [{name: a, to: v2, match: {client_ip: [10.0.0.0/8]}}]\n",
        "routes:\n  - name: a\n    to: v2\n    when: not client_ip in ['10.0.0.0/8']\n",
        "routes: [{name: a, to: v2, match: {region: r}}]\nregions: {r: [10.1.0.0/16]}\n",
        "explicit: {header: X-V, versions: [v2], from: [10.0.0.0/8]}\n",
        "balance: ip_hash\n",
    ],
)
def test_the_address_that_decides_needs_realip(tmp_path: Path, text: str) -> None:
    (found,) = _of(tmp_path, HEAD + text)
    assert found.rule == "client-ip-without-realip"
    assert " of shop without set_real_ip_from" in found.what
    assert _of(tmp_path, HEAD + text, http=found.advice) == []


@pytest.mark.parametrize(
    "text", ["", "identity: [{header: X-User-ID}]\ntraffic: {v2: 5}\n", "identity: none\ntraffic: {v2: 5}\n"]
)
def test_where_no_address_decides_none_is_asked_for(tmp_path: Path, text: str) -> None:
    assert _of(tmp_path, HEAD + text) == []


def test_releases_are_read_from_consul_and_a_broken_one_is_named(bench: Bench, consul: Consul, unique: str) -> None:
    bench.configure(f'[consul]\naddress = "{consul.address}"\nprefix = "{unique}"')
    consul.call("PUT", f"/v1/kv/{unique}/releases/shop", OPEN[0][0].encode())
    consul.call("PUT", f"/v1/kv/{unique}/releases/stock", b"service: stock\nstable: v1\nnonsense: 1\n")
    (found,) = bench.found("client-decides")
    assert found.where == f"{unique}/releases/shop:4"
    (broken,) = bench.found("release-unreadable")
    assert broken.where == f"{unique}/releases/stock"
    assert "nonsense" in broken.what
    consul.call("PUT", f"/v1/kv/{unique}/releases/shop", OPEN[0][3].encode())
    consul.call("PUT", f"/v1/kv/{unique}/releases/stock", b"service: stock\nstable: v1\n")
    assert bench.found("client-decides") == bench.found("release-unreadable") == []
