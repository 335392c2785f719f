"""Nginx's configuration, its ports and its binary are broken under grayctl by their owner, and mended."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.edge import Edge
from tests.support.nginx import BINARY
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until

# ------------------------------------------------------------ its owner breaks it


@pytest.mark.fault("nginx", "its owner breaks nginx.conf, then mends it")
def test_owners_tree_broken(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10), ordeal.cold.resting():
        edge.nginx.server_extra = "no_such_directive on;"
        edge.nginx.write_conf()
        ordeal.change()
        held = wait_until(lambda: edge.events("held"), "the change is held")[0]
        assert (held["by"], "no_such_directive" in held["reason"]) == ("user-config", True)
        assert not edge.events("quarantined")
        edge.nginx.server_extra = ""
        edge.nginx.write_conf()


@pytest.mark.fault("nginx", "its owner breaks nginx.conf while a service is bad too")
def test_owners_tree_and_a_service_broken(ordeal: Ordeal) -> None:
    """Nobody is blamed while the owner's tree is broken; when it is mended, the service that is bad, and it alone."""
    edge = ordeal.edge
    own = edge.folder / "templates" / "services" / "other.conf.j2"
    own.parent.mkdir(parents=True)
    edge.configure(top=f'templates_dir = "{edge.folder}/templates"', watch='services = ["shop", "other"]')
    edge.consul.register("other", "other-1", "127.0.0.1", 9)
    try:
        ordeal.begin()
        with ordeal.endured(within=10):
            with ordeal.cold.resting():
                edge.nginx.server_extra = "no_such_directive on;"
                edge.nginx.write_conf()
                own.write_text("another_one on;\n", encoding="utf-8")
                edge.hang_up()
                wait_until(lambda: edge.events("reread"), "the template is read")
                ordeal.change()
                wait_until(lambda: edge.events("held"), "everything is held")
                assert not edge.events("quarantined")
                edge.nginx.server_extra = ""
                edge.nginx.write_conf()
            wait_until(lambda: edge.serves(*edge.backends), "the others move on")
            bad = wait_until(lambda: edge.events("quarantined"), "the one that is bad is named")
            assert [one["service"] for one in bad] == ["other"]
            own.unlink()
            edge.hang_up()
            wait_until(lambda: edge.events("quarantine_left"), "it is mended too")
    finally:
        edge.consul.deregister("other-1")


