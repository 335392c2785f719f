"""The examples' backends, in Python and in Go, against a real Consul: both keep the same promises."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.consul import REPOSITORY, Consul
from tests.support.ports import free_ports
from tests.support.process import clean_env, start, stop, wait_until

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
GIN = REPOSITORY / "examples" / "gin"


@pytest.fixture(scope="session")
def gin_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Gin backend, vetted and built; without Go there is nothing to build it with."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no go on PATH: the Gin backend cannot be built")
    target = tmp_path_factory.mktemp("gin") / "shop"
    for command in (["vet", "."], ["build", "-buildvcs=false", "-o", str(target), "."]):
        done = subprocess.run(
            [go, *command], cwd=GIN, env=clean_env(), capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
    return target


class Instance:
    """One running backend."""

    def __init__(self, command: list[str], folder: Path, consul: Consul, service: str, *more: str) -> None:
        self.consul = consul
        self.service = service
        self.id = f"{service}-1"
        self.port = free_ports(1)[0]
        known = {"name": service, "id": self.id, "version": "v2", "weight": 5, "port": self.port, "drain": 4}
        options = [f"--{key}={value}" for key, value in (known | {"consul": consul.address}).items()]
        self.process = start([*command, *options, *more], log=folder / "backend.log")

    def call(self, method: str, path: str, body: str = "") -> tuple[int, Any]:
        """Status and JSON of an answer."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=body.encode() or None, method=method)
        try:
            with _OPENER.open(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def registered(self) -> dict[str, Any] | None:
        """What Consul's catalog has of it, with `health`; None when it has nothing."""
        found = self.consul.call("GET", f"/v1/health/service/{self.service}")
        if not found:
            return None
        entry: dict[str, Any] = found[0]["Service"]
        states = {one["CheckID"]: one["Status"] for one in found[0]["Checks"]}
        return entry | {"health": states[f"{self.id}:http"]}

    def is_healthy(self) -> bool:
        return (self.registered() or {}).get("health") == "passing"


@pytest.fixture(params=["python", "gin"])
def command(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "gin":
        return [str(request.getfixturevalue("gin_binary"))]
    return [sys.executable, str(REPOSITORY / "examples" / "shop" / "backend.py")]


@pytest.fixture
def make_instance(command: list[str], tmp_path: Path, consul: Consul, unique: str) -> Iterator[Callable[..., Instance]]:
    """Start the backend, with further options."""
    made: list[Instance] = []

    def make(*more: str) -> Instance:
        made.append(Instance(command, tmp_path, consul, unique, *more))
        return made[-1]

    yield make
    for one in made:
        stop(one.process, sig=signal.SIGKILL)
        consul.deregister(one.id)


@pytest.fixture
def instance(make_instance: Callable[..., Instance]) -> Instance:
    """A running backend."""
    return make_instance()


def test_it_registers_with_version_weight_and_a_check(instance: Instance) -> None:
    wait_until(instance.is_healthy, "it is registered and healthy")
    entry = instance.registered()
    assert entry is not None
    assert (entry["Address"], entry["Port"]) == ("127.0.0.1", instance.port)
    assert entry["Meta"] == {"version": "v2", "weight": "5"}
    assert entry["Tags"] == ["grayctl.enable=true"]
    status, answer = instance.call("GET", "/some/path?x=1")
    assert status == 200
    assert answer == {
        "service": instance.service,
        "version": "v2",
        "instance": instance.id,
        "host": f"127.0.0.1:{instance.port}",
        "path": "/some/path?x=1",
    }


def test_its_weight_changes_while_it_runs(instance: Instance) -> None:
    wait_until(instance.is_healthy, "it is registered and healthy")
    assert instance.call("PUT", "/weight", "25") == (200, {"weight": 25})
    wait_until(lambda: (instance.registered() or {})["Meta"]["weight"] == "25", "Consul has the new weight")
    assert instance.is_healthy(), "a new weight takes no healthy instance out"
    status, answer = instance.call("PUT", "/weight", "heavy")
    assert status == 400
    assert "number" in answer["error"]


def test_its_check_follows_its_health(instance: Instance) -> None:
    wait_until(instance.is_healthy, "it is registered and healthy")
    assert instance.call("PUT", "/health", "failing")[0] == 200
    wait_until(lambda: (instance.registered() or {})["health"] == "critical", "the check fails")
    assert instance.call("PUT", "/health", "passing")[0] == 200
    wait_until(instance.is_healthy, "the check passes again")


def test_it_registers_again_where_consul_lost_it(instance: Instance) -> None:
    wait_until(instance.is_healthy, "it is registered and healthy")
    instance.consul.deregister(instance.id)
    wait_until(instance.is_healthy, "it is registered again", seconds=30)


def test_on_sigterm_it_takes_leave_before_it_ends(instance: Instance) -> None:
    wait_until(instance.is_healthy, "it is registered and healthy")
    instance.process.send_signal(signal.SIGTERM)
    wait_until(lambda: instance.registered() is None, "it is deregistered")
    assert instance.call("GET", "/")[0] == 200, "what is under way towards it is answered"
    assert instance.process.wait(timeout=20) == 0
    assert instance.registered() is None


def test_it_fails_as_often_as_it_is_told(make_instance: Callable[..., Instance]) -> None:
    instance = make_instance("--fail-rate=1")
    wait_until(instance.is_healthy, "it is registered, and its check knows nothing of the failures")
    assert {instance.call("GET", "/")[0] for _ in range(5)} == {500}
