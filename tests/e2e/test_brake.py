"""At 3 am: one command stops every change, another one shows what is going on, and neither costs a request."""

import contextlib
import itertools
import json
import os
import pwd
import signal
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from grayctl.cli import cli
from tests.support.edge import Edge
from tests.support.nginx import BINARY, Prober
from tests.support.process import start, wait_until

ME = pwd.getpwuid(os.getuid()).pw_name


@contextlib.contextmanager
def flapping(edge: Edge, name: str) -> Iterator[None]:
    """The weight of an instance changes twenty times a second."""
    done, weights = threading.Event(), itertools.cycle((1, 2))

    def flap() -> None:
        while not done.wait(0.05):
            edge.backend(name, weight=next(weights))

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def serving(edge: Edge) -> Edge:
    """A node that serves the instances a and b."""
    edge.backend("a")
    edge.backend("b")
    edge.up()
    wait_until(lambda: edge.serves("a", "b"), "both are served")
    return edge


def test_one_command_stops_all_changes_one_shows_it_and_one_lets_them_through(serving: Edge) -> None:
    edge = serving
    with Prober(edge.nginx, "/") as prober:
        with flapping(edge, "a"):
            wait_until(lambda: len(edge.events("applied")) >= 3, "changes are served one after another")
            done = edge.cli("freeze", "--reason", "release went wrong")
            assert done.returncode == 0, done.stderr
            stands, workers = edge.generation(), edge.nginx.children()
            applied = len(edge.events("applied"))
            wait_until(lambda: edge.events("held"), "a change is held")
            edge.consul.deregister("b")
            wait_until(lambda: (edge.status() or {})["services"][0]["registered"] == 1, "the daemon hears of b's end")
        assert edge.generation() == stands
        assert set(edge.nginx.children()) <= set(workers), "no worker is new"
        assert len(edge.events("applied")) == applied
        assert edge.serves("a", "b"), "what stood is what is served"

        # the registration is heard at once, what it comes to is worked out when it is due
        wait_until(lambda: "not applied yet: 1 servers, live" in edge.cli("status").stdout, "b's end is worked out")
        shown = edge.cli("status").stdout
        assert f"FROZEN      this node by {ME}, " in shown
        assert " ago, until `grayctl unfreeze`: release went wrong" in shown
        assert f"last        held at generation {stands} (freeze): release went wrong" in shown
        assert 'grayctl_held{by="freeze"} 1.0' in edge.page("/metrics")

        assert edge.cli("unfreeze").returncode == 0
        wait_until(lambda: edge.serves("a"), "what waited is served")
        assert edge.generation() == stands + 1
        assert "FROZEN" not in edge.cli("status").stdout
    assert len(prober.bodies) > 20
    assert prober.failed == 0
    assert [one["author"] for one in (*edge.events("frozen"), *edge.events("unfrozen"))] == [ME, ME]


def test_a_freeze_has_taken_hold_when_the_command_returns(serving: Edge) -> None:
    """A change that was under way is finished first, so nothing moves any more after it."""
    edge = serving
    asked, go = edge.folder / "asked", edge.folder / "go"
    slow = edge.folder / "slow-nginx"
    wait = f"touch {asked}; while [ ! -e {go} ]; do sleep 0.02; done"
    slow.write_text(f'#!/bin/sh\n[ "$1" != -t ] || {{ {wait}; }}\nexec {BINARY} "$@"\n')
    slow.chmod(0o755)
    go.touch()
    edge.down()
    edge.nginx.binary = str(slow)
    edge.configure()
    edge.run()
    wait_until(lambda: edge.page("/readyz") == "ready\n", "grayctl is ready")
    before = edge.generation()
    asked.unlink(missing_ok=True)
    go.unlink()
    edge.consul.deregister("b")
    wait_until(asked.exists, "the change is being checked")
    freeze = start(edge.command("freeze"))
    wait_until(lambda: edge.events("frozen"), "the brake is pulled")
    assert freeze.poll() is None, "the command waits for the change under way"
    go.touch()
    assert freeze.wait(30) == 0
    assert edge.generation() == before + 1
    edge.backend("c")
    wait_until(lambda: edge.events("held"), "the next change is held")
    assert edge.generation() == before + 1
    assert edge.serves("a")


def test_a_rollback_goes_back_and_stays_there_until_unfreeze(serving: Edge) -> None:
    edge = serving
    good = edge.generation()
    edge.backend("bad")
    wait_until(lambda: edge.serves("a", "b", "bad"), "the newcomer is served")
    with Prober(edge.nginx, "/") as prober:
        done = edge.cli("generation", "rollback", str(good))
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("nothing that nginx serves is changed until `grayctl unfreeze`\n")
        assert edge.serves("a", "b"), "served when the command returns"
        back = edge.generation()
        edge.consul.deregister("a")
        wait_until(lambda: edge.events("held"), "the next change is held")
        assert edge.generation() == back
        shown = edge.cli("status").stdout
        assert f"FROZEN      this node by {ME}, " in shown
        assert f"generation rollback to {good}" in shown
        assert edge.cli("unfreeze").returncode == 0
        wait_until(lambda: edge.serves("b", "bad"), "unfrozen, it serves what Consul says")
    assert prober.failed == 0


