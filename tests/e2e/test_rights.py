"""The ACL policies in docs/operations.md, on a Consul that denies by default: enough, and no rule too much."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul
from tests.support.edge import Edge
from tests.support.nginx import Nginx
from tests.support.process import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
RULE = re.compile(r'^\w+ "[^"]*" \{\n.*?^\}\n', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """An agent that denies by default; its own token may do everything."""
    agent = Consul(tmp_path_factory.mktemp("acl"), token=ACL_TOKEN, config=ACL_CONFIG)
    yield agent
    agent.stop()


@pytest.fixture
def edge(tmp_path: Path, nginx: Nginx, guarded: Consul) -> Iterator[Edge]:
    """A node whose Consul wants a token."""
    one = Edge(tmp_path, nginx, guarded)
    try:
        yield one
    finally:
        one.close()


def rules(edge: Edge, who: str) -> list[str]:
    """The rules of the page, with the names of this test in the place of the page's."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- acl: {who} -->\n```hcl\n(.*?)```", page, re.DOTALL)
    assert found
    text = found[1].replace('"grayctl/', f'"{edge.folder.name}/').replace("nodes/edge-1", "nodes/edge-test")
    return RULE.findall(text.replace('"edge-1"', f'"{edge.consul.node}"'))


def give_token(edge: Edge, policy: list[str]) -> None:
    """Write a token with just this policy where the settings say."""
    file = edge.folder / "token"
    file.touch(mode=0o600)
    file.write_text(edge.consul.make_token("\n".join(policy))[0], encoding="utf-8")
    text = edge.config.read_text(encoding="utf-8")
    if "token_file" not in text:
        edge.config.write_text(text.replace("[consul]", f'[consul]\ntoken_file = "{file}"'), encoding="utf-8")


def consul_findings(edge: Edge) -> set[str]:
    """What `grayctl check` has to say about Consul and the token."""
    found = json.loads(edge.cli("check", "--json").stdout)
    return {one["rule"] for one in found if one["about"] == "consul" and one["rule"]}


def test_the_daemons_policy_is_enough(edge: Edge) -> None:
    give_token(edge, rules(edge, "agent"))
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a is served")
    key = f"{edge.folder.name}/nodes/edge-test"
    wait_until(lambda: edge.consul.get(key), "the node reports itself")
    edge.backend("b")
    wait_until(lambda: edge.serves("a", "b"), "changes are heard")
    assert "grayctl_consul_denied_queries 0.0" in edge.page("/metrics")
    assert (edge.status() or {})["warnings"] == []
    assert consul_findings(edge) == set()


def test_every_rule_of_the_daemons_policy_is_needed(edge: Edge) -> None:
    """`grayctl check` misses each one that is left out."""
    edge.backend("a")
    assert edge.cli("init", "--service", "shop").returncode == 0
    whole = rules(edge, "agent")
    assert len(whole) == 6
    missed = {}
    for left_out in whole:
        give_token(edge, [rule for rule in whole if rule != left_out])
        missed[left_out.split()[0]] = consul_findings(edge)
    # newer agents (1.20) name no service whose nodes are hidden, older ones (1.8) hide its instances
    assert missed["node_prefix"] - {"empty-catalog"} == {"token-lacks"}
    del missed["node_prefix"]
    assert missed == {
        "service_prefix": {"token-lacks", "empty-catalog"},
        "key_prefix": {"token-lacks"},
        "key": {"token-cannot-report"},
        "session": {"token-cannot-report"},
        "agent": {"agent-limits-unread"},
    }


def test_where_listing_is_a_right_of_its_own_check_says_so_and_the_page_how(
    tmp_path: Path, nginx: Nginx, make_consul: MakeConsul
) -> None:
    acl = ACL_CONFIG["acl"] | {"enable_key_list_policy": True}
    edge = Edge(tmp_path, nginx, make_consul(token=ACL_TOKEN, config={"acl": acl}))
    try:
        edge.backend("a")
        assert edge.cli("init", "--service", "shop").returncode == 0
        policy = rules(edge, "agent")
        give_token(edge, policy)
        (found,) = [one for one in json.loads(edge.cli("check", "--json").stdout) if one["rule"] == "token-lacks"]
        rule = f'key_prefix "{edge.folder.name}/" {{ policy = "list" }}'
        assert found["advice"] == rule
        give_token(edge, [rule, *(one for one in policy if not one.startswith("key_prefix"))])
        assert consul_findings(edge) == set()
        edge.nginx.start()
        edge.run()
        wait_until(lambda: edge.serves("a"), "a is served")
        assert "grayctl_consul_denied_queries 0.0" in edge.page("/metrics")
    finally:
        edge.close()


def test_a_right_that_is_taken_away_is_said_by_status_and_metrics(edge: Edge) -> None:
    """Consul answers a denied query, so nothing else would show it; what was served stays."""
    give_token(edge, rules(edge, "agent"))
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a is served")
    (edge.folder / "token").write_text("00000000-aaaa-bbbb-cccc-000000000000", encoding="utf-8")
    edge.backend("b")  # wakes the long poll, whose next question has the new token
    (line,) = wait_until(lambda: denials(edge), "status says so")
    assert line.endswith("`grayctl check` names the right it lacks")
    assert "grayctl_consul_denied_queries 0.0" not in edge.page("/metrics")
    wait_until(lambda: edge.serves("a", "b"), "what was heard before is served")
    give_token(edge, rules(edge, "agent"))
    wait_until(lambda: not denials(edge), "with a good token it goes on")


def denials(edge: Edge) -> list[str]:
    """The lines of `grayctl status` about denials."""
    return [line for line in edge.cli("status").stdout.splitlines() if line.startswith("! Consul denies the token ")]


def test_only_the_operators_policy_freezes_the_fleet(edge: Edge) -> None:
    give_token(edge, rules(edge, "agent"))
    refused = edge.cli("freeze", "--fleet")
    assert refused.returncode == 1
    assert "lacks a right" in refused.stderr
    give_token(edge, rules(edge, "operator"))
    assert edge.cli("freeze", "--fleet", "--reason", "all stop").returncode == 0
    assert b"all stop" in (edge.consul.get(f"{edge.folder.name}/freeze") or b"")
    assert edge.cli("unfreeze", "--fleet").returncode == 0
