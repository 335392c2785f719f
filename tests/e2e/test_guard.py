"""Guards and names over a whole node: what is absent all at once, and names that end."""

import signal
from pathlib import Path

from tests.support.edge import Edge
from tests.support.process import wait_until

GUARD = '[guard]\nmin_instances = 4\nhold = "1h"\n'


def _absent(edge: Edge, *names: str) -> None:
    for name in names:
        edge.consul.deregister(name)


def test_a_mass_disappearance_is_kept_until_somebody_accepts_it(edge: Edge) -> None:
    edge.configure(more=f'{GUARD}[reload]\nmin_interval = "2s"\n')
    names = ("a", "b", "c", "d", "f")
    for name in names:
        edge.backend(name)
    edge.up()
    wait_until(lambda: edge.serves(*names), "all five are served")
    before = len(edge.events("applied"))
    edge.backend("a", weight=2)
    wait_until(lambda: len(edge.events("applied")) > before, "what comes soon after it is taken together")
    _absent(edge, "b", "c", "d", "f")
    wait_until(lambda: (edge.status() or {})["guard"], "the guard holds")
    assert edge.serves(*names)
    edge.backend("e")
    wait_until(lambda: edge.serves(*names, "e"), "a newcomer is served beside the kept ones")
    report = edge.status()
    assert report is not None
    assert (report["guard"]["lost"], report["guard"]["known"]) == (3, 5)
    assert 'grayctl_guarded_instances{service="shop"} 4.0' in edge.page("/metrics")
    accepted = edge.cli("guard", "accept")
    assert accepted.returncode == 0, accepted.stderr
    assert edge.serves("a", "e")
    assert (edge.status() or {})["guard"] is None
    assert edge.cli("guard", "accept").stdout == "the guard holds nothing\n"


def test_the_hold_ends_by_itself_and_survives_a_restart_as_a_new_one(edge: Edge) -> None:
    edge.configure(more=GUARD)
    names = ("a", "b", "c", "d")
    for name in names:
        edge.backend(name)
    edge.up()
    wait_until(lambda: edge.serves(*names), "all four are served")
    edge.down()
    _absent(edge, "a", "b", "c")
    edge.configure(more=GUARD.replace("1h", "10s"))
    edge.run()
    wait_until(lambda: edge.events("guard_holds"), "what was served before the restart is missed")
    assert edge.serves(*names)
    wait_until(lambda: edge.serves("d"), "after the hold it is believed, without any event")
    wait_until(lambda: edge.events("guard_released"), "and told")


def test_critical_by_their_own_check_leave_at_once_however_many(edge: Edge) -> None:
    edge.configure(more=GUARD)
    names = ("a", "b", "c", "d")
    for name in names:
        edge.backend(name)
    edge.up()
    wait_until(lambda: edge.serves(*names), "all four are served")
    for name in names[1:]:
        edge.consul.set_check(name, "critical")
    wait_until(lambda: edge.serves("a"), "the critical ones are out")
    assert not edge.events("guard_holds")


def test_a_name_stays_until_it_is_forgotten(edge: Edge) -> None:
    edge.configure(watch='services = ["sho*"]')
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "served")
    refused = edge.cli("forget", "shop")
    assert refused.returncode == 1
    assert "deregister them first" in refused.stderr
    edge.consul.deregister("a")
    wait_until(lambda: (edge.status() or {})["services"][0]["serving"] == "kept", "its last instance stays")
    wait_until(lambda: (edge.status() or {})["consul"]["services_watched"] == 0, "it is followed no more")
    in_use = edge.cli("forget", "shop")
    assert in_use.returncode == 1
    assert 'unknown "gray_shop" variable' in in_use.stderr
    assert "remove those lines" in in_use.stderr
    assert edge.serves("a")
    conf = edge.nginx.conf
    conf.write_text(
        conf.read_text().replace('"$gray_shop\\n"', '"none\\n"').replace("http://$gray_shop", "http://unix:/x")
    )
    gone = edge.cli("forget", "shop")
    assert gone.returncode == 0, gone.stderr
    assert (edge.status() or {})["services"] == []
    assert not list(Path(edge.nginx.state_dir, "current/snippets/").glob("*.conf"))
    edge.down()
    edge.run()
    wait_until(lambda: edge.page("/readyz") == "ready\n", "ready again")
    assert (edge.status() or {})["services"] == []
    assert "published are: none" in edge.cli("forget", "shop").stderr


def test_a_daemon_that_cannot_begin_says_so_and_begins_when_it_can(edge: Edge) -> None:
    edge.cli("init", "--service", "shop")
    edge.nginx.start()
    edge.backend("a")
    good = edge.nginx.conf.read_text()
    edge.nginx.conf.write_text(good + "\n}")
    edge.run()
    wait_until(lambda: "unexpected" in str((edge.status() or {}).get("warnings")), "it says why it cannot begin")
    assert "unexpected" in edge.cli("status").stdout
    assert edge.cli("render").returncode == 1
    assert 'grayctl_held{by="nginx"} 1.0' in edge.page("/metrics")
    edge.nginx.conf.write_text(good)
    wait_until(lambda: edge.serves("a"), "it began by itself")
    assert edge.down(signal.SIGTERM) == 0


def test_the_node_reports_what_it_serves(edge: Edge) -> None:
    key = f"{edge.folder.name}/nodes/edge-test"
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "served")
    wait_until(lambda: b'"generation":1' in (edge.consul.get(key) or b""), "the report names the generation")
    assert edge.down() == 0
    assert edge.consul.get(key), "nginx serves on, and so its report stays"
