"""A real node in each state: the page it exposes makes its alerts fire after their time, and no other one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.test_alerts import RULES
from tests.support.consul import MakeConsul
from tests.support.edge import Edge
from tests.support.nginx import Nginx
from tests.support.process import wait_until
from tests.support.promtool import judge, series

HOURS = 5  # longer than any alert waits


@pytest.fixture
def edge(tmp_path: Path, nginx: Nginx, make_consul: MakeConsul) -> Iterator[Edge]:
    """A node with a Consul of its own, which serves one instance."""
    one = Edge(tmp_path, nginx, make_consul())
    try:
        one.configure(more='[guard]\nmin_instances = 4\nhold = "1h"\n')
        one.backend("a")
        one.up()
        wait_until(lambda: one.serves("a"), "a is served")
        yield one
    finally:
        one.consul.resume()
        one.close()


def healthy(edge: Edge) -> None:
    edge.backend("b")
    wait_until(lambda: edge.serves("a", "b"), "a change is served")


def nginx_is_down(edge: Edge) -> None:
    edge.nginx.kill()
    wait_until(lambda: sample(edge, "grayctl_nginx_up") == 0, "it is noticed")


def nginx_left_workers(edge: Edge) -> None:
    edge.nginx.kill(with_workers=False)
    wait_until(lambda: sample(edge, "grayctl_nginx_orphaned_workers"), "they are noticed")


def consul_is_away(edge: Edge) -> None:
    edge.consul.suspend()
    wait_until(lambda: sample(edge, "grayctl_consul_up") == 0, "it is noticed")


def the_users_tree_is_broken(edge: Edge) -> None:
    edge.nginx.server_extra = "no_such_directive on;"
    edge.nginx.write_conf()
    edge.backend("b")
    wait_until(lambda: edge.events("held"), "the change is held")


def a_freeze_holds(edge: Edge) -> None:
    assert edge.cli("freeze").returncode == 0
    edge.backend("b")
    wait_until(lambda: edge.events("held"), "the change is held")


def services_are_ill(edge: Edge) -> None:
    templates = edge.folder / "templates" / "services"
    templates.mkdir(parents=True)
    (templates / "shop.conf.j2").write_text("no_such_directive on;\n", encoding="utf-8")
    edge.configure(top=f'templates_dir = "{templates.parent}"', watch='services = ["shop", "kept", "never"]')
    edge.consul.register("kept", "kept-1", "127.0.0.1", 9)
    edge.consul.register("kept", "kept-2", "no address", 9)
    edge.cli("render")
    wait_until(lambda: sample(edge, "grayctl_dropped_instances", service="kept"), "the bad one is dropped")
    edge.consul.set_check("kept-1", "critical")
    wait_until(lambda: sample(edge, "grayctl_services", serving="kept"), "the last known one is kept")


def many_are_gone(edge: Edge) -> None:
    for name in ("b", "c", "d"):
        edge.backend(name)
    wait_until(lambda: edge.serves("a", "b", "c", "d"), "all are served")
    for name in ("b", "c", "d"):
        edge.consul.deregister(name)
    wait_until(lambda: sample(edge, "grayctl_guard_holding"), "the guard holds")


def settings_are_broken(edge: Edge) -> None:
    edge.config.write_text("nonsense", encoding="utf-8")
    assert edge.process is not None
    edge.process.send_signal(signal.SIGHUP)
    wait_until(lambda: sample(edge, "grayctl_last_reread_successful") == 0, "it is told")


STATES: dict[Callable[[Edge], None], set[str]] = {
    healthy: set(),
    nginx_is_down: {"GrayctlNginxDown"},
    nginx_left_workers: {"GrayctlNginxDown", "GrayctlNginxOrphans"},
    consul_is_away: {"GrayctlConsulDown"},
    the_users_tree_is_broken: {"GrayctlHeld"},
    a_freeze_holds: {"GrayctlFreezeHolds", "GrayctlFrozen"},
    services_are_ill: {
        "GrayctlQuarantine",
        "GrayctlInstancesDropped",
        "GrayctlServicesKept",
        "GrayctlServicesRefused",
    },
    many_are_gone: {"GrayctlGuardHolds"},
    settings_are_broken: {"GrayctlRereadFailed"},
}


def sample(edge: Edge, name: str, **labels: str) -> float | None:
    """One sample of the page; None when it is not there."""
    return sample_of(edge.page("/metrics"), name, **labels)


def sample_of(page: str, name: str, **labels: str) -> float | None:
    found = [
        one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if one.name == name and one.labels == labels
    ]
    return found[0] if found else None


def settled(edge: Edge) -> str:
    """The page, when no proof is outstanding; else nothing."""
    page = edge.page("/metrics")
    proven = sample_of(page, "grayctl_generation_proven") or not sample_of(page, "grayctl_nginx_up")
    return page if proven else ""


@pytest.mark.parametrize("state", STATES, ids=lambda one: one.__name__)
def test_a_state_fires_its_alerts_and_no_other(edge: Edge, tmp_path: Path, state: Callable[[Edge], None]) -> None:
    state(edge)
    page = wait_until(lambda: settled(edge), "a proof")
    firing = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{HOURS}h",
        "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(STATES[state])],
    }
    asked = {"input_series": series(page, times=HOURS * 60), "promql_expr_test": [firing]}
    done = judge(tmp_path, "1m", asked, RULES)
    assert done.returncode == 0, done.stdout + done.stderr
