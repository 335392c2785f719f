"""grayctl as a service: a real systemd is booted, and in it the units do what they say."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.consul import REPOSITORY
from tests.support.machine import demand_machine
from tests.support.process import wait_until
from tests.systemd.node import UNITS, Node

_CACHE = "/var/cache/nginx/shop"
_FLIPPED = "no mount namespace"
_UNKNOWN = "may be nginx's master"
# What stays open -> how it is closed, what makes nginx need it, and the words of docs/systemd.md for what happens then.
OPEN = {
    "CAP_SYS_ADMIN": ("CapabilityBoundingSet=~CAP_SYS_ADMIN", "", _FLIPPED),
    "mount": ("SystemCallFilter=~mount", "", _FLIPPED),
    "RestrictNamespaces=mnt": ("RestrictNamespaces=true", "", _FLIPPED),
    "CAP_NET_BIND_SERVICE": (
        "CapabilityBoundingSet=~CAP_NET_BIND_SERVICE",
        "",
        "bind() to 0.0.0.0:80 failed (13: Permission denied)",
    ),
    "CAP_DAC_OVERRIDE": (
        "CapabilityBoundingSet=~CAP_DAC_OVERRIDE",
        "chown www-data:adm /var/log/nginx/*; chmod 640 /var/log/nginx/*",
        'open() "/var/log/nginx/error.log" failed (13: Permission denied)',
    ),
    "CAP_CHOWN": (
        "CapabilityBoundingSet=~CAP_CHOWN",
        f"rm -r {_CACHE}",
        f'chown("{_CACHE}", 33) failed (1: Operation not permitted)',
    ),
    "CAP_FOWNER": (
        "CapabilityBoundingSet=~CAP_FOWNER",
        f"chmod 500 {_CACHE}",
        f'chmod() "{_CACHE}" failed (1: Operation not permitted)',
    ),
    "CAP_SYS_PTRACE": ("CapabilityBoundingSet=~CAP_SYS_PTRACE", "", _UNKNOWN),
    "ProtectSystem=full": (
        "ProtectSystem=strict",
        "",
        'open() "/var/log/nginx/error.log" failed (30: Read-only file system)',
    ),
    "PrivateUsers": ("PrivateUsers=true", "", _UNKNOWN),
}

PAGE = (REPOSITORY / "docs" / "systemd.md").read_text(encoding="utf-8")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A machine that is up, with everything installed and nothing started."""
    demand_machine()
    one = Node(tmp_path)
    try:
        yield one
    finally:
        one.close()


def capabilities(mask: str) -> set[int]:
    return {number for number in range(64) if int(mask, 16) >> number & 1}


def tells(node: Node, words: str) -> bool:
    """Whether `grayctl status` shows what the page says in these words."""
    report = node.status()
    return report["nginx"]["staging"] == "flip" if words == _FLIPPED else words in report["last_outcome"]


def serves(node: Node, weight: int) -> bool:
    """Whether instance a has this weight, and candidates are checked in a namespace."""
    return node.status()["nginx"]["staging"] == "namespace" and node.shares(weight + 1) == {"a": weight, "b": 1}


def test_a_service_that_changes_what_nginx_serves_from_inside_its_sandbox(node: Node) -> None:
    node.up()
    assert node.show("grayctl", "ActiveState") == "active"
    assert node.status()["nginx"]["staging"] == "namespace"
    assert node.of_process("NoNewPrivs") == "1"
    assert node.of_process("Seccomp") == "2"
    # CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_PTRACE, SYS_ADMIN: capability.h
    assert capabilities(node.of_process("CapEff")) == {0, 1, 3, 10, 19, 21}

    node.weigh("b", 3)
    wait_until(lambda: node.shares() == {"a": 20, "b": 20}, "the new weight is served")
    wait_until(lambda: "is served" in node.show("grayctl", "StatusText"), "systemctl status tells of it")
    assert node.status()["last_outcome"] in node.run("systemctl", "status", "grayctl").stdout
    applied = [json.loads(line) for line in node.journal("grayctl").splitlines() if '"applied"' in line]
    assert applied[-1]["changed"] == ["shop"]

    node.run("systemctl", "stop", "grayctl")
    assert node.show("grayctl", "Result") == "success"
    assert node.shares() == {"a": 20, "b": 20}, "nginx serves on"


def test_it_is_active_once_the_first_change_is_served(node: Node) -> None:
    node.beside()
    node.register()
    node.run("systemctl", "start", "grayctl")
    assert node.shares() == {"a": 30, "b": 10}, "with no wait after the start"
    assert node.show("grayctl", "StatusText") == "generation 1 is served (1 services changed)"


def test_without_consul_its_start_takes_no_longer_than_ten_seconds(node: Node) -> None:
    """What waits for it at boot goes on; nginx serves what stands, here the refusals of generation 0."""
    node.beside()
    node.run("systemctl", "start", "--no-block", "grayctl")
    wait_until(lambda: node.show("grayctl", "StatusText") == "waiting for a complete catalog from Consul", "it waits")
    assert node.show("grayctl", "ActiveState") == "activating"
    wait_until(lambda: node.show("grayctl", "ActiveState") == "active", "it waits no more")
    assert node.show("grayctl", "StatusText") == "waiting for a complete catalog from Consul"
    node.register()
    wait_until(lambda: node.shares() == {"a": 30, "b": 10}, "Consul came, and is heard", seconds=30)
    assert node.show("grayctl", "NRestarts") == "0"


