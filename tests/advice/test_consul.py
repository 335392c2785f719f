"""Rules on Consul and the fleet, against real agents: rights, limits, versions of the nodes."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from grayctl import __version__
from grayctl.advice.consul import JUDGES, ConsulView
from grayctl.advice.finding import Finding, How, Level
from grayctl.advice.fleet import JUDGES as FLEET
from grayctl.advice.fleet import Fleet
from grayctl.consul.client import ConsulClient
from grayctl.model.node import FleetNode, NodeReport
from grayctl.settings import ConsulSettings, parse
from tests.support.advised import Bench
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul, consul_binary


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """An agent that denies by default."""
    agent = Consul(tmp_path_factory.mktemp("acl"), token=ACL_TOKEN, config=ACL_CONFIG)
    yield agent
    agent.stop()


def _asks(bench: Bench, agent: Consul, name: str, more: str = "") -> None:
    bench.configure(f'[watch]\nservices = ["{name}"]\n[consul]\naddress = "{agent.address}"\nprefix = "{name}"\n{more}')


def _judged(view: ConsulView) -> dict[str, Finding]:
    return {found.rule: found for judge in JUDGES for found in judge(view) if found.rule}


# ---------------------------------------------------------------- reached, and allowed


def test_a_consul_that_is_away_is_said(bench: Bench, consul: Consul, unique: str) -> None:
    (found,) = bench.found("consul-unreachable")
    assert found.level is Level.FAILURE
    _asks(bench, consul, unique)
    assert bench.found("consul-unreachable") == []


def test_an_anonymous_token_sees_an_empty_catalog(bench: Bench, guarded: Consul, unique: str) -> None:
    _asks(bench, guarded, unique)
    (found,) = bench.found("empty-catalog")
    token = bench.folder / "token"
    token.write_text(ACL_TOKEN)
    token.chmod(0o600)
    assert found.advice == '[consul]\ntoken_file = "/etc/grayctl/token"'
    bench.join(found.advice.replace("/etc/grayctl/token", str(token)))
    assert bench.found("empty-catalog") == []


def test_a_token_that_consul_does_not_know_is_denied(bench: Bench, guarded: Consul, unique: str) -> None:
    token = bench.folder / "token"
    token.write_text("00000000-0000-0000-0000-00000000dead")
    token.chmod(0o600)
    _asks(bench, guarded, unique, f'token_file = "{token}"')
    (found,) = bench.found("consul-denied")
    assert found.how is How.SETTINGS
    token.write_text(ACL_TOKEN)
    assert bench.found("consul-denied") == []


def test_what_a_token_lacks_is_named_and_the_rules_end_it(bench: Bench, guarded: Consul, unique: str) -> None:
    """Nothing is denied aloud: Consul leaves out what may not be read. The advised rules are all that is missing."""
    guarded.register(unique, "a", "127.0.0.1", 80)
    rules = 'service_prefix "other" { policy = "read" }'
    secret, policy = guarded.make_token(rules)
    token = bench.folder / "token"
    token.write_text(secret)
    token.chmod(0o600)
    _asks(bench, guarded, unique, f'token_file = "{token}"')
    seen = set()
    with contextlib.suppress(StopIteration):
        for _ in range(5):
            found = next(one for one in bench.findings() if one.how is How.POLICY)
            seen.add(found.rule)
            rules += f"\n{found.advice}"
            guarded.change_policy(policy, rules)
    assert seen == {"token-lacks", "token-cannot-report", "agent-limits-unread"}
    assert f'service "{unique}" {{ policy = "read" }}' in rules
    assert f'key_prefix "{unique}/" {{ policy = "read" }}' in rules
    assert f'key "{unique}/nodes/edge-1" {{ policy = "write" }}' in rules
    assert f'session "{guarded.node}" {{ policy = "write" }}' in rules
    assert 'node_prefix "" { policy = "read" }' in rules, "without it the instances do not show"
    assert [one for one in bench.findings() if one.about == "consul" and one.level is not Level.OK] == []


def test_a_service_that_consul_does_not_know_gets_a_hint(bench: Bench, consul: Consul, unique: str) -> None:
    consul.register(unique, "a", "127.0.0.1", 80)
    _asks(bench, consul, f"{unique}x")
    (found,) = bench.found("service-unknown")
    assert f"did you mean {unique}?" in found.what
    assert found.where.startswith(f"{bench.config}:")
    bench.follow(found)
    assert bench.found("service-unknown") == []
    _asks(bench, consul, "nothing-like-it")
    (found,) = bench.found("service-unknown")
    assert found.how is How.DO


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (150, [("agent-connection-limit", Level.WARNING)]),
        (50, [("agent-connection-limit-exceeded", Level.FAILURE)]),
        (200, []),
    ],
)
def test_an_agent_that_takes_too_few_connections_is_told_a_limit(
    bench: Bench, make_consul: MakeConsul, unique: str, limit: int, said: list[tuple[str, Level]]
) -> None:
    agent = make_consul(config={"limits": {"http_max_conns_per_client": limit}})
    _asks(bench, agent, unique)
    found = [one for one in bench.findings() if one.rule.startswith("agent-connection-limit")]
    assert [(one.rule, one.level) for one in found] == said
    for one in found:
        assert (one.how, one.advice) == (How.AGENT, "limits { http_max_conns_per_client = 200 }")


def test_services_beyond_the_long_polls_are_told_both_figures(
    bench: Bench, consul: Consul, make_consul: MakeConsul, unique: str
) -> None:
    _asks(bench, consul, unique)
    names = ", ".join(f'"{unique}-{number}"' for number in range(20))
    bench.join(f"[watch]\nservices = [{names}]\nmax_long_polls = 12")
    (found,) = bench.found("services-cold")
    assert found.level is Level.OK, "it is slower, and right"
    assert (found.how, found.advice) == (How.AGENT, "limits { http_max_conns_per_client = 300 }"), "this comes first"
    roomy = make_consul(config={"limits": {"http_max_conns_per_client": 300}})
    bench.join(f"[consul]\naddress = '{roomy.address}'")
    (found,) = bench.found("services-cold")
    bench.follow(found)
    assert bench.found("services-cold") == []
    assert [one for one in bench.findings() if one.rule.startswith("agent-connection-limit")] == []


def test_the_limits_that_are_advised_are_a_configuration_of_consuls(tmp_path: Path) -> None:
    view = ConsulView(parse("", "t"), agent={"DebugConfig": {"HTTPMaxConnsPerClient": 10}})
    (tmp_path / "agent.json").write_text(json.dumps({"data_dir": str(tmp_path / "data"), "bind_addr": "127.0.0.1"}))
    (tmp_path / "limits.hcl").write_text(_judged(view)["agent-connection-limit-exceeded"].advice)
    done = subprocess.run(
        [consul_binary(), "validate", tmp_path], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_old_consul_is_named() -> None:
    view = ConsulView(parse("", "t"), services={"consul": ()}, agent={"Config": {"Version": "1.7.4"}})
    assert _judged(view)["consul-old"].what == "Consul 1.7.4"
    for version in ("1.8.0", "1.21.3", "2.0.0-beta1", "unknown"):
        newer = replace(view, agent={"Config": {"Version": version}})
        assert "consul-old" not in _judged(newer)


@pytest.mark.parametrize(("skew", "words"), [(5.0, "5 s ahead of"), (-90.0, "90 s behind"), (1.4, ""), (-2.0, "")])
def test_a_clock_that_goes_wrong_is_set(skew: float, words: str) -> None:
    found = _judged(ConsulView(parse("", "t"), services={"consul": ()}, skew=skew)).get("clock-skew")
    assert (words in found.what and found.advice == "timedatectl set-ntp true") if found else not words


async def test_consul_says_what_time_it_has(consul: Consul) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address), connections=1) as client:
        theirs = await client.clock()
    assert theirs is not None
    assert theirs > 1.6e9


# ---------------------------------------------------------------- the fleet


def _report(consul: Consul, prefix: str, node: str, version: str, *, live: bool = True) -> None:
    body = msgspec.json.encode(NodeReport(node=node, id=node, version=version))
    hold = ""
    if live:
        session = consul.call("PUT", "/v1/session/create", {"Name": "grayctl", "TTL": "60s", "Checks": []})
        hold = f"?acquire={session['ID']}"
    consul.call("PUT", f"/v1/kv/{prefix}/nodes/{node}{hold}", body)


def test_a_fleet_of_one_version_is_well(bench: Bench, consul: Consul, unique: str) -> None:
    _asks(bench, consul, unique)
    _report(consul, unique, "edge-1", __version__)
    _report(consul, unique, "edge-2", __version__)
    rules = {one.rule for one in bench.findings()}
    assert not rules & {"fleet-mixed-versions", "daemon-other-version", "fleet-unreadable"}
    assert f"all 2 nodes run grayctl {__version__}" in {one.what for one in bench.findings()}


def test_a_mixed_fleet_is_named_node_by_node_until_it_is_upgraded(bench: Bench, consul: Consul, unique: str) -> None:
    _asks(bench, consul, unique)
    _report(consul, unique, "edge-1", __version__)
    _report(consul, unique, "edge-2", "0.0.9")
    _report(consul, unique, "edge-3", __version__)
    _report(consul, unique, "edge-4", "0.0.10", live=False)
    (found,) = bench.found("fleet-mixed-versions")
    assert found.what == (
        f"the fleet runs 3 versions of grayctl: {__version__} on edge-1, edge-3; 0.0.10 on edge-4 (silent); "
        "0.0.9 on edge-2"
    )
    assert found.advice.splitlines() == [
        f"# on edge-2, in a checkout of grayctl {__version__}:",
        "/opt/grayctl/bin/pip install . && systemctl restart grayctl",
        f"# on edge-4, should it come back, in a checkout of grayctl {__version__}:",
        "/opt/grayctl/bin/pip install . && systemctl restart grayctl",
        "# what is gone for good, and no more than that:",
        f"consul kv delete {unique}/nodes/edge-4",
    ]
    consul.call("DELETE", f"/v1/kv/{unique}/nodes/edge-4")
    consul.call("DELETE", f"/v1/kv/{unique}/nodes/edge-2")  # its daemon ends
    _report(consul, unique, "edge-2", __version__)
    assert bench.found("fleet-mixed-versions") == []


def test_a_daemon_that_was_not_restarted_after_its_upgrade_is_named(bench: Bench, consul: Consul, unique: str) -> None:
    _asks(bench, consul, unique)
    _report(consul, unique, "edge-1", "0.0.9")
    (found,) = bench.found("daemon-other-version")
    assert found.what == f"the daemon of edge-1 is grayctl 0.0.9, this command is {__version__}"
    assert found.advice == "systemctl restart grayctl"
    consul.call("DELETE", f"/v1/kv/{unique}/nodes/edge-1")
    _report(consul, unique, "edge-1", __version__)
    assert bench.found("daemon-other-version") == []


def test_a_damaged_report_is_named_and_the_others_still_count(bench: Bench, consul: Consul, unique: str) -> None:
    _asks(bench, consul, unique)
    _report(consul, unique, "edge-2", "0.0.9")
    _report(consul, unique, "edge-3", "0.0.8")
    consul.call("PUT", f"/v1/kv/{unique}/nodes/edge-9", b"{broken")
    (found,) = bench.found("fleet-unreadable")
    assert found.what == f"{unique}/nodes/edge-9 is no node report"
    assert found.advice.splitlines()[0] == f"consul kv delete {unique}/nodes/edge-9"
    assert bench.found("fleet-mixed-versions")
    consul.call("DELETE", f"/v1/kv/{unique}/nodes/edge-9")
    assert bench.found("fleet-unreadable") == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0.9.0", "0.10.0"),
        ("1.0.0rc1", "1.0.0"),
        ("1.0.0rc1", "1.0.0rc2"),
        ("", "0.1"),
        ("dev", "0.1.0"),
        ("1.0", "1.0.1"),
    ],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    nodes = tuple(
        FleetNode(report=NodeReport(node=name, id=name, version=version), session="s")
        for name, version in (("a", older), ("b", newer))
    )
    (found,) = [one for judge in FLEET for one in judge(Fleet(nodes=nodes)) if one.rule == "fleet-mixed-versions"]
    assert found.advice.startswith(f"# on a, in a checkout of grayctl {newer}:")


def test_a_fleet_that_nobody_reported_to_says_nothing() -> None:
    assert [one for judge in FLEET for one in judge(Fleet())] == []
