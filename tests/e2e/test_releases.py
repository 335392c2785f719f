"""A policy in Consul decides what nginx does: adopted, served, explained, kept when it breaks, ended on purpose."""

import http.client
import json
from collections import Counter
from typing import Any

import pytest

from grayctl.policy.live import encode_ended
from tests.support.edge import Edge
from tests.support.process import wait_until

POLICY = """
service: shop
stable: v1
identity: [{header: X-User-ID}, client_ip]
traffic: {v2: 30}
routes:
  - {name: testers, match: {header: {X-Release-Version: v2}}, to: v2}
"""


@pytest.fixture
def released(edge: Edge) -> Edge:
    """Two versions, and a policy that somebody put into Consul by hand; `/route` answers what was decided."""
    edge.backend("one", version="v1")
    edge.backend("two", version="v2")
    put(edge, POLICY)
    edge.up()
    wait_until(lambda: release(edge), "the policy is in force")
    wait_until(lambda: edge.events("release_served"), "and served: no reload is under way when the next one begins")
    edge.nginx.server_extra = "location = /route { return 200 '$grayver_shop $grayroute_shop'; }"
    edge.nginx.write_conf()
    old = set(edge.nginx.children())
    edge.nginx.reload()
    wait_until(lambda: route(edge) in {"v1 stable", "v2 traffic"}, "nginx knows the variables")
    wait_until(lambda: not old & set(edge.nginx.children()), "nobody answers any more who does not know them")
    return edge


def put(edge: Edge, text: str) -> None:
    edge.consul.put(f"{edge.folder.name}/releases/shop", text.encode())


def release(edge: Edge) -> dict[str, Any]:
    """The release that status shows; empty when none is in force."""
    report = edge.status()
    found = [one["release"] for one in (report or {"services": []})["services"] if one["service"] == "shop"]
    return dict(found[0] or {}) if found else {}


def route(edge: Edge, *headers: str) -> str:
    """Version and route that nginx decides for a request."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.nginx.web, timeout=5)
    try:
        connection.request("GET", "/route", headers=dict(one.split(": ") for one in headers))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_a_policy_put_by_hand_is_adopted_and_served_as_explain_says(released: Edge) -> None:
    assert released.events("adopted")
    wait_until(lambda: released.events("release_served"), "the log says which revision is served")
    assert route(released, "X-Release-Version: v2") == "v2 testers"
    seen: Counter[str] = Counter()
    for user in range(60):
        served = route(released, f"X-User-ID: u{user}")
        assert route(released, f"X-User-ID: u{user}") == served, "a user keeps the version"
        seen[served] += 1
        if user < 5:
            told = json.loads(released.cli("explain", "shop", "-H", f"X-User-ID: u{user}", "--json").stdout)
            assert f"{told['version']} {told['route']}" == served
    assert seen.keys() == {"v1 stable", "v2 traffic"}
    assert release(released)["shares"] == {"v2": 0.3}
    assert "v1 70%  v2 30%  +1 routes" in released.cli("status").stdout


def test_a_broken_policy_changes_nothing_and_is_named(released: Edge) -> None:
    put(released, POLICY.replace("30", "130"))
    wait_until(lambda: "release of shop" in released.cli("status").stdout, "status names it")
    assert "130" in released.cli("status").stdout
    assert release(released)["shares"] == {"v2": 0.3}
    released.down()
    released.run()
    wait_until(lambda: release(released), "it is in force after a restart too")
    assert route(released, "X-Release-Version: v2") == "v2 testers"
    put(released, POLICY.replace("30", "100"))
    wait_until(lambda: route(released, "X-User-ID: u1") == "v2 traffic", "mended, it is followed")


def test_a_version_without_instances_is_never_routed_to(released: Edge) -> None:
    released.consul.deregister("two")
    wait_until(lambda: route(released, "X-Release-Version: v2") == "v1 testers!fallback", "stable answers instead")
    counted = 'grayctl_release_fallback{service="shop",version="v2"} 1.0'
    wait_until(lambda: counted in released.page("/metrics"), "the metrics tell it")
    assert release(released)["fallback"] == ["v2"]
    wait_until(lambda: released.serves("one"), "and no worker of before goes on")
    released.backend("two", version="v2")
    wait_until(lambda: route(released, "X-Release-Version: v2") == "v2 testers", "it is back")


def test_a_policy_that_vanishes_stays_and_one_that_is_ended_goes(released: Edge) -> None:
    prefix = released.folder.name
    released.consul.delete(f"{prefix}/releases/shop")
    wait_until(lambda: "gone from Consul" in released.cli("status").stdout, "status names it")
    assert route(released, "X-Release-Version: v2") == "v2 testers"
    released.consul.put(f"{prefix}/live/shop", encode_ended())
    wait_until(lambda: route(released, "X-Release-Version: v2") == " stable", "it ended, and its variables stay")
    wait_until(lambda: released.serves("one", "two"), "all instances serve")