def test_a_daemon_that_hangs_finds_the_brake_pulled(serving: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = serving
    assert edge.process is not None
    monkeypatch.setattr("grayctl.cli.common._PATIENCE", 0.5)
    monkeypatch.setattr("grayctl.cli.common._PATIENCE_TO_LOOK", 0.5)
    edge.process.send_signal(signal.SIGSTOP)
    edge.consul.deregister("b")
    done = CliRunner().invoke(cli, ["--config", str(edge.config), "freeze", "--reason", "it hangs"])
    assert done.exit_code == 4
    assert "frozen, but a change under way may still end" in done.output
    looked = CliRunner().invoke(cli, ["--config", str(edge.config), "status"])
    assert looked.exit_code == 0
    assert "no daemon answers" in looked.output
    assert "it hangs" in looked.output
    edge.process.send_signal(signal.SIGCONT)
    wait_until(lambda: (edge.status() or {})["services"][0]["registered"] == 1, "it hears of b's end")
    wait_until(lambda: "(freeze): it hangs" in edge.cli("status").stdout, "and holds it")
    assert edge.serves("a", "b")


def test_a_damaged_generation_hides_no_other_and_cannot_be_gone_back_to(serving: Edge) -> None:
    edge = serving
    edge.backend("c")
    wait_until(lambda: edge.serves("a", "b", "c"), "a second generation is served")
    stands = edge.generation()
    damaged = edge.nginx.state_dir / "generations" / f"{stands - 1:06d}" / "manifest.json"
    damaged.write_text("{", encoding="utf-8")
    listed = edge.cli("generation", "list")
    assert listed.returncode == 0, listed.stderr
    assert f"! {damaged}: the manifest is damaged" in listed.stdout
    assert f"* {stands:6d}  " in listed.stdout
    found = json.loads(edge.cli("generation", "list", "--json").stdout)
    assert [one["current"] for one in found if "manifest" in one][-1]
    assert [str(damaged) in one["damaged"] for one in found if "damaged" in one] == [True]
    done = edge.cli("generation", "rollback", str(stands - 1))
    assert done.returncode == 1
    assert str(damaged) in done.stderr
    assert (edge.status() or {})["freeze"] is None, "nothing was done"


def test_the_brake_outlives_the_daemon_and_shows_without_it(serving: Edge) -> None:
    edge = serving
    assert edge.cli("freeze", "--reason", "night shift").returncode == 0
    edge.down()
    shown = edge.cli("status").stdout
    assert "no daemon answers" in shown
    assert f"this node by {ME}" in shown
    assert "night shift" in shown
    edge.consul.deregister("b")
    edge.run()
    wait_until(lambda: edge.events("held"), "the next daemon finds the brake pulled")
    assert edge.serves("a", "b")


def test_what_people_wrote_can_neither_break_status_nor_steer_the_terminal(serving: Edge) -> None:
    edge = serving
    assert edge.cli("freeze", "--reason", "see [/ticket] [red]42\x1b[2J").returncode == 0
    edge.consul.register("shop", "[red]x", "no address", 80)
    try:
        wait_until(lambda: edge.events("held") or (edge.status() or {})["services"][0]["dropped"], "it is heard of")
        done = edge.cli("status")
        assert done.returncode == 0, done.stderr
        assert "see [/ticket] [red]42\\x1b[2J" in done.stdout
        assert "shop: [red]x: dropped: address 'no address'" in done.stdout
        assert "\x1b" not in done.stdout
    finally:
        edge.consul.deregister("[red]x")


def test_releasing_a_node_says_that_the_fleet_is_still_frozen(serving: Edge) -> None:
    edge = serving
    assert edge.cli("freeze", "--fleet", "--reason", "all stop").returncode == 0
    wait_until(lambda: (edge.status() or {})["freeze"], "the daemon sees it")
    assert f"the fleet by {ME} on edge-test, " in edge.cli("status").stdout
    assert edge.cli("freeze").returncode == 0
    done = edge.cli("unfreeze")
    assert done.returncode == 0
    assert f"the fleet is frozen by {ME} on edge-test: all stop" in done.stdout
    assert "grayctl unfreeze --fleet" in done.stdout
    assert edge.cli("unfreeze", "--fleet").returncode == 0
    wait_until(lambda: not (edge.status() or {})["freeze"], "nothing is frozen any more")
