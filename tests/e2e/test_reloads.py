"""What reloads nginx and what does not, by the signals in nginx's own log; and what waits for its old workers."""

import socket
import time
from collections.abc import Callable

import pytest

from tests.support.edge import Edge
from tests.support.process import wait_until


def _reloads(edge: Edge) -> int:
    return edge.nginx.error_log.read_text(encoding="utf-8").count("signal 1 (SIGHUP) received")


def _up(edge: Edge, reload: str) -> None:
    edge.configure(more=f"[reload]\n{reload}\n")
    for name in ("a", "b", "c"):
        edge.backend(name)
    edge.up()
    wait_until(lambda: edge.serves("a", "b", "c"), "all three are served")


def _metric(edge: Edge, name: str) -> float:
    return next(float(line.split()[-1]) for line in edge.page("/metrics").splitlines() if line.startswith(name + " "))


def _unchanged(edge: Edge) -> float:
    return _metric(edge, 'grayctl_converges_total{outcome="unchanged"}')


def _flap(edge: Edge) -> None:
    edge.consul.set_check("c", "critical")
    time.sleep(0.1)
    edge.consul.set_check("c", "passing")


def _reorder(edge: Edge) -> None:
    """The instances leave and come back in another order, so that Consul lists them in another."""
    for name in ("a", "b", "c"):
        edge.consul.deregister(name)
    for name in ("c", "a", "b"):
        edge.backend(name, weight=5 if name == "a" else 1)


def _back_and_forth(edge: Edge) -> None:
    for weight in (7, 8, 1):
        edge.backend("b", weight=weight)


@pytest.mark.parametrize("act", [_flap, _reorder, _back_and_forth])
def test_what_ends_where_it_began_within_the_interval_reloads_nothing(edge: Edge, act: Callable[[Edge], None]) -> None:
    _up(edge, 'min_interval = "3s"\nmax_delay = "3s"')
    time.sleep(3)  # the interval of the first reload has passed: the next change goes at once, and begins another
    before = _reloads(edge)
    edge.backend("a", weight=5)
    wait_until(lambda: _reloads(edge) == before + 1, "a real change goes at once")
    act(edge)
    time.sleep(4)  # past the interval: whoever took the act for a change has reloaded by now
    assert _reloads(edge) == before + 1
    edge.backend("a", weight=6)
    wait_until(lambda: _reloads(edge) == before + 2, "the next change is heard")
    assert edge.serves("a", "b", "c")


def test_a_check_whose_output_alone_changes_wakes_nobody(edge: Edge) -> None:
    _up(edge, 'min_interval = "200ms"')
    time.sleep(0.5)
    before, looked = _reloads(edge), _unchanged(edge)
    for count in range(5):
        edge.consul.set_check("a", "passing", output=f"took {count} ms")
        time.sleep(0.1)
    assert (_reloads(edge), _unchanged(edge)) == (before, looked)
    edge.backend("b", weight=3)
    wait_until(lambda: _reloads(edge) == before + 1, "a real change is still heard")


def test_too_many_old_workers_put_a_reload_off_but_not_for_ever(edge: Edge) -> None:
    _up(edge, 'max_delay = "1s"\nmax_old_workers = 1')
    time.sleep(6)
    before = _reloads(edge)
    with socket.create_connection(("127.0.0.1", edge.nginx.web)) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")  # never ended: its worker waits for the rest
        edge.backend("a", weight=2)
        wait_until(lambda: _reloads(edge) == before + 1, "the first change after quiet goes at once")
        edge.backend("a", weight=3)
        wait_until(lambda: edge.events("reload_waits"), "the second one waits for the old worker")
        report = edge.status() or {}
        assert any("a change waits for old workers: 1 are alive, 1 may be" in one for one in report["warnings"])
        assert report["nginx"]["old_workers"] == 1
        assert _metric(edge, "grayctl_reload_waits") == 1
        assert _metric(edge, "grayctl_reload_interval_seconds") == 5
        wait_until(lambda: _reloads(edge) == before + 2, "five times max_delay later it goes all the same")
        assert (edge.status() or {})["nginx"]["old_workers"] == 1
        edge.backend("a", weight=4)
        wait_until(lambda: len(edge.events("reload_waits")) == 2, "the third one waits too")
    wait_until(lambda: _reloads(edge) == before + 3, "and goes when the old worker has ended")
    wait_until(lambda: len(edge.events("reload_waits_no_more")) == 2, "which is told")
    assert edge.serves("a", "b", "c")