def test_the_group_may_read_and_not_act(node: Node) -> None:
    node.up()
    member = ("setpriv", "--reuid=nobody", "--regid=grayctl", "--clear-groups", "grayctl")
    stranger = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "grayctl")
    assert node.run(*member, "status", "--json").stdout.startswith("{")
    assert json.loads(node.run(*member, "status", "--json").stdout)["daemon"]
    assert node.run(*member, "freeze", check=False).returncode != 0
    assert node.run(*stranger, "status", check=False).returncode != 0
    assert node.path("/var/lib/grayctl").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("drop_in", "staging"), [("no-namespace.conf", "flip"), ("strict.conf", "namespace")])
def test_a_tighter_sandbox_serves_too(node: Node, drop_in: str, staging: str) -> None:
    node.drop_in((UNITS / "drop-ins" / drop_in).read_text(encoding="utf-8"))
    node.up()
    assert node.status()["nginx"]["staging"] == staging
    node.weigh("b", 3)
    wait_until(lambda: node.shares() == {"a": 20, "b": 20}, "the new weight is served")


def test_what_stays_open_has_to(node: Node) -> None:
    """Each is closed in turn: what the page says happens, and is over when it is open again."""
    node.up()
    weight = 3
    for name, (closed, before, words) in OPEN.items():
        assert re.search(rf"^\|[^|]*`{re.escape(name)}`[^|]*\|.*{re.escape(words)}", PAGE, re.MULTILINE), name
        node.run("sh", "-c", before)
        node.drop_in(f"[Service]\n{closed}\n")
        node.run("systemctl", "restart", "grayctl")
        weight += 1
        node.weigh("a", weight)
        wait_until(partial(tells, node, words), f"without {name}: {words}")
        node.drop_in("")
        node.run("systemctl", "restart", "grayctl")
        wait_until(partial(serves, node, weight), f"all is well with {name} again")


def test_a_restart_of_nginx_in_the_middle_of_an_activation_is_survived(node: Node) -> None:
    """The journal of the activation is there when nginx is told to stop."""
    node.up()
    daemon, pending = node.main_pid(), node.path("/var/lib/grayctl/pending.json")
    weight = 3
    for _ in range(3):
        weight += 1
        node.weigh("a", weight)
        wait_until(pending.exists, "an activation is under way", interval=0.001)
        node.run("systemctl", "restart", "nginx")
    wait_until(lambda: node.shares(10 * (weight + 1)) == {"a": 10 * weight, "b": 10}, "the last weight is served")
    wait_until(lambda: node.status()["generation"]["proven"], "and proven")
    assert (node.main_pid(), node.show("grayctl", "NRestarts")) == (daemon, "0")


def test_a_broken_settings_file_keeps_the_old_settings(node: Node) -> None:
    node.up()
    good = node.path("/etc/grayctl/grayctl.toml").read_text(encoding="utf-8")
    daemon = node.main_pid()
    node.write("/etc/grayctl/grayctl.toml", good + "no_such_setting = 1\n")
    node.run("systemctl", "reload", "grayctl")
    wait_until(lambda: "no_such_setting" in node.show("grayctl", "StatusText"), "systemctl status names the mistake")
    assert node.show("grayctl", "SubState") == "running"
    report = node.run("grayctl", "--config", "/dev/null", "status").stdout
    assert "the old settings and templates stay in use" in report
    node.weigh("b", 3)
    wait_until(lambda: node.shares() == {"a": 20, "b": 20}, "it goes on with the old settings")
    assert "no_such_setting" in node.show("grayctl", "StatusText"), "the mistake is still there, and so is the word"

    node.write("/etc/grayctl/grayctl.toml", good)
    node.run("systemctl", "reload", "grayctl")
    wait_until(lambda: "no_such_setting" not in node.show("grayctl", "StatusText"), "the mistake is mended")
    node.run("rm", "/etc/grayctl/grayctl.toml")
    node.run("systemctl", "reload", "grayctl")
    wait_until(lambda: "cannot read the settings" in node.show("grayctl", "StatusText"), "no file is no defaults")
    node.weigh("b", 9)
    wait_until(lambda: node.shares() == {"a": 10, "b": 30}, "it goes on with the old settings")
    assert (node.main_pid(), node.show("grayctl", "NRestarts")) == (daemon, "0")


def test_a_killed_daemon_comes_back(node: Node) -> None:
    node.up()
    daemon = node.main_pid()
    node.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "grayctl")
    wait_until(lambda: node.main_pid() not in {0, daemon}, "systemd starts another")
    node.weigh("b", 3)
    wait_until(lambda: node.shares() == {"a": 20, "b": 20}, "which goes on")


