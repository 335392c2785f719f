"""Consul and the edge node in containers, with the same methods as the native ones, so that tests can run on both.

The containers use the host's network, as the daemon does on a real machine, and the node's folder is mounted at
its own path, so that a test reads logs and writes templates in the same way on both.
"""

import fcntl
import functools
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage

from tests.support.consul import REPOSITORY, Consul
from tests.support.edge import Edge
from tests.support.nginx import Nginx
from tests.support.process import wait_until

CONSUL_IMAGE = os.environ.get("GRAYCTL_TEST_CONSUL_IMAGE", "hashicorp/consul:1.20")
EDGE_IMAGE = os.environ.get("GRAYCTL_TEST_EDGE_IMAGE", "")  # empty: built from tests/containers/Dockerfile
# What grayctl is installed from.
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "grayctl", "templates", "systemd")


@functools.cache
def engine_problem() -> str:
    """Why no Docker engine can be used; empty when one can."""
    problem = ""
    with warnings.catch_warnings():
        # Where nobody listens, the Docker library forgets to close the socket that it tried with.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
            try:
                client.ping()
            finally:
                client.close()
        except docker.errors.DockerException as error:
            problem = str(error)
        gc.collect()
    return problem


def demand_engine() -> None:
    """Skip without an engine; in CI that is a failure, since CI brings one."""
    if problem := engine_problem():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Docker engine is reachable, and CI must have one: {problem}", pytrace=False)
        pytest.skip(f"no Docker engine is reachable: {problem}")


@functools.cache
def edge_image() -> str:
    """The image of the edge node: the one that the environment names, or one built now."""
    if EDGE_IMAGE:
        return EDGE_IMAGE
    lock = Path(tempfile.gettempdir()) / f"grayctl-test-image-{os.getuid()}"
    with lock.open("wb") as held, tempfile.TemporaryDirectory() as context:
        fcntl.flock(held, fcntl.LOCK_EX)  # the second worker finds every layer in the engine's cache
        shutil.copy(REPOSITORY / "tests" / "containers" / "Dockerfile", context)
        for name in _SOURCES:
            source, target = REPOSITORY / name, Path(context) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        image = DockerImage(path=context, tag="grayctl-test-edge:latest", clean_up=False, network_mode="host")
        try:
            image.build()
        finally:
            image.remove()
        return str(image)


def container(image: str, command: list[str], **more: Any) -> DockerContainer:
    """A container in the host's network; init reaps what is orphaned inside."""
    return DockerContainer(image, network_mode="host", init=True, **more).with_command(command)


@functools.cache
def _consul_version() -> tuple[int, int]:
    client = docker.from_env()
    try:
        said = client.containers.run(CONSUL_IMAGE, ["version"], remove=True, network_mode="host").decode()
    finally:
        client.close()
    found = re.search(r"v(\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


class ContainerConsul(Consul):
    """`Consul`, in a container; it keeps nothing across a restart."""

    def __init__(self, folder: Path, *, config: Mapping[str, Any] | None = None) -> None:
        # Since 1.14 the agent listens on one more port by default, and older ones do not know its name.
        ports = {"grpc_tls": -1} if _consul_version() >= (1, 14) else {}
        super().__init__(folder, config={"ports": ports} | dict(config or {}))

    def start(self, *, wait: bool = True) -> None:
        self._container = container(CONSUL_IMAGE, ["agent", "-dev", "-hcl", json.dumps(self.config)]).start()
        if wait:
            self.wait_ready()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        del sig  # a dev agent keeps nothing, however it ends
        self._container.stop()

    def suspend(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def _is_ready(self) -> bool:
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        assert wrapped.status == "running", wrapped.logs().decode()[-2000:]
        try:
            return bool(self.call("GET", "/v1/catalog/nodes"))
        except OSError:
            return False


class ContainerNginx(Nginx):
    """`Nginx`, inside the edge node's container."""

    inside: DockerContainer

    def start(self) -> None:
        _start(self.inside, [self.binary, "-c", str(self.conf)], self.folder / "nginx.out")
        wait_until(lambda: self.get("/version", port=self.backend) == "backend\n", "nginx is up in its container")

    def close(self) -> None:
        """Nothing: it ends with its container."""


class ContainerEdge(Edge):
    """`Edge`, with nginx and grayctl in one container."""

    def __init__(self, folder: Path, consul: Consul) -> None:
        nginx = ContainerNginx(folder)
        super().__init__(folder, nginx, consul)
        volumes = [(str(folder), str(folder), "rw")]
        nginx.inside = self._container = container(edge_image(), ["sleep", "infinity"], volumes=volumes).start()

    def command(self, *arguments: str) -> list[str]:
        return ["grayctl", "--config", str(self.config), *arguments]

    def cli(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        wrapped = self._container.get_wrapped_container()
        code, (out, err) = wrapped.exec_run(command, environment=env, demux=True)
        return subprocess.CompletedProcess(command, code, (out or b"").decode(), (err or b"").decode())

    def status(self) -> dict[str, Any] | None:
        """As `Edge.status`; the socket is for those in there."""
        done = self.cli("status", "--json")
        report: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"daemon": False}
        return report if report["daemon"] else None

    def run(self, *, wait: bool = True) -> None:
        _start(self._container, self.command("run"), self.log)
        if wait:
            wait_until(lambda: self.status() is not None, "the control socket answers")

    def close(self) -> None:
        super().close()
        # What root made in there, the user who runs the tests could not remove.
        empty = f"import shutil; [shutil.rmtree(one, True) for one in ({str(self.nginx.state_dir)!r},)]"
        self._container.get_wrapped_container().exec_run(["python3", "-c", empty])
        self._container.stop()


def _start(inside: DockerContainer, command: list[str], log: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" >>"$0" 2>&1', str(log), *command]
    inside.get_wrapped_container().exec_run(shell, detach=True)
