"""An instance that is taken out by hand: gone from every nginx, and safe to stop once `--wait` says so."""

from tests.support.edge import Edge
from tests.support.process import wait_until


def test_a_drained_instance_gets_nothing_and_comes_back(edge: Edge) -> None:
    edge.backend("one")
    edge.backend("two")
    edge.up()
    wait_until(lambda: edge.serves("one", "two"), "both serve")
    wait_until(lambda: edge.consul.get(f"{edge.folder.name}/nodes/edge-test"), "the node reports")
    done = edge.cli("drain", "shop", "two", "--wait", "--timeout", "30s", "--reason", "new kernel")
    assert done.returncode == 0, done.stderr
    assert "No nginx sends it requests any more" in done.stdout
    assert edge.serves("one")
    assert "drained by hand: two" in edge.cli("status").stdout
    edge.down()
    edge.run()
    assert edge.serves("one"), "a drain outlives a restart"
    assert edge.cli("undrain", "shop", "two").returncode == 0
    wait_until(lambda: edge.serves("one", "two"), "it serves again")
    again = edge.cli("undrain", "shop", "two")
    assert (again.returncode, again.stderr.count("is not drained")) == (1, 1)


def test_the_last_instance_stays_in_use_and_drain_says_so(edge: Edge) -> None:
    edge.backend("one")
    edge.up()
    wait_until(lambda: edge.serves("one"), "it serves")
    said = edge.cli("drain", "shop", "one")
    assert "the last healthy instance" in said.stdout
    wait_until(lambda: "drained by hand: one" in edge.cli("status").stdout, "the daemon knows")
    assert edge.serves("one")


def test_a_node_that_cannot_follow_is_named(edge: Edge) -> None:
    edge.backend("one")
    edge.backend("two")
    edge.up()
    wait_until(lambda: edge.serves("one", "two"), "both serve")
    wait_until(lambda: edge.consul.get(f"{edge.folder.name}/nodes/edge-test"), "the node reports")
    assert edge.cli("freeze", "--reason", "test").returncode == 0
    late = edge.cli("drain", "shop", "two", "--wait", "--timeout", "3s")
    assert (late.returncode, "not yet confirmed by: edge-test" in late.stderr) == (1, True)
    missing = edge.cli("drain", "shop", "three")
    assert "it has: one, two" in missing.stderr
