"""A policy goes gray across two nodes, staged for one, widened, promoted, taken back."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul import Consul
from tests.support.edge import Edge
from tests.support.nginx import Nginx
from tests.support.process import wait_until

STABLE = "service: shop\nstable: v1\nidentity: [{header: X-User-ID}]\n"
CANARY = STABLE + "traffic: {v2: 40}\n"
USERS = [f"u{number}" for number in range(40)]
Fleet = dict[str, Edge]


@pytest.fixture
def fleet(tmp_path: Path, unique: str, consul: Consul) -> Iterator[Fleet]:
    """The nodes `staging` and `prod`, labelled so; both serve v1 to everybody."""
    nodes: Fleet = {}
    try:
        for name in ("staging", "prod"):
            folder = tmp_path / name / unique  # Edge takes the folder's name as the prefix in Consul: one for both
            folder.mkdir(parents=True)
            node = nodes[name] = Edge(folder, Nginx(folder), consul)
            node.configure(top=f'labels = {{env = "{name}"}}')
            node.config.write_text(node.config.read_text().replace("edge-test", name))
        for version in ("v1", "v2"):
            nodes["staging"].backend(version, version=version)
        for node in nodes.values():
            node.up()
        release(nodes, "apply", policy(nodes, STABLE))
        wait_until(lambda: all(set(users(node).values()) == {"v1"} for node in nodes.values()), "v1 is served")
        wait_until(
            lambda: all(consul.get(f"{unique}/nodes/{name}") for name in nodes), "both nodes have reported themselves"
        )
        yield nodes
    finally:
        for node in nodes.values():
            node.close()
            node.nginx.close()


def policy(fleet: Fleet, text: str) -> str:
    file = fleet["staging"].folder / "shop.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def release(fleet: Fleet, *arguments: str) -> str:
    """What `grayctl release ... --yes` said."""
    done = fleet["staging"].cli("release", *arguments, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def users(node: Edge) -> dict[str, str]:
    """User -> the version that answers on this node."""
    found = {}
    for user in USERS:
        connection = http.client.HTTPConnection("127.0.0.1", node.nginx.web, timeout=5)
        try:
            connection.request("GET", "/", headers={"X-User-ID": user})
            found[user] = connection.getresponse().read().decode().strip()
        finally:
            connection.close()
    return found


def notes(node: Edge) -> str:
    """What status says beside the service."""
    (shop,) = (one for one in (node.status() or {"services": []})["services"] if one["service"] == "shop")
    return "; ".join(shop["notices"])


def test_a_policy_reaches_one_node_then_all_and_no_user_moves_when_it_is_promoted(fleet: Fleet) -> None:
    staging, prod = fleet["staging"], fleet["prod"]
    said = release(fleet, "apply", policy(fleet, CANARY), "--scope", "labels.env=staging")
    assert "labels.env=staging: 1 of 2 nodes: staging" in said
    wait_until(lambda: set(users(staging).values()) == {"v1", "v2"}, "the node in scope follows")
    split = users(staging)
    assert set(users(prod).values()) == {"v1"}, "the other one does not"
    assert "staged for labels.env=staging is followed here" in notes(staging)
    assert "staged for labels.env=staging is not followed here" in notes(prod)

    release(fleet, "widen", "shop", "--scope", "percent=100")
    wait_until(lambda: users(prod) == split, "the other one follows too, and cuts the same users")
    assert users(staging) == split

    before = {name: node.generation() for name, node in fleet.items()}
    release(fleet, "promote", "shop")
    wait_until(lambda: not any(notes(node) for node in fleet.values()), "nothing is staged")
    assert {name: node.generation() for name, node in fleet.items()} == before, "nginx read nothing new: nobody moved"
    assert users(staging) == users(prod) == split

    release(fleet, "apply", policy(fleet, CANARY.replace("40", "100")), "--scope", "labels.env=prod")
    wait_until(lambda: set(users(prod).values()) == {"v2"}, "staged anew, for the other one")
    assert users(staging) == split
    release(fleet, "discard", "shop")
    wait_until(lambda: users(prod) == split, "each user is back where it was")


def test_promotions_one_after_another_never_go_by_way_of_the_release_of_before(fleet: Fleet) -> None:
    """The nodes hear of one transaction in three answers, in any order."""
    for share in (10, 20, 30, 40, 50, 60):
        text = CANARY.replace("40", str(share))
        release(fleet, "apply", policy(fleet, text), "--scope", "percent=100")
        wait_until(lambda: all("followed here" in notes(node) for node in fleet.values()), "both follow")
        wait_until(lambda: len({str(users(node)) for node in fleet.values()}) == 1, "both cut the same users")
        before = {name: node.generation() for name, node in fleet.items()}
        release(fleet, "promote", "shop")
        wait_until(lambda: not any(notes(node) for node in fleet.values()), "nothing is staged")
        assert {name: node.generation() for name, node in fleet.items()} == before, f"promoted at {share} %"
    history = json.loads(fleet["staging"].cli("release", "history", "shop", "--json").stdout)
    assert [one["action"] for one in history] == ["apply", *["promote"] * 6]
