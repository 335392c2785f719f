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
        before = generations(nodes)
        release(nodes, "apply", policy(nodes, STABLE))
        moved(nodes, before, *nodes)
        assert all(set(users(node).values()) == {"v1"} for node in nodes.values())
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


def generations(fleet: Fleet) -> dict[str, int]:
    """What each node has proven: the workers of what was before accept nothing any more."""
    return {name: (node.status() or {})["generation"]["number"] for name, node in fleet.items()}


def moved(fleet: Fleet, before: dict[str, int], *names: str) -> None:
    """Wait until these nodes, and no others, serve one generation more."""
    then = {name: number + (name in names) for name, number in before.items()}
    wait_until(lambda: generations(fleet) == then, f"{', '.join(names)} and nobody else moved on")


def notes(node: Edge) -> str:
    """What status says beside the service."""
    (shop,) = (one for one in (node.status() or {"services": []})["services"] if one["service"] == "shop")
    return "; ".join(shop["notices"])


def test_a_policy_reaches_one_node_then_all_and_no_user_moves_when_it_is_promoted(fleet: Fleet) -> None:
    staging, prod = fleet["staging"], fleet["prod"]
    before = generations(fleet)
    said = release(fleet, "apply", policy(fleet, CANARY), "--scope", "labels.env=staging")
    assert "labels.env=staging: 1 of 2 nodes: staging" in said
    moved(fleet, before, "staging")
    split = users(staging)
    assert set(split.values()) == {"v1", "v2"}, "the node in scope follows"
    assert set(users(prod).values()) == {"v1"}, "the other one does not"
    assert "staged for labels.env=staging is followed here" in notes(staging)
    assert "staged for labels.env=staging is not followed here" in notes(prod)

    before = generations(fleet)
    release(fleet, "widen", "shop", "--scope", "percent=100")
    moved(fleet, before, "prod")
    assert users(prod) == users(staging) == split, "the other one follows too, and cuts the same users"

    before = generations(fleet)
    release(fleet, "promote", "shop")
    wait_until(lambda: not any(notes(node) for node in fleet.values()), "nothing is staged")
    assert generations(fleet) == before, "nginx read nothing new: nobody moved"
    assert users(staging) == users(prod) == split

    release(fleet, "apply", policy(fleet, CANARY.replace("40", "100")), "--scope", "labels.env=prod")
    moved(fleet, before, "prod")
    assert set(users(prod).values()) == {"v2"}, "staged anew, for the other one"
    assert users(staging) == split
    before = generations(fleet)
    release(fleet, "discard", "shop")
    moved(fleet, before, "prod")
    assert users(prod) == split, "each user is back where it was"


def test_promotions_one_after_another_never_go_by_way_of_the_release_of_before(fleet: Fleet) -> None:
    """The nodes hear of one transaction in three answers, in any order."""
    for share in (10, 20, 30, 40, 50, 60):
        text, before = CANARY.replace("40", str(share)), generations(fleet)
        release(fleet, "apply", policy(fleet, text), "--scope", "percent=100")
        moved(fleet, before, *fleet)
        before = generations(fleet)
        release(fleet, "promote", "shop")
        wait_until(lambda: not any(notes(node) for node in fleet.values()), "nothing is staged")
        assert generations(fleet) == before, f"promoted at {share} %"
    history = json.loads(fleet["staging"].cli("release", "history", "shop", "--json").stdout)
    assert [one["action"] for one in history] == ["apply", *["stage", "promote"] * 6]