def test_a_daemon_that_cannot_start_is_tried_again_until_it_can(node: Node) -> None:
    node.beside()
    node.register()
    good = node.path("/etc/grayctl/grayctl.toml").read_text(encoding="utf-8")
    node.drop_in("[Service]\nRestartSec=100ms\n")
    node.write("/etc/grayctl/grayctl.toml", "no_such_setting = 1\n")
    assert node.run("systemctl", "start", "grayctl", check=False).returncode == 1
    wait_until(
        lambda: int(node.show("grayctl", "NRestarts")) > 6, "more starts than systemd allows by default", seconds=60
    )
    assert "no_such_setting" in node.journal("grayctl")
    node.write("/etc/grayctl/grayctl.toml", good)
    wait_until(lambda: node.show("grayctl", "ActiveState") == "active", "it starts", seconds=60)
    assert node.shares() == {"a": 30, "b": 10}


@pytest.mark.parametrize("stuck", ["stopped", "blocked"])
def test_a_stuck_daemon_is_restarted_by_the_watchdog(node: Node, stuck: str) -> None:
    """Stopped by a signal, or blocked in the loop: here by a template that does not end."""
    node.drop_in("[Service]\nWatchdogSec=3\n")
    node.write("/etc/grayctl/grayctl.toml", 'templates_dir = "/etc/grayctl/templates"\n[watch]\nservices = ["shop"]\n')
    node.run("mkdir", "-p", "/etc/grayctl/templates")
    node.up()
    daemon, template = node.main_pid(), "/etc/grayctl/templates/snippet.conf.j2"
    if stuck == "stopped":
        node.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "grayctl")
    else:
        node.write(template, "{% for _ in range(10 ** 15) %}{% endfor %}\n")
        node.run("systemctl", "reload", "grayctl")
    wait_until(lambda: "Watchdog timeout" in node.journal("grayctl"), "the watchdog finds it", seconds=60)
    node.run("rm", "-f", template)
    wait_until(lambda: node.main_pid() not in {0, daemon}, "another one is started", seconds=60)
    said = node.journal("grayctl")
    assert "Fatal Python error: Aborted" in said
    assert (f'File "{template}", line 1' in said) == (stuck == "blocked"), "it says where it was stuck"
    assert node.shares() == {"a": 30, "b": 10}, "nginx never noticed"
    node.weigh("b", 3)
    wait_until(lambda: node.shares() == {"a": 20, "b": 20}, "another one goes on")


def shared(node: Node, port: int, shares: dict[str, int]) -> bool:
    return node.shares(port=port) == shares


def add_public(node: Node) -> None:
    """A second nginx with a second grayctl, as docs/systemd.md says, on port 81; not started yet."""
    nginx, settings = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0] for kind in ("ini", "toml"))
    node.write("/etc/systemd/system/nginx@.service", nginx)
    node.write("/etc/grayctl/public.toml", settings)
    node.nginx_conf("public", port=81)
    node.run("systemctl", "daemon-reload")
    node.run("grayctl", "--config", "/etc/grayctl/public.toml", "init", "--service", "shop")


def test_two_on_one_machine_do_not_know_each_other(node: Node) -> None:
    node.up()
    add_public(node)
    node.run("systemctl", "start", "nginx@public", "grayctl@public")
    assert node.shares(port=81) == {"a": 30, "b": 10}
    node.run("systemctl", "stop", "grayctl")
    node.weigh("b", 3)
    wait_until(lambda: node.shares(port=81) == {"a": 20, "b": 20}, "the second one follows alone")
    assert node.shares() == {"a": 30, "b": 10}
    assert node.path("/run/grayctl-public/control.sock").exists()


def test_rotated_logs_are_written_anew_by_every_nginx(node: Node) -> None:
    """Twice, with a compressed one the second time; nginx and the proofs go on."""
    node.write("/etc/logrotate.d/nginx", (UNITS / "logrotate.d" / "nginx").read_text(encoding="utf-8"))
    node.up()
    add_public(node)
    node.run("systemctl", "start", "nginx@public", "grayctl@public")
    masters = [node.main_pid("nginx"), node.main_pid("nginx@public")]
    for weight, shares in ((3, {"a": 20, "b": 20}), (1, {"a": 30, "b": 10})):
        for port in (80, 81):
            node.ask(f"http://127.0.0.1:{port}/before/{weight}")
        node.run("logrotate", "--force", "--state=/run/logrotate.state", "/etc/logrotate.d/nginx")
        node.weigh("b", weight)
        for port, log in ((80, "access.log"), (81, "access-public.log")):
            wait_until(partial(shared, node, port, shares), "the change is served")
            current = node.path(f"/var/log/nginx/{log}").read_text(encoding="ascii")
            assert "GET / " in current, f"{log} is written anew"
            assert f"before/{weight}" in node.path(f"/var/log/nginx/{log}.1").read_text(encoding="ascii")
            assert f"before/{weight}" not in current
    assert node.path("/var/log/nginx/access-public.log.2.gz").exists()
    assert masters == [node.main_pid("nginx"), node.main_pid("nginx@public")]
    wait_until(lambda: node.status()["generation"]["proven"], "the last change is proven")
