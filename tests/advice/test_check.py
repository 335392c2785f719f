"""`grayctl check` as people run it: beside a daemon that runs, on the configuration of the quickstart."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from grayctl.nginx.staging import namespace_allowed
from tests.support.advised import SNIPPET, Bench
from tests.support.consul import REPOSITORY, Consul
from tests.support.edge import Edge
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports
from tests.support.process import clean_env, start, stop, wait_until

# a container without CAP_SYS_ADMIN has no private mount namespace, and is told so
OF_THE_MACHINE = [] if namespace_allowed() else ["no-mount-namespace"]


def warnings(number: int) -> str:
    """So many, and the machine's own."""
    count = number + len(OF_THE_MACHINE)
    return "1 warning" if count == 1 else f"{count} warnings"


class Quickstart:
    """examples/nginx.conf and examples/grayctl.toml in a directory of their own."""

    def __init__(self, folder: Path, consul: Consul, prefix: str) -> None:
        self.folder = folder
        web, marker, metrics = free_ports(3)
        places = {
            "127.0.0.1:8080": f"127.0.0.1:{web}",
            "/srv/shop": str(folder),
            "127.0.0.1:8500": f"127.0.0.1:{consul.http_port}",
            "127.0.0.1:8409": f"127.0.0.1:{marker}",
            "127.0.0.1:8410": f"127.0.0.1:{free_block(4)}",
            "127.0.0.1:8408": f"127.0.0.1:{metrics}",
            "[consul]": f'[consul]\nprefix = "{prefix}"',
        }
        for name in ("nginx.conf", "grayctl.toml"):
            text = (REPOSITORY / "examples" / name).read_text(encoding="utf-8")
            for old, new in places.items():
                text = text.replace(old, new)
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "templates").mkdir()

    def is_served(self) -> bool:
        """Whether what Consul knew at the start is proven: nothing is left to be done."""
        done = self.grayctl("status", "--json")
        generation = json.loads(done.stdout)["generation"] if done.returncode == 0 else None
        return bool(generation and generation["number"] > 0 and generation["proven"])

    def grayctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "grayctl", "--config", str(self.folder / "grayctl.toml"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_env())


@pytest.fixture
def quickstart(tmp_path: Path, consul: Consul, unique: str) -> Iterator[Quickstart]:
    """Init done, nginx and the daemon run, one instance is there."""
    one = Quickstart(tmp_path, consul, unique)
    consul.register("shop", unique, "127.0.0.1", 80)
    done = one.grayctl("init")
    assert done.returncode == 0, done.stderr
    command: list[str | Path] = [BINARY, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-g", "daemon off;"]
    nginx = start(command, log=tmp_path / "out", pdeathsig=signal.SIGTERM)
    daemon = None
    try:
        wait_until((tmp_path / "nginx.pid").exists, "nginx is up")
        config = str(tmp_path / "grayctl.toml")
        daemon = start([sys.executable, "-m", "grayctl", "--config", config, "run"], log=tmp_path / "log")
        wait_until(one.is_served, "the instance is served", interval=0.2)
        wait_until(lambda: consul.call("GET", f"/v1/kv/{unique}/nodes/?keys=true"), "it has reported", interval=0.2)
        yield one
    finally:
        for process in (daemon, nginx):
            if process is not None:
                stop(process, timeout=30)
        consul.deregister(unique)


def test_the_quickstarts_node_is_clean(quickstart: Quickstart) -> None:
    done = quickstart.grayctl("check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"\n0 failures, {warnings(0)}\n"), done.stdout
    assert done.stderr == ""
    said = json.loads(quickstart.grayctl("check", "--json").stdout)
    assert [one["rule"] for one in said if one["rule"]] == OF_THE_MACHINE
    assert {one["about"] for one in said} >= {"settings", "nginx", "ports", "daemon", "consul", "fleet"}
    (daemon,) = [one["what"] for one in said if one["about"] == "daemon"]
    assert daemon.startswith("one runs, pid ")


def test_a_failure_is_said_with_its_line_and_ends_with_1(quickstart: Quickstart) -> None:
    conf = quickstart.folder / "nginx.conf"
    own = "include state/snippets/shop.conf;\nproxy_pass http://$gray_shop/;"
    conf.write_text(conf.read_text().replace("include state/snippets/pass/shop.conf;", own))
    number = next(at for at, line in enumerate(conf.read_text().splitlines(), 1) if "$gray_shop/;" in line)
    done = quickstart.grayctl("check")
    assert done.returncode == 1
    assert (
        f"""
routes
  failure  {conf}:{number}: proxy_pass http://$gray_shop/ has the URI part /  [uri-in-proxy-pass]
           after a variable nginx sends that URI instead of the client's: every request loses its path and query
           -> write instead:
                 proxy_pass http://$gray_shop;
"""
        in done.stdout
    )
    assert done.stdout.endswith(f"\n1 failure, {warnings(0)}\n")
    (found,) = [one for one in json.loads(quickstart.grayctl("check", "--json").stdout) if one["level"] == "failure"]
    assert (found["rule"], found["how"], found["advice"]) == (
        "uri-in-proxy-pass",
        "replace",
        "proxy_pass http://$gray_shop;",
    )
    assert found["where"] == f"{conf}:{number}"


def test_warnings_alone_end_with_0(quickstart: Quickstart) -> None:
    conf = quickstart.folder / "nginx.conf"
    conf.write_text(conf.read_text().replace("worker_shutdown_timeout 5m;", ""))
    done = quickstart.grayctl("check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"0 failures, {warnings(1)}")


def test_check_changes_nothing(quickstart: Quickstart) -> None:
    def seen() -> dict[str, tuple[int, int]]:
        logs = {"access.log", "error.log", "log", "out"}
        paths = [one for one in quickstart.folder.rglob("*") if one.name not in logs]
        return {str(one): (one.lstat().st_mtime_ns, one.lstat().st_ino) for one in paths}

    def at_rest() -> bool:  # the daemon records its first proof some time after it answers
        earlier = seen()
        time.sleep(1)
        return seen() == earlier

    wait_until(at_rest, "the daemon writes nothing")
    before = seen()
    quickstart.grayctl("check")
    assert seen() == before


def test_a_damaged_generation_is_named_until_the_daemon_has_healed_it(edge: Edge) -> None:
    edge.up()
    edge.down()
    manifest = edge.nginx.state_dir / "current" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{broken")

    def damaged() -> list[str]:
        said = json.loads(edge.cli("check", "--json").stdout)
        return [one["advice"] for one in said if one["rule"] == "generation-damaged"]

    assert damaged() == ["systemctl restart grayctl"]
    edge.run()
    wait_until(lambda: not damaged(), "the daemon has healed it")


def test_a_broken_settings_file_is_refused_with_its_line(bench: Bench) -> None:
    bench.config.write_text('node = "edge-1"\nnonsense = 1\n')
    command = [sys.executable, "-m", "grayctl", "--config", str(bench.config), "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_env())
    assert done.returncode == 2
    assert f"{bench.config}:2" in done.stderr


def test_each_thing_is_said_once(bench: Bench) -> None:
    """Two servers that read one file do not double what is wrong in it."""
    server = "server {\nlisten 127.0.0.1:{web};\nserver_name %s;\ninclude more/a.inc;\n}"
    bench.write(
        http="\n".join(server % name for name in "ab"),
        files={"more/a.inc": f"location / {{\n{SNIPPET}\nproxy_pass http://$gray_shop/;\n}}"},
    )
    assert len(bench.found("uri-in-proxy-pass")) == 1
