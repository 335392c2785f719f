"""The main job, end to end: real Consul, real nginx, `grayctl run` between them."""

import signal
import threading
import time
from functools import partial

from tests.support.edge import Edge
from tests.support.process import start, stop, wait_until


def test_a_registration_is_served_and_a_deregistration_is_not(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    edge.backend("b", version="v2")
    wait_until(lambda: edge.serves("a", "b"), "both serve")
    edge.consul.deregister("a")
    wait_until(lambda: edge.serves("b"), "b serves alone")


def test_weights_make_the_shares(edge: Edge) -> None:
    edge.backend("a", weight=3)
    edge.backend("b", version="v2", weight=1)
    edge.up()
    wait_until(lambda: edge.serves("a", "b"), "both serve")
    # two workers share the upstream's zone, so round robin is exact over the whole
    wait_until(lambda: edge.served(80) == {"a": 60, "b": 20}, "three to one")
    edge.backend("b", version="v2", weight=3)
    wait_until(lambda: edge.served(60) == {"a": 30, "b": 30}, "the new weight serves")


def test_health_decides_and_the_last_known_stay(edge: Edge) -> None:
    edge.backend("a")
    edge.backend("b")
    edge.up()
    wait_until(lambda: edge.serves("a", "b"), "both serve")
    edge.consul.set_check("a", "critical")
    wait_until(lambda: edge.serves("b"), "a critical instance leaves")
    edge.consul.set_check("b", "critical")
    wait_until(lambda: (edge.status() or {})["services"][0]["serving"] == "kept", "the last known is kept")
    assert edge.serves("b")
    edge.consul.set_check("a", "passing")
    wait_until(lambda: edge.serves("a"), "a healthy one ends it")


def test_an_unchanged_result_never_reloads(edge: Edge) -> None:
    """The output of a check wakes Consul's blocking queries (FACTS), and must not reach nginx."""
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    before, workers = edge.generation(), edge.nginx.children()
    for number in range(10):
        edge.consul.set_check("a", "passing", output=f"output {number}")
    edge.backend("a")
    edge.backend("b", health="critical")
    wait_until(lambda: (edge.status() or {})["services"][0]["registered"] == 2, "the new registration was heard")
    assert edge.generation() == before
    assert edge.nginx.children() == workers


def test_nothing_is_applied_before_everything_has_answered(edge: Edge) -> None:
    """Consul away at the start: what is on disk serves, the daemon waits and says so."""
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    before = edge.generation()
    edge.down()
    address = edge.consul.address
    nowhere = "http://127.0.0.1:9"
    edge.config.write_text(edge.config.read_text().replace(address, nowhere))
    edge.run()
    wait_until(lambda: ((edge.status() or {})["consul"] or {}).get("last_error"), "it says that Consul is away")
    assert edge.page("/readyz") == ""
    assert (edge.generation(), edge.serves("a")) == (before, True)
    edge.config.write_text(edge.config.read_text().replace(nowhere, address))
    assert edge.process is not None
    edge.process.send_signal(signal.SIGHUP)
    wait_until(lambda: edge.page("/readyz") == "ready\n", "it catches up")
    assert edge.generation() == before


def test_a_bad_template_of_one_service_quarantines_it_alone(edge: Edge) -> None:
    templates = edge.folder / "templates"
    (templates / "services").mkdir(parents=True)
    edge.configure(top=f'templates_dir = "{templates}"', watch='services = ["shop", "other"]')
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    own = templates / "services" / "shop.conf.j2"
    own.write_text("bogus_directive on;\n", encoding="utf-8")
    done = edge.cli("render")
    assert done.returncode == 1
    assert 'unknown directive "bogus_directive"' in done.stderr
    edge.backend("b")
    assert edge.serves("a")
    edge.consul.register("other", "other-1", "127.0.0.1", 9, version="v1")
    try:
        wait_until(
            lambda: {one["service"]: one["serving"] for one in (edge.status() or {})["services"]}["other"] == "live",
            "the other service moves on",
        )
        quarantined = {one["service"]: one["quarantine"] for one in (edge.status() or {})["services"]}
        assert "bogus_directive" in quarantined["shop"]
        assert edge.serves("a")
        own.unlink()
        assert edge.cli("render").returncode == 0
        assert edge.serves("a", "b")
    finally:
        edge.consul.deregister("other-1")
    assert [one["service"] for one in edge.events("quarantined")] == ["shop"]
    assert [one["service"] for one in edge.events("quarantine_left")] == ["shop"]


def test_the_users_own_broken_tree_is_named_and_nobody_is_quarantined(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    edge.nginx.server_extra = "no_such_directive on;"
    edge.nginx.write_conf()
    edge.backend("b")
    held = wait_until(lambda: edge.events("held"), "the change is held")[0]
    assert held["by"] == "user-config"
    assert "no_such_directive" in held["reason"]
    assert 'grayctl_held{by="user-config"} 1.0' in edge.page("/metrics")
    assert not any(one["quarantine"] for one in (edge.status() or {})["services"])
    assert edge.serves("a")
    edge.nginx.server_extra = ""
    edge.nginx.write_conf()
    wait_until(lambda: edge.serves("a", "b"), "it goes on by itself once the tree is mended")


def test_a_reload_that_nginx_refuses_is_rolled_back_and_said(edge: Edge) -> None:
    """`nginx -t` and the signal succeed, yet the master refuses: the key of a zone changed (FACTS)."""
    edge.nginx.http_extra = "limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;"
    edge.nginx.write_conf()
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    before = edge.generation()
    edge.nginx.http_extra = "limit_req_zone $remote_addr zone=one:1m rate=1000r/s;"
    edge.nginx.write_conf()
    edge.backend("b")
    rolled_back = wait_until(lambda: edge.events("rolled_back"), "the change is rolled back")[0]
    assert "limit_req" in rolled_back["reason"]
    assert rolled_back["restored"]
    assert edge.generation() == before
    assert edge.serves("a")
    assert "grayctl_rollbacks_total 1.0" in edge.page("/metrics")


def test_nginx_is_not_running_and_comes_later(edge: Edge) -> None:
    edge.backend("a")
    assert edge.cli("init", "--service", "shop").returncode == 0
    edge.run()
    wait_until(lambda: edge.page("/readyz") == "ready\n", "grayctl is ready")
    generation = (edge.status() or {})["generation"]
    assert generation["number"] == 1
    assert not generation["proven"]
    assert not edge.nginx.pid_file.exists()
    edge.nginx.start()
    assert edge.serves("a")
    wait_until(lambda: (edge.status() or {})["generation"]["proven"], "the new master is noticed and proven")


def test_a_second_daemon_ends_at_once_and_names_the_first(edge: Edge) -> None:
    edge.up()
    assert edge.process is not None
    done = edge.cli("run")
    assert done.returncode == 1
    assert f"pid {edge.process.pid}" in done.stderr
    assert edge.status() is not None


def test_a_daemon_that_nobody_could_command_does_not_start(edge: Edge) -> None:
    (edge.folder / "control.sock").mkdir()
    edge.cli("init")
    done = edge.cli("run")
    assert done.returncode == 1
    assert f"{edge.folder}/control.sock: cannot listen for commands: Is a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_leaves_nginx_serving(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    assert edge.down() == 0
    assert edge.serves("a")
    assert not edge.nginx.state_dir.joinpath("pending.json").exists()


def test_killed_under_churn_the_next_start_serves_the_newest(edge: Edge) -> None:
    """SIGKILL at random moments: nginx goes on, and the next daemon brings the registry's last word."""
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    for number in range(5):
        done = threading.Event()

        def churn(done: threading.Event = done, number: int = number) -> None:
            weight = 1
            while not done.wait(0.02):
                weight = weight % 50 + 1
                edge.backend("a", weight=weight, version=f"v{number}")

        thread = threading.Thread(target=churn)
        thread.start()
        time.sleep(0.3 + 0.07 * number)  # where the kill falls is the point, not that something has happened
        edge.down(signal.SIGKILL)
        done.set()
        thread.join()
        wait_until(lambda: "" not in edge.served(20), "nginx serves on without the daemon", seconds=2)
        edge.backend("b" if number % 2 else "c")
        edge.consul.deregister("c" if number % 2 else "b")
        edge.run()
        wait_until(partial(edge.serves, "a", "b" if number % 2 else "c"), "the newest serves")


def test_freeze_holds_every_change_and_unfreeze_applies_what_waited(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    assert edge.cli("freeze", "--reason", "peak hours", "--for", "1h").returncode == 0
    edge.backend("b")
    wait_until(lambda: edge.events("held"), "the change is held")
    report = edge.status() or {}
    assert report["freeze"]["reason"] == "peak hours"
    assert [one["instance"] for one in report["services"][0]["servers"]] == ["a"]
    assert edge.serves("a")
    assert edge.cli("unfreeze").returncode == 0
    wait_until(lambda: edge.serves("a", "b"), "what waited is applied")


def test_the_fleet_freezes_through_consul(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    assert edge.cli("freeze", "--fleet", "--reason", "all stop").returncode == 0
    wait_until(lambda: (edge.status() or {})["freeze"], "the daemon sees the fleet's freeze")
    edge.backend("b")
    wait_until(lambda: edge.events("held"), "the change is held")
    assert edge.serves("a")
    assert edge.cli("unfreeze", "--fleet").returncode == 0
    wait_until(lambda: edge.serves("a", "b"), "what waited is applied")


def test_generation_rollback_serves_the_old_one_and_freezes(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    old = edge.generation()
    edge.backend("b")
    wait_until(lambda: edge.serves("a", "b"), "both serve")
    done = edge.cli("generation", "rollback", str(old))
    assert done.returncode == 0, done.stderr
    assert edge.serves("a")
    assert edge.generation() > old
    assert (edge.status() or {})["freeze"]["reason"] == f"generation rollback to {old}"
    listed = edge.cli("generation", "list").stdout.splitlines()
    assert next(line for line in listed if line.startswith("*")).split()[1] == str(edge.generation())
    assert "127.0.0.1" in edge.cli("generation", "diff", str(old + 1)).stdout
    assert edge.cli("generation", "rollback", "999").returncode == 1


def test_sighup_with_broken_settings_keeps_the_old_ones(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    good = edge.config.read_text()
    edge.config.write_text(good + "\n[reload]\nmin_intervall = '1s'\n")
    assert edge.process is not None
    edge.process.send_signal(signal.SIGHUP)
    failed = wait_until(lambda: edge.events("reread_failed"), "the broken file is named")[0]
    assert "min_intervall" in failed["error"]
    assert "grayctl_last_reread_successful 0.0" in edge.page("/metrics")
    edge.config.write_text(good)
    edge.backend("b")
    wait_until(lambda: edge.serves("a", "b"), "it goes on with the old settings")


def test_render_without_a_daemon_takes_the_same_way(edge: Edge) -> None:
    edge.backend("a")
    assert edge.cli("init", "--service", "shop").returncode == 0
    edge.nginx.start()
    assert "wanted/shop" in edge.cli("render", "--diff").stdout
    assert "upstream shop.gray" in edge.cli("render", "--dry-run").stdout
    assert edge.generation() == 0
    done = edge.cli("render", "--json")
    assert done.returncode == 0, done.stderr
    assert '"outcome": "applied"' in done.stdout
    assert edge.serves("a")
    assert edge.cli("render", "--diff").stdout == ""


def test_a_command_that_cannot_reach_consul_exits_4(edge: Edge) -> None:
    assert edge.cli("init").returncode == 0
    edge.nginx.write_conf()
    edge.config.write_text(edge.config.read_text().replace(edge.consul.address, "http://127.0.0.1:9"))
    done = edge.cli("render")
    assert done.returncode == 4
    assert "127.0.0.1:9" in done.stderr


def test_one_trace_id_runs_from_the_wake_to_the_proof(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    wait_until(lambda: edge.serves("a"), "a serves")
    applied = edge.events("applied")[-1]
    manifest = edge.cli("generation", "show", str(applied["generation"]), "--json").stdout
    assert applied["trace_id"]
    assert applied["trace_id"] in manifest


def test_a_taken_metrics_port_is_reported_and_not_fatal(edge: Edge) -> None:
    holder = start(["python3", "-m", "http.server", str(edge.metrics_port), "--bind", "127.0.0.1"])
    try:
        wait_until(lambda: edge.page("/"), "the stranger listens")
        edge.backend("a")
        assert edge.cli("init", "--service", "shop").returncode == 0
        edge.nginx.start()
        edge.run()
        wait_until(lambda: edge.serves("a"), "a serves all the same")
        assert edge.events("metrics_port_taken")
    finally:
        stop(holder)
