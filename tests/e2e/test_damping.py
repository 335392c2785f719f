"""Flap damping over a whole node."""

import time

from tests.support.edge import Edge
from tests.support.process import wait_until

DAMPED = '[damping]\nmax_flips = 3\nwindow = "60s"\ncalm = "5s"\n'


def _flap(edge: Edge, name: str, end: str) -> None:
    """Critical and passing in turns until it is damped; which of Consul's turns are seen is not ours to say."""
    deadline, health = time.monotonic() + 30, "passing"
    while not edge.events("damped") or health != end:
        assert time.monotonic() < deadline, "it was never damped"
        health = "critical" if health == "passing" else "passing"
        edge.consul.set_check(name, health)
        time.sleep(0.3)


def _up(edge: Edge, *names: str, keep: str = "out") -> None:
    edge.configure(more=f'{DAMPED}keep = "{keep}"\n')
    for name in names:
        edge.backend(name)
    edge.up()
    wait_until(lambda: edge.serves(*names), "all are served")


def _flappers(edge: Edge) -> list[dict[str, str]]:
    return [
        {name: one[name] for name in ("instance", "kept")} for one in (edge.status() or {})["services"][0]["flappers"]
    ]


def test_a_flapper_is_kept_out_until_it_is_calm(edge: Edge) -> None:
    _up(edge, "a", "b", "c")
    _flap(edge, "c", "passing")
    [event] = edge.events("damped")
    assert (event["service"], event["id"]) == ("shop", "c")
    wait_until(lambda: edge.serves("a", "b"), "it is kept out although it passes")
    kept = [{"instance": "c", "kept": "out"}]
    wait_until(lambda: _flappers(edge) == kept, "which status tells")
    shown = edge.cli("status").stdout
    assert "1 flapping" in shown
    assert "shop: c: flapping: kept out, until it has been calm for" in shown
    assert 'grayctl_flapping_instances{service="shop"} 1.0' in edge.page("/metrics")
    wait_until(lambda: edge.serves("a", "b", "c"), "calm, it serves again, without any event")
    wait_until(lambda: edge.events("damping_ended"), "which is told")
    assert "grayctl_flapping_instances{" not in edge.page("/metrics")


def test_the_last_healthy_instance_stays_however_it_flaps(edge: Edge) -> None:
    _up(edge, "a", "c")
    _flap(edge, "c", "passing")
    wait_until(lambda: edge.serves("a"), "it is kept out beside another")
    edge.consul.set_check("a", "critical")
    wait_until(lambda: edge.serves("c"), "it is all there is")
    assert "shop: c: flapping, as Consul has it" in edge.cli("status").stdout


def test_kept_in_it_serves_while_it_is_critical_and_leaves_when_drained(edge: Edge) -> None:
    _up(edge, "a", "c", keep="in")
    _flap(edge, "c", "critical")
    wait_until(lambda: edge.serves("a", "c"), "critical, it is kept in")
    assert edge.cli("drain", "shop", "c").returncode == 0
    wait_until(lambda: edge.serves("a"), "drained, it leaves all the same")
    wait_until(lambda: edge.events("damping_ended"), "calm")
    assert edge.cli("undrain", "shop", "c").returncode == 0
    assert edge.serves("a"), "calm, it is what it is in Consul: critical"


def test_an_own_check_counts_at_once_where_nothing_flaps(edge: Edge) -> None:
    _up(edge, "a", "c", keep="in")
    edge.consul.set_check("c", "critical")
    wait_until(lambda: edge.serves("a"), "one flip is none too many")
