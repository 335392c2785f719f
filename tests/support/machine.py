"""A machine of a test's own, with systemd as its first process, this machine's programs, and a network of its own."""

import ctypes
import http.client
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.consul import REPOSITORY, consul_binary
from tests.support.process import start, stop, wait_until

T = TypeVar("T")
BOOT = REPOSITORY / "tests" / "systemd" / "boot.sh"
SYSTEMD = "/usr/lib/systemd/systemd"
_CLONE_NEWNET = 0x40000000
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_libc = ctypes.CDLL(None, use_errno=True)


_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--kill-child=KILL")


def boot_problem() -> str:
    """Why no machine can be booted here; empty when one can."""
    if os.geteuid() != 0:
        return "namespaces and cgroups are root's to make"
    with tempfile.TemporaryDirectory() as folder:
        command = [*_NAMESPACES, str(BOOT), "--probe", folder, _cgroup_name()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip()[-500:] if done.returncode else ""


def _cgroup_name() -> str:
    return f"grayctl-test-{uuid.uuid4().hex[:12]}"


class Machine:
    """Boots when it is made, and is gone after `close`.

    `grayctl` is there as /usr/local/bin/grayctl, run from this repository; nginx and its unit are this machine's own;
    /opt/consul/consul is the tests' Consul. Nothing of them is started.

    Args:
        folder: for its root and its log.

    Raises:
        AssertionError: systemd did not come up; says its last words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "boot.log"
        self._root = folder / "root"
        self._root.mkdir()
        self._cgroup = _cgroup_name()
        self._unshare = start([*_NAMESPACES, BOOT, self._root, self._cgroup, *self._binds()], log=self.log)
        try:
            self.pid = wait_until(self._first_process, "systemd is the machine's first process")
            wait_until(self._is_up, "the machine is up")
        except BaseException:
            self.close()
            raise
        self._network = ThreadPoolExecutor(1, "machine-network", self._enter_network)

    def _binds(self) -> list[str]:
        """The programs, at places that no sandbox of a unit hides, wherever they are on this machine."""
        programs = self.folder / "bin"
        programs.mkdir()
        launcher = programs / "grayctl"
        python = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        launcher.write_text(
            "#!/bin/sh\n"
            "export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/grayctl:/opt/packages\n"
            f'exec {python} -m grayctl "$@"\n',
            encoding="utf-8",
        )
        launcher.chmod(0o755)
        return [
            f"{sys.base_prefix}=/opt/python",
            f"{sysconfig.get_path('purelib')}=/opt/packages",
            f"{REPOSITORY}=/opt/grayctl",
            f"{Path(consul_binary()).resolve().parent}=/opt/consul",
            f"{programs}=/usr/local/bin",
        ]

    def _first_process(self) -> int:
        self._demand_alive()
        pid = self._unshare.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        booted = bool(children) and Path(f"/proc/{children[0]}/comm").read_text(encoding="ascii") == "systemd\n"
        return int(children[0]) if booted else 0

    def _is_up(self) -> bool:
        self._demand_alive()
        # degraded: some unit of this machine's does not work in there, which is none of ours
        return self.run("systemctl", "is-system-running", check=False).stdout in {"running\n", "degraded\n"}

    def _demand_alive(self) -> None:
        assert self._unshare.poll() is None, self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _enter_network(self) -> None:
        """For a thread: what it opens from now on is in the machine's network."""
        with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot enter the machine's network")

    # ------------------------------------------------------------ in there

    def path(self, name: str) -> Path:
        """A file of the machine, as seen from here."""
        return Path(f"/proc/{self.pid}/root{name}")

    def write(self, name: str, content: str) -> None:
        """Put a file into the machine."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in there, to its end, as root and outside every sandbox."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--all", "--", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "TERM": "dumb"},
            cwd="/",
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What the unit wrote, and what systemd wrote of it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def in_network(self, work: Callable[[], T]) -> T:
        """Call `work` where sockets are the machine's."""
        return self._network.submit(work).result(60)

    def ask(self, request: str | urllib.request.Request) -> str:
        """The body of an answer; empty when there is none."""

        def work() -> str:
            try:
                with _OPENER.open(request, timeout=5) as answer:
                    return bytes(answer.read()).decode()
            except urllib.error.HTTPError as error:
                error.close()
                return ""
            except (OSError, http.client.HTTPException):
                return ""

        return self.in_network(work)

    def close(self) -> None:
        """End it and everything in it."""
        if hasattr(self, "_network"):
            self._network.shutdown()
        stop(self._unshare, sig=signal.SIGKILL)
        wait_until(self._swept, "its cgroups are gone")
        shutil.rmtree(self._root)

    def _swept(self) -> bool:
        sweep = ["unshare", "--mount", str(BOOT), "--sweep", str(self._root), self._cgroup]
        return subprocess.run(sweep, check=False, capture_output=True, timeout=60).returncode == 0


def demand_machine() -> None:
    """Skip where no machine can be booted; in CI that is a failure. So is a missing systemd everywhere."""
    assert Path(SYSTEMD).exists(), f"there is no {SYSTEMD}: install Debian's package systemd"
    if problem := boot_problem():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no systemd can be booted, and CI must: {problem}", pytrace=False)
        pytest.skip(f"no systemd can be booted: {problem}")
