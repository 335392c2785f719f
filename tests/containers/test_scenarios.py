"""What must hold on a machine and in containers alike: every test here runs on both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import ContainerConsul, ContainerEdge, demand_engine
from tests.support.edge import Edge
from tests.support.process import wait_until


@pytest.fixture(scope="session")
def container_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerConsul]:
    """One agent in a container for all tests of this worker."""
    demand_engine()
    agent = ContainerConsul(tmp_path_factory.mktemp("consul"))
    yield agent
    agent.stop()


@pytest.fixture
def container_edge(tmp_path: Path, container_consul: ContainerConsul) -> Iterator[ContainerEdge]:
    """A node in a container that is configured and not started."""
    tmp_path.chmod(0o755)
    one = ContainerEdge(tmp_path, container_consul)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(params=["native", pytest.param("containers", marks=pytest.mark.containers)])
def node(request: pytest.FixtureRequest) -> Edge:
    """A node that is configured and not started, of either kind."""
    name = "edge" if request.param == "native" else "container_edge"
    found: Edge = request.getfixturevalue(name)
    return found


def test_a_registration_is_served(node: Edge) -> None:
    node.up()
    assert node.nginx.get("/") == "", "nobody is there yet"
    node.backend("a", weight=3)
    node.backend("b", version="v2")
    # workers of before answer for a moment more, so the counts settle after both are seen
    wait_until(lambda: node.served(80) == {"a": 60, "b": 20}, "both serve, three to one")


def test_an_instance_that_leaves_is_served_no_more(node: Edge) -> None:
    node.backend("a")
    node.backend("b", version="v2")
    node.up()
    wait_until(lambda: node.serves("a", "b"), "both serve")
    node.consul.set_check("a", "critical")
    wait_until(lambda: node.serves("b"), "a critical instance leaves")
    node.consul.set_check("a", "passing")
    wait_until(lambda: node.serves("a", "b"), "it is back")
    node.consul.deregister("b")
    wait_until(lambda: node.serves("a"), "a deregistered instance leaves")


def test_a_bad_template_leaves_nginx_serving(node: Edge) -> None:
    """And what changed meanwhile is served as soon as the template is mended."""
    templates = node.folder / "templates"
    template = templates / "services" / "shop.conf.j2"
    template.parent.mkdir(parents=True)
    node.configure(top=f'templates_dir = "{templates}"')
    node.backend("a")
    node.up()
    wait_until(lambda: node.serves("a"), "a serves")
    before = node.generation()

    template.write_text("no_such_directive on;\n")
    refused = node.cli("render")
    assert refused.returncode == 1
    assert "no_such_directive" in refused.stdout + refused.stderr
    node.backend("b", version="v2")
    wait_until(lambda: (node.status() or {})["services"][0]["registered"] == 2, "b is heard of")
    assert node.serves("a")
    assert node.generation() == before

    template.unlink()
    mended = node.cli("render")
    assert mended.returncode == 0, mended.stderr
    wait_until(lambda: node.serves("a", "b"), "both serve")