@pytest.mark.fault("nginx", "its owner adds a listen on a port that is taken, then the port is freed")
def test_listen_taken(ordeal: Ordeal) -> None:
    """`nginx -t` passes, the master refuses the reload; whether the port is free can be tried without another one."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10), socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        edge.nginx.http_extra = f"server {{ listen 127.0.0.1:{port}; return 204; }}"
        edge.nginx.write_conf()
        ordeal.change()
        rolled_back = wait_until(lambda: edge.events("rolled_back"), "the change is taken back")[0]
        assert f"127.0.0.1:{port}" in rolled_back["reason"]


@pytest.mark.fault("nginx", "its owner changes what no reload can, then takes it back")
def test_zone_key_changed(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    zone = "limit_req_zone {} zone=one:1m rate=1000r/s;"
    edge.nginx.http_extra = zone.format("$binary_remote_addr")
    edge.nginx.write_conf()
    ordeal.begin()
    with ordeal.endured(within=10):
        edge.nginx.http_extra = zone.format("$remote_addr")
        edge.nginx.write_conf()
        ordeal.change()
        wait_until(lambda: edge.events("rolled_back"), "the change is taken back")
        edge.nginx.http_extra = zone.format("$binary_remote_addr")
        edge.nginx.write_conf()


@pytest.mark.parametrize(
    "came_back",
    [
        fault("nginx", "the marker's new port is a stranger's, then free", ""),
        fault("nginx", "the marker's new port is a stranger's when grayctl starts, then free", "restarted"),
    ],
)
def test_marker_port_taken(ordeal: Ordeal, came_back: str) -> None:
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = came_back or None
    with ordeal.endured(within=10), socket.create_server(("127.0.0.1", 0)) as stranger:
        edge.nginx.marker = stranger.getsockname()[1]
        edge.configure()
        if came_back:
            edge.down()
            edge.run()
        else:
            edge.hang_up()
        ordeal.change()
        rejected = wait_until(lambda: edge.events("rejected"), "the change is rejected")[0]
        assert f"127.0.0.1:{edge.nginx.marker}" in rejected["reason"]


@pytest.mark.fault("nginx", "its working_directory vanishes, then comes back")
def test_working_directory_gone(ordeal: Ordeal) -> None:
    """`nginx -t` passes, and every worker of the next reload would die: so there is none."""
    edge = ordeal.edge
    folder = edge.folder / "cwd"
    folder.mkdir()
    edge.nginx.main_extra = f"working_directory {folder};"
    edge.nginx.write_conf()
    ordeal.begin()
    with ordeal.endured(within=10):
        folder.rmdir()
        ordeal.change()
        held = wait_until(lambda: edge.events("held"), "the change is held")[0]
        assert (held["by"], str(folder) in held["reason"]) == ("user-config", True)
        folder.mkdir()


@pytest.mark.fault("nginx", "its owner's reload kills every worker, then what they miss comes back")
def test_every_worker_dead(ordeal: Ordeal) -> None:
    """The master lives and respawns nobody: only another signal brings workers back."""
    edge = ordeal.edge
    folder = edge.folder / "cwd"
    folder.mkdir()
    edge.nginx.main_extra = f"working_directory {folder};"
    edge.nginx.write_conf()
    ordeal.begin()
    with ordeal.endured(within=10), ordeal.prober.resting():
        folder.rmdir()
        edge.nginx.reload()
        wait_until(lambda: not edge.nginx.children(), "every worker is dead")
        ordeal.change()
        wait_until(lambda: edge.noticed("unproven"), "it is noticed")
        folder.mkdir()
        wait_until(lambda: edge.serves(*edge.backends), "it serves again", seconds=30)


# ------------------------------------------------------------ `nginx -t`


def wrapper(edge: Edge, on_test: str) -> Path:
    """An nginx.binary that runs a shell command before each `nginx -t` while the file `<folder>/fault` exists."""
    path = edge.folder / "wrapped-nginx"
    path.write_text(f'#!/bin/sh\n[ "$1" != -t ] || [ ! -e {edge.folder}/fault ] || {on_test}\nexec {BINARY} "$@"\n')
    path.chmod(0o755)
    edge.nginx.binary = str(path)
    return edge.folder / "fault"


@pytest.mark.fault("nginx", "`nginx -t` takes 3 s")
def test_slow_check(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    slow = wrapper(edge, "sleep 3")
    edge.configure()
    ordeal.begin()
    with ordeal.endured(within=20):
        slow.touch()
        ordeal.change()
        wait_until(lambda: edge.serves(*edge.backends), "the change is served, late")
        slow.unlink()


@pytest.mark.fault("nginx", "`nginx -t` hangs, and ends again")
def test_hanging_check(ordeal: Ordeal) -> None:
    """It is killed after nginx.check_timeout, 2 s here; no service is blamed."""
    edge = ordeal.edge
    hanging = wrapper(edge, "sleep 1000")
    edge.configure(nginx='check_timeout = "2s"')
    ordeal.begin()
    with ordeal.endured(within=20):
        hanging.touch()
        ordeal.change()
        held = wait_until(lambda: edge.events("held"), "the change is held")[0]
        assert "did not end within 2 s" in held["reason"]
        hanging.unlink()
    assert not edge.events("quarantined")


@pytest.mark.fault("nginx", "its binary is moved away, then put back")
def test_binary_missing(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    link = edge.folder / "linked-nginx"
    link.symlink_to(BINARY)
    edge.nginx.binary = str(link)
    edge.configure()
    ordeal.begin()
    with ordeal.endured(within=10):
        link.unlink()
        ordeal.change()
        held = wait_until(lambda: edge.events("held"), "the change is held")[0]
        assert (held["by"], str(link) in held["reason"]) == ("nginx", True)
        link.symlink_to(BINARY)


# ------------------------------------------------------------ grayctl starts over it


def _move(path: Path) -> Callable[[], object]:
    """Move a file away; returns what puts it back."""
    away = path.rename(f"{path}.away")
    return lambda: away.rename(path)


def _garble(path: Path) -> Callable[[], object]:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("http {", "http {{", 1), encoding="utf-8")
    return lambda: path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "spoil",
    [
        fault("nginx", "nginx.conf cannot be read while grayctl starts, then it can", _garble),
        fault("nginx", "nginx.conf is missing while grayctl starts, then it is there", _move),
    ],
)
def test_configuration_unreadable_at_the_start(ordeal: Ordeal, spoil: Callable[[Path], Callable[[], object]]) -> None:
    """It says so on every face that it has, and begins when it can."""
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        with ordeal.cold.resting():
            edge.down()
            mend = spoil(edge.nginx.conf)
            edge.run()
            said = wait_until(lambda: edge.events("cannot_begin"), "it says why it cannot begin")
            assert str(edge.nginx.conf) in said[0]["error"]
            ordeal.change()
            mend()
        wait_until(lambda: edge.events("assembled"), "it has begun")


@pytest.mark.fault("nginx", "its binary is missing while grayctl starts, then it is there")
def test_binary_missing_at_the_start(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    link = edge.folder / "linked-nginx"
    link.symlink_to(BINARY)
    edge.nginx.binary = str(link)
    edge.configure()
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        edge.down()
        link.unlink()
        edge.run()
        said = wait_until(lambda: edge.events("cannot_begin"), "it says why it cannot begin")
        assert str(link) in said[0]["error"]
        ordeal.change()
        link.symlink_to(BINARY)


# ------------------------------------------------------------ its logs


@pytest.mark.fault("nginx", "its error log is rotated under churn, before nginx knows and after")
def test_log_rotated(ordeal: Ordeal) -> None:
    """As logrotate does it: renamed, then SIGUSR1. A proof reads the old file to its end, and then the new one."""
    edge = ordeal.edge
    log = edge.nginx.error_log
    ordeal.begin()
    with ordeal.endured(within=10):
        for number in range(8):
            edge.backend("during", version=f"v{number}")
            wait_until(lambda: ordeal.under_way, "an activation is under way", interval=0.001)
            log.rename(f"{log}.{number}")
            os.kill(edge.nginx.pid, signal.SIGUSR1)
            wait_until(log.exists, "the log is opened anew")
            wait_until(lambda: not ordeal.under_way, "the activation is over")
    assert not edge.events("rolled_back")


@pytest.mark.fault("nginx", "its error log is deleted, and nginx writes on into nothing")
def test_log_deleted(ordeal: Ordeal) -> None:
    """What nginx says is lost then; its workers and the marker still prove a generation."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        edge.nginx.error_log.unlink()
        ordeal.change()
        wait_until(lambda: edge.serves(*edge.backends), "the change is served all the same")
