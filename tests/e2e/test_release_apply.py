"""Releases by their commands, with a real daemon and a real nginx: who gets what from one apply to the next."""

import http.client
import json
from collections import Counter
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.process import wait_until

USERS = [f"user-{number}" for number in range(400)]


@pytest.fixture
def shop(edge: Edge) -> Edge:
    """Three versions and no policy yet; `/who` answers which version and route nginx decided on."""
    for version in ("v1", "v2", "v3"):
        edge.backend(version, version=version)
    edge.up()
    apply(edge, "stable: v1")
    edge.nginx.server_extra = "location = /who { return 200 '$grayver_shop $grayroute_shop'; }"
    edge.nginx.write_conf()
    old = set(edge.nginx.children())
    edge.nginx.reload()
    wait_until(lambda: who(edge, "somebody") == "v1 stable", "nginx knows the variables")
    wait_until(lambda: not old & set(edge.nginx.children()), "nobody answers any more who does not know them")
    return edge


def policy(edge: Edge, text: str) -> str:
    file = edge.folder / "shop.yaml"
    file.write_text(f"service: shop\nidentity: [{{header: X-User-ID}}]\n{text}\n", encoding="utf-8")
    return str(file)


def apply(edge: Edge, text: str) -> str:
    """Apply and wait until nginx serves it; what the command said."""
    done = edge.cli("release", "apply", policy(edge, text), "--yes", "--reason", "test")
    assert done.returncode == 0, done.stderr
    settle(edge)
    return done.stdout


def settle(edge: Edge) -> None:
    """Wait until nginx serves the revision that stands in Consul, and nothing older."""
    standing = json.loads(edge.cli("release", "get", "shop", "--json").stdout)["revision"]
    wait_until(
        lambda: (served := edge.events("release_served")) and served[-1]["revision"] == standing,
        f"revision {standing} is served",
    )


def release(edge: Edge) -> dict[str, Any]:
    report = edge.status() or {"services": []}
    return dict(next((one["release"] for one in report["services"] if one["service"] == "shop"), None) or {})


def who(edge: Edge, user: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", edge.nginx.web, timeout=5)
    try:
        connection.request("GET", "/who", headers={"X-User-ID": user})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def versions(edge: Edge) -> dict[str, str]:
    """user -> the version that nginx decides on."""
    return {user: who(edge, user).split()[0] for user in USERS}


def moved(before: dict[str, str], after: dict[str, str]) -> set[tuple[str, str]]:
    return {(before[user], after[user]) for user in USERS if before[user] != after[user]}


def test_nobody_moves_who_need_not_from_one_apply_to_the_next(shop: Edge) -> None:
    said = apply(shop, "stable: v1\ntraffic: {v2: 20}")
    assert "20% of all users move from v1 to v2" in said
    first = versions(shop)
    assert 40 < Counter(first.values())["v2"] < 120, "20 % of 400, within five standard deviations"

    apply(shop, "stable: v1\ntraffic: {v2: 20, v3: 20}")
    second = versions(shop)
    assert moved(first, second) == {("v1", "v3")}

    apply(shop, "stable: v1\ntraffic: {v2: 50, v3: 20}")
    third = versions(shop)
    assert moved(second, third) == {("v1", "v2")}

    apply(shop, "stable: v1\ntraffic: {v2: 20, v3: 20}")
    assert versions(shop) == second, "the same users as before it grew"

    said = apply(shop, "stable: v2\ntraffic: {v3: 30}")
    assert "stable: v1 -> v2" in said
    promoted = versions(shop)
    assert moved(second, promoted) == {("v1", "v2"), ("v1", "v3")}

    done = shop.cli("release", "rollback", "shop", "4", "--yes")
    assert done.returncode == 0, done.stderr
    settle(shop)
    assert moved(third, versions(shop)) == set(), "version 4 again, with the users that it had"


def test_a_route_holds_the_general_users_first(shop: Edge) -> None:
    route = "routes: [{name: vip, match: {path: /who}, traffic: {v2: 40}}]"
    apply(shop, "stable: v1\ntraffic: {v3: 20, v2: 10}")
    general = versions(shop)
    apply(shop, f"stable: v1\ntraffic: {{v3: 20, v2: 10}}\n{route}")
    routed = versions(shop)
    assert {user for user in USERS if general[user] == "v2"} <= {user for user in USERS if routed[user] == "v2"}
    assert moved(general, routed) <= {("v1", "v2"), ("v3", "v1"), ("v3", "v2")}


def test_a_list_decides_and_changes_without_the_policy(shop: Edge) -> None:
    apply(shop, "stable: v1\nroutes: [{name: beta, match: {identity: {in_list: beta-users}}, to: v2}]")
    assert who(shop, "ann") == "v1 stable", "a list that is not there holds nobody"
    users = shop.folder / "users.txt"
    users.write_text("# beta\nann\nbob\n", encoding="utf-8")
    assert shop.cli("list", "put", "beta-users", str(users)).returncode == 0
    wait_until(lambda: who(shop, "ann") == "v2 beta", "ann is on the list")
    assert who(shop, "Ann") == "v1 stable", "case counts"
    users.write_text("bob\n", encoding="utf-8")
    assert "1 fewer" in shop.cli("list", "put", "beta-users", str(users)).stdout
    wait_until(lambda: who(shop, "ann") == "v1 stable", "ann is on it no more")
    assert who(shop, "bob") == "v2 beta"


def test_a_release_that_is_deleted_ends_and_comes_back_by_a_rollback(shop: Edge) -> None:
    apply(shop, "stable: v1\ntraffic: {v2: 100}")
    assert who(shop, "ann") == "v2 traffic"
    assert shop.cli("release", "delete", "shop", "--yes").returncode == 0
    wait_until(lambda: not release(shop), "no release is in force")
    wait_until(lambda: shop.serves("v1", "v2", "v3"), "all instances share the requests")
    assert shop.cli("release", "rollback", "shop", "2", "--yes").returncode == 0
    settle(shop)
    assert who(shop, "ann") == "v2 traffic"
    assert [line.split()[3] for line in shop.cli("audit", "shop").stdout.splitlines()[1:]] == [
        "apply",
        "apply",
        "delete",
        "rollback",
    ]


def test_a_release_that_consul_lost_ends_by_the_command_that_status_advises(shop: Edge) -> None:
    apply(shop, "stable: v1\ntraffic: {v2: 100}")
    for name in ("releases", "live", "history", "audit"):
        shop.consul.call("DELETE", f"/v1/kv/{shop.folder.name}/{name}/?recurse")
    wait_until(lambda: "grayctl release delete shop" in shop.cli("status").stdout, "status says it and what to do")
    assert who(shop, "ann") == "v2 traffic", "what was in force stays"
    wait_until(lambda: shop.cli("release", "delete", "shop", "--yes").returncode == 0, "the node has reported it")
    wait_until(lambda: not release(shop), "no release is in force")
    wait_until(lambda: shop.serves("v1", "v2", "v3"), "all instances share the requests")
    assert "release delete" not in shop.cli("status").stdout
    wait_until(lambda: "has no release" in shop.cli("release", "delete", "shop", "--yes").stderr, "nothing is left")


def test_a_policy_that_is_refused_changes_nothing(shop: Edge) -> None:
    generation = shop.generation()
    done = shop.cli("release", "apply", policy(shop, "stable: v1\ntraffic: {v2: 101}"), "--yes")
    assert done.returncode == 1
    assert "shop.yaml:4" in done.stderr
    assert (shop.generation(), who(shop, "ann")) == (generation, "v1 stable")
