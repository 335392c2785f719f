"""A policy goes gray across nodes: staged for some of them, widened, promoted, or taken back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grayctl.policy.live import revision_of
from tests.support.consul import Consul
from tests.support.edge import Edge
from tests.support.nginx import Nginx
from tests.support.process import wait_until

STABLE = "service: shop\nstable: v1\n"
V2 = "service: shop\nstable: v1\ntraffic: {v2: 100}\n"


@pytest.fixture
def staging(tmp_path: Path, nginx: Nginx, consul: Consul) -> Iterator[Edge]:
    """A node with the label env=staging beside one with env=prod that we only hear of; all serve v1."""
    edge = Edge(tmp_path, nginx, consul)
    edge.configure(top='labels = {env = "staging"}')
    try:
        for version in ("v1", "v2"):
            edge.backend(version, version=version)
        edge.up()
        wait_until(lambda: consul.get(f"{edge.folder.name}/nodes/edge-test"), "the node reports itself")
        node = json.loads(consul.get(f"{edge.folder.name}/nodes/edge-test") or b"")
        other = node | {"node": "edge-prod", "id": "other", "labels": {"env": "prod"}}
        consul.put(f"{edge.folder.name}/nodes/edge-prod", json.dumps(other))
        done(edge, "apply", policy(edge, STABLE), "--yes")
        wait_until(lambda: edge.serves("v1"), "v1 is served")
        yield edge
    finally:
        edge.close()


def policy(edge: Edge, text: str) -> str:
    file = edge.folder / "shop.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def done(edge: Edge, *arguments: str, code: int = 0) -> str:
    """What `grayctl release ...` said; it must end with `code`."""
    found = edge.cli("release", *arguments)
    assert found.returncode == code, found.stdout + found.stderr
    return found.stdout + found.stderr


def stored(edge: Edge, name: str) -> Any:
    return edge.consul.get(f"{edge.folder.name}/{name}/shop")


def index(edge: Edge, name: str) -> int:
    (found,) = edge.consul.call("GET", f"/v1/kv/{edge.folder.name}/{name}/shop")
    return int(found["ModifyIndex"])


def acts(edge: Edge) -> list[str]:
    return [one["action"] for one in json.loads(edge.cli("audit", "shop", "--json").stdout)]


def _told(edge: Edge) -> list[tuple[str, int]]:
    return [(one["revision"], one["index"]) for one in edge.events("release_served")]


def test_only_the_nodes_in_scope_follow_and_a_discard_takes_it_back(staging: Edge) -> None:
    file = policy(staging, V2)
    said = done(staging, "apply", file, "--scope", "labels.env=staging", "--dry-run")
    assert "100% of all users move from v1 to v2" in said
    assert "staged for labels.env=staging: 1 of 2 nodes: edge-test" in said
    assert stored(staging, "staged") is None
    done(staging, "apply", file, "--scope", "labels.env=staging", "--yes", "--reason", "try")
    wait_until(lambda: staging.serves("v2"), "the node in scope serves v2")
    assert stored(staging, "releases") == STABLE.encode(), "all others follow what they followed"
    told = revision_of(V2.encode()), index(staging, "staged")
    wait_until(lambda: _told(staging)[-1] == told, "which is told")
    assert re.search(r"version 2, by \S+ at .*: try$", done(staging, "get", "shop", "--staged"), re.MULTILINE)
    (row,) = json.loads(done(staging, "list", "--json"))
    assert (row["traffic"], row["note"]) == ("-", "another is staged for labels.env=staging")

    staging.down()
    staging.run()
    assert staging.serves("v2"), "after a restart too"
    done(staging, "discard", "shop", "--yes")
    wait_until(lambda: staging.serves("v1"), "v1 again")
    assert stored(staging, "staged") is None
    assert acts(staging) == ["apply", "stage", "discard"]
    assert "nothing is staged for shop" in done(staging, "discard", "shop", "--yes", code=1)


def test_a_node_beyond_the_scope_follows_when_it_is_widened_and_promotion_makes_it_the_release(staging: Edge) -> None:
    done(staging, "apply", policy(staging, V2), "--scope", "labels.env=prod", "--yes")
    assert staging.serves("v1")
    said = done(staging, "widen", "shop", "--scope", "labels.env=staging", "--yes", code=1)
    assert "leaves out nodes of labels.env=prod" in said
    assert "there is no terminal to ask on" in done(staging, "widen", "shop", "--scope", "percent=100", code=2)
    said = done(staging, "widen", "shop", "--scope", "percent=100", "--yes")
    assert "100% of all users move from v1 to v2" in said
    assert "staged for percent=100: 2 of 2 nodes" in said
    wait_until(lambda: staging.serves("v2"), "it follows")
    salt = json.loads(stored(staging, "staged"))["live"]["salt"]
    done(staging, "promote", "shop", "--yes", "--reason", "good")
    wait_until(lambda: stored(staging, "staged") is None, "nothing is staged any more")
    assert stored(staging, "releases") == V2.encode()
    live = json.loads(stored(staging, "live"))
    assert (live["salt"], live["ring"]) == (salt, [["v2", 10_000, True]]), "with the users that it had"
    assert staging.serves("v2")
    assert acts(staging) == ["apply", "stage", "widen", "promote"]
    history = json.loads(done(staging, "history", "shop", "--json"))
    assert [(one["action"], one["text"]) for one in history] == [
        ("apply", STABLE),
        ("stage", V2),
        ("promote", V2),
    ]


def test_a_service_with_nothing_but_a_staged_policy_has_none_after_the_discard(staging: Edge) -> None:
    done(staging, "delete", "shop", "--yes")
    wait_until(lambda: staging.serves("v1", "v2"), "no release")
    done(staging, "apply", policy(staging, V2), "--scope", "percent=100", "--yes")
    wait_until(lambda: staging.serves("v2"), "it is followed")
    assert json.loads(done(staging, "list", "--json"))[0]["note"] == "another is staged for percent=100; no release"
    done(staging, "discard", "shop", "--yes")
    wait_until(lambda: staging.serves("v1", "v2"), "no release again")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["apply", "shop.yaml", "--scope", "labels.env=qa", "--yes"],
            1,
            "labels.env=qa covers none of the nodes edge-",
        ),
        (["apply", "shop.yaml", "--scope", "zone=x", "--yes"], 2, "--scope: 'zone=x' is no scope: write labels.NAME"),
        (["apply", "shop.yaml", "more.yaml", "--scope", "percent=5", "--yes"], 2, "--scope takes one policy"),
        (["apply", "shop.yaml", "--scope", "percent=100"], 2, "there is no terminal to ask on: add --yes"),
        (["widen", "shop", "--scope", "percent=100", "--yes"], 1, "nothing is staged for shop"),
        (["get", "shop", "--staged"], 1, "nothing is staged for shop"),
        (["promote", "shop", "--yes"], 1, "nothing is staged for shop"),
    ],
)
def test_what_is_refused_says_why(staging: Edge, arguments: list[str], code: int, message: str) -> None:
    policy(staging, V2)
    (staging.folder / "more.yaml").write_text("service: more\nstable: v1\n", encoding="utf-8")
    named = [str(staging.folder / one) if one.endswith(".yaml") else one for one in arguments]
    assert message in done(staging, *named, code=code)
    assert stored(staging, "staged") is None


def test_what_is_staged_and_damaged_stays_followed_and_is_not_promoted(staging: Edge) -> None:
    done(staging, "apply", policy(staging, V2), "--scope", "percent=100", "--yes")
    key = f"{staging.folder.name}/staged/shop"
    whole = stored(staging, "staged")
    wait_until(lambda: staging.serves("v2"), "what is staged is followed")
    staging.consul.put(key, b"{}")
    said = done(staging, "promote", "shop", "--yes", code=1)
    assert f"{key}: this is no staged policy" in said
    assert "grayctl release discard shop" in said
    assert staging.serves("v2"), "what was followed stays"
    staging.consul.put(key, whole)
    done(staging, "promote", "shop", "--yes")
