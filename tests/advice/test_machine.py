"""Rules on this machine: looked at for real, by root and by nobody; SELinux and AppArmor as the kernel shows them."""

import contextlib
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from grayctl.advice import confinement, permissions
from grayctl.advice.finding import Finding, How, Level
from grayctl.advice.machine import Machine, Process, look
from grayctl.nginx.generations import Store
from tests.support.advised import Bench
from tests.support.nginx import Nginx
from tests.support.process import clean_env, wait_until
from tests.support.rights import demand_root

NOBODY = 65534
# Root goes first, so that everything is imported by somebody who may read it wherever it is installed.
AS_NOBODY = f"""
import asyncio, os, sys
from pathlib import Path
import msgspec
from grayctl.advice.survey import survey
from grayctl.settings import parse
text = Path(sys.argv[1]).read_text()
def look():
    return asyncio.run(survey(parse(text, sys.argv[1]), (sys.argv[1], text), answers=False))
look()
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.stdout.buffer.write(msgspec.json.encode(look()))
"""


@pytest.fixture
def public() -> Iterator[Bench]:
    """A bench in a directory that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))
    folder.chmod(0o755)
    nginx = Nginx(folder)
    one = Bench(nginx)
    one.init("shop")
    try:
        yield one
    finally:
        nginx.close()
        shutil.rmtree(folder)


def _as_nobody(bench: Bench, rule: str) -> list[Finding]:
    demand_root("to become nobody")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, bench.config], capture_output=True, timeout=60, check=False, env=clean_env()
    )
    assert done.returncode == 0, done.stderr.decode()
    return [one for one in msgspec.json.decode(done.stdout, type=list[Finding]) if one.rule == rule]


def _look(bench: Bench, root: Path = Path("/")) -> Machine:
    return look(bench.settings, master=None, marker="", answers=False, root=root)


def _permissions(machine: Machine, rule: str) -> list[Finding]:
    return [found for judge in permissions.JUDGES for found in judge(machine) if found.rule == rule]


# ---------------------------------------------------------------- ports


@contextlib.contextmanager
def listening(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        yield


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("key", "offset"), [("nginx.marker", 0), ("nginx.refuse", 0), ("nginx.refuse", 3), ("metrics.listen", 0)]
)
def test_a_port_that_another_holds_names_its_pid_and_a_free_one(bench: Bench, key: str, offset: int, host: str) -> None:
    port = {"nginx.marker": bench.nginx.marker, "nginx.refuse": bench.nginx.refuse, "metrics.listen": bench.metrics}[
        key
    ]
    rule = "metrics-port-taken" if key == "metrics.listen" else "port-taken"
    assert bench.found(rule) == []
    with listening(port + offset, host):
        (found,) = bench.found(rule)
        assert found.what.startswith(f"{key}: 127.0.0.1:{port + offset} is held by ")
        assert found.what.endswith(f"(pid {os.getpid()})")
        bench.follow(found)
        assert bench.found(rule) == []
        assert bench.found("port-taken") == bench.found("metrics-port-taken") == []


def test_a_port_of_another_address_is_no_clash(bench: Bench) -> None:
    with listening(bench.nginx.marker, "127.0.0.2"):
        assert bench.found("port-taken") == []


def test_a_listener_that_only_root_can_look_into_is_said(public: Bench) -> None:
    with listening(public.nginx.marker):
        (found,) = _as_nobody(public, "port-taken")
    assert found.what.endswith("is held by a process that only root can see")


# ---------------------------------------------------------------- permissions


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
def test_a_state_directory_that_others_write_is_closed(public: Bench, mode: int) -> None:
    assert public.found("state-dir-writable-by-others") == []
    public.nginx.state_dir.chmod(mode)
    (found,) = public.found("state-dir-writable-by-others")
    public.follow(found)
    assert public.found("state-dir-writable-by-others") == []
    assert stat.S_IMODE(public.nginx.state_dir.stat().st_mode) == 0o755


def test_a_state_directory_below_one_that_others_write_is_no_better(public: Bench) -> None:
    public.folder.chmod(0o777)
    (found,) = public.found("state-dir-writable-by-others")
    assert found.where == str(public.folder)
    public.follow(found)
    assert public.found("state-dir-writable-by-others") == []


def test_a_state_directory_of_somebody_else_is_taken_back(public: Bench) -> None:
    demand_root("owners are root's to give")
    os.chown(public.nginx.state_dir, NOBODY, NOBODY)
    (found,) = public.found("state-dir-writable-by-others")
    assert "belongs to nobody" in found.what
    public.follow(found)
    assert public.found("state-dir-writable-by-others") == []


def test_a_state_directory_that_nginx_cannot_enter_is_opened(public: Bench) -> None:
    public.nginx.state_dir.chmod(0o700)
    master = Process(os.getpid(), NOBODY)
    (found,) = _permissions(replace(_look(public), master=master), "state-dir-unreadable")
    assert "closed to nobody" in found.what
    public.follow(found)
    assert _permissions(replace(_look(public), master=master), "state-dir-unreadable") == []
    assert _permissions(replace(_look(public), master=Process(1, 0)), "state-dir-unreadable") == []


@pytest.mark.parametrize(("rule", "there"), [("state-dir-unwritable", True), ("control-socket-dir", False)])
def test_a_directory_that_we_may_not_write_is_made_ours(public: Bench, rule: str, *, there: bool) -> None:
    public.configure("[control]\nsocket = '{folder}/run/control.sock'")
    assert public.found(rule) == []
    (found,) = _as_nobody(public, rule)
    assert "nobody may not write" in found.what
    assert Path(found.where).exists() is there
    public.follow(found)
    assert _as_nobody(public, rule) == []


def test_a_control_directory_of_everybody_is_closed(public: Bench) -> None:
    public.configure("[control]\nsocket = '{folder}/run/control.sock'")
    (public.folder / "run").mkdir()
    assert public.found("control-socket-dir") == []
    (public.folder / "run").chmod(0o777)
    (found,) = public.found("control-socket-dir")
    assert "could listen in the daemon's place" in found.what
    public.follow(found)
    assert public.found("control-socket-dir") == []


def test_a_control_socket_with_too_long_a_path_is_named(bench: Bench) -> None:
    bench.configure(f"[control]\nsocket = '{{folder}}/{'x' * 100}.sock'")
    (found,) = bench.found("control-socket-path")
    bench.follow(found)
    assert bench.found("control-socket-path") == []


def test_a_token_that_everybody_reads_is_closed(bench: Bench) -> None:
    token = bench.folder / "token"
    token.write_text("6f1a...\n")
    token.chmod(0o644)
    bench.configure("[consul]\ntoken_file = '{folder}/token'")
    (found,) = bench.found("token-file-readable")
    bench.follow(found)
    assert bench.found("token-file-readable") == []
    assert stat.S_IMODE(token.stat().st_mode) == 0o640


def test_who_may_not_signal_nginx_or_make_a_namespace_is_told_the_unit(public: Bench) -> None:
    public.nginx.write_conf()
    public.nginx.start()
    (found,) = _as_nobody(public, "signal-denied")
    assert (found.how, found.advice) == (How.UNIT, "# systemctl edit grayctl\nUser=root")
    (found,) = _as_nobody(public, "no-mount-namespace")
    assert "CAP_SYS_ADMIN" in found.advice
    assert public.found("signal-denied") == [], "root may"
    (found,) = _as_nobody(public, "nginx-refuses")
    assert "as root" in found.advice, "nobody cannot test what root runs"


def test_a_pid_file_that_we_may_not_read_names_nobody(public: Bench) -> None:
    (public.folder / "nginx.pid").write_text("1")
    (public.folder / "nginx.pid").chmod(0o600)
    assert _as_nobody(public, "nginx-not-running")


def test_the_right_to_signal_is_a_capability_too(bench: Bench) -> None:
    machine = replace(_look(bench), us=Process(1, NOBODY, rights=1 << 5), master=Process(2, 0))
    assert _permissions(machine, "signal-denied") == []


def test_a_namespace_that_can_be_had_is_no_finding(bench: Bench) -> None:
    assert _permissions(replace(_look(bench), namespace=True), "no-mount-namespace") == []


def test_few_open_files_are_raised(bench: Bench) -> None:
    assert bench.found("open-files-low") == []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        (found,) = bench.found("open-files-low")
        assert found.how is How.UNIT
        key, _, value = found.advice.splitlines()[1].partition("=")
        assert key == "LimitNOFILE"
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(value), before[1]))
        assert bench.found("open-files-low") == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_daemon_that_these_settings_do_not_reach_is_named(bench: Bench) -> None:
    with Store(bench.nginx.state_dir).opened():
        (found,) = bench.found("daemon-elsewhere")
        assert found.what.startswith(f"pid {os.getpid()} holds {bench.nginx.state_dir}")
        assert bench.found("daemon-elsewhere", answers=True) == []
    assert bench.found("daemon-elsewhere") == []


# ---------------------------------------------------------------- SELinux and AppArmor


def _root(folder: Path, files: dict[str, str]) -> Path:
    root = folder / "root"
    (root / "proc").mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _confined(machine: Machine) -> dict[str, Finding]:
    return {found.rule: found for judge in confinement.JUDGES for found in judge(machine)}


def test_an_enforcing_selinux_is_told_labels_ports_and_the_boolean(bench: Bench, tmp_path: Path) -> None:
    kernel = {"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/httpd_can_network_connect": "0 0"}
    machine = _look(bench, _root(tmp_path, kernel))
    found = _confined(machine)
    assert found.keys() == {"selinux-state-dir", "selinux-ports", "selinux-connect"}
    assert found["selinux-state-dir"].advice.splitlines() == [
        f"semanage fcontext -a -t httpd_config_t '{bench.nginx.state_dir}(/.*)?'",
        f"restorecon -R {bench.nginx.state_dir}",
    ]
    assert f"-p tcp {bench.nginx.refuse}-{bench.nginx.refuse + 3}" in found["selinux-ports"].advice
    assert found["selinux-connect"].advice == "setsebool -P httpd_can_network_connect on"
    # as the kernel shows it once that is done
    (tmp_path / "root/sys/fs/selinux/booleans/httpd_can_network_connect").write_text("1 1")
    done = replace(_look(bench, tmp_path / "root"), label="system_u:object_r:httpd_config_t:s0", marker="000001 x")
    assert _confined(done) == {}


@pytest.mark.parametrize("enforce", ["0", ""])
def test_a_selinux_that_only_watches_is_let_alone(bench: Bench, tmp_path: Path, enforce: str) -> None:
    assert _confined(_look(bench, _root(tmp_path, {"sys/fs/selinux/enforce": enforce}))) == {}


def test_a_profile_of_nginx_is_told_the_state_directory(bench: Bench, tmp_path: Path) -> None:
    profiles = "/usr/sbin/nginx (enforce)\n/usr/bin/man (enforce)\nnginx-old (complain)\n"
    root = _root(
        tmp_path,
        {
            "sys/kernel/security/apparmor/profiles": profiles,
            "etc/apparmor.d/usr.sbin.nginx": "/usr/sbin/nginx { /etc/nginx/** r, }",
        },
    )
    found = _confined(_look(bench, root))["apparmor-nginx"]
    rule = found.advice.splitlines()[0].split("'")[1]
    assert rule == f"{bench.nginx.state_dir}/** r,"
    assert "/etc/apparmor.d/local/usr.sbin.nginx" in found.advice
    (root / "etc/apparmor.d/local").mkdir()
    (root / "etc/apparmor.d/local/usr.sbin.nginx").write_text(rule)
    assert _confined(_look(bench, root)) == {}


# ---------------------------------------------------------------- nginx, templates, the state directory


def test_an_nginx_that_is_not_there_is_said_and_the_rest_still_judged(bench: Bench) -> None:
    bench.configure("[nginx]\nbinary = '/nowhere/nginx'")
    bench.write(location="proxy_pass http://$gray_shop/;")
    (found,) = bench.found("nginx-unusable")
    assert "/nowhere/nginx" in found.what
    assert bench.found("uri-in-proxy-pass"), "the configuration was read all the same"


def test_a_configuration_that_cannot_be_read_is_said(bench: Bench) -> None:
    bench.nginx.conf.unlink()
    (found,) = bench.found("nginx-unusable")
    assert str(bench.nginx.conf) in found.what


def test_a_configuration_that_nginx_refuses_is_named_with_its_line(bench: Bench) -> None:
    bench.write(http="no_such_directive on;")
    (found,) = bench.found("nginx-refuses")
    assert 'unknown directive "no_such_directive"' in found.what
    number = bench.nginx.conf.read_text().splitlines().index("no_such_directive on;") + 1
    assert found.where == f"{bench.nginx.conf}:{number}"
    bench.write()
    assert bench.found("nginx-refuses") == []


def test_an_nginx_that_does_not_run_and_workers_that_it_left_are_told_apart(bench: Bench) -> None:
    nginx = bench.nginx
    nginx.write_conf()
    (found,) = bench.found("nginx-not-running")
    assert (found.level, found.advice) == (Level.WARNING, "systemctl start nginx")
    nginx.start()
    assert bench.found("nginx-not-running") == bench.found("orphan-workers") == []
    left = nginx.kill(with_workers=False)
    (found,) = bench.found("orphan-workers")
    assert sorted(found.advice.removeprefix("kill -QUIT ").split()) == sorted(map(str, left))
    bench.follow(found)
    wait_until(lambda: not bench.found("orphan-workers"), "the workers have ended")


def test_workers_that_long_connections_keep_are_counted(bench: Bench) -> None:
    bench.configure("[reload]\nmax_old_workers = 1")
    nginx = bench.nginx
    nginx.write_conf()
    nginx.start()
    with socket.create_connection(("127.0.0.1", nginx.web)) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")  # never ended: its worker waits for the rest
        assert bench.found("old-workers") == []
        nginx.reload()
        (found,) = wait_until(lambda: bench.found("old-workers"), "the old worker is left")
        assert "1 workers of earlier generations are alive" in found.what
        assert "worker_shutdown_timeout" in found.advice
    wait_until(lambda: bench.found("old-workers") == [], "it has ended")


def test_templates_that_are_missing_or_broken_are_named(bench: Bench) -> None:
    bench.configure("templates_dir = '{folder}/templates'")
    (found,) = bench.found("templates-missing")
    bench.follow(found)
    assert bench.found("templates-missing") == bench.found("template-broken") == []
    (bench.folder / "templates/service.conf.j2").write_text("line one\n{{ oh")
    (found,) = bench.found("template-broken")
    assert "service.conf.j2" in found.what
    (bench.folder / "templates/service.conf.j2").unlink()
    assert bench.found("template-broken") == []


def test_a_state_directory_without_a_generation_is_begun(nginx: Nginx) -> None:
    bench = Bench(nginx)
    assert bench.found("nginx-refuses"), "the include dangles"
    (found,) = bench.found("no-generation")
    bench.follow(found)
    assert bench.found("no-generation") == []
    assert bench.tested().ok
