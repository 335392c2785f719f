"""Nginx dies, stalls, is replaced, and is broken by its owner, while Consul goes on changing."""

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from grayctl.nginx.process import start_time
from tests.support.edge import Edge
from tests.support.nginx import BINARY
from tests.support.ordeal import Ordeal, fault
from tests.support.process import start, stop, wait_until

_IMPATIENT = '[reload]\nconfirm_timeout = "1s"'


def proofs(edge: Edge) -> int:
    """How many changes were proven."""
    return sum(one["proven"] for one in edge.events("applied"))


def change_and_catch_proof(ordeal: Ordeal) -> None:
    """Return when nginx has begun to follow the signal."""
    nginx = ordeal.edge.nginx
    before = set(nginx.children())
    ordeal.change()
    wait_until(lambda: set(nginx.children()) - before, "new workers come", interval=0.001)
    assert ordeal.under_way


# ------------------------------------------------------------ it dies


@pytest.mark.fault("nginx", "killed with its workers, then started again")
def test_killed(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        with ordeal.prober.resting():
            edge.nginx.kill()
            ordeal.change()
            edge.nginx.start()
        wait_until(lambda: (edge.status() or {})["generation"]["proven"], "the new master is noticed and proven")


@pytest.mark.parametrize(
    ("catch", "end"),
    [
        fault("nginx", "killed in mid-activation, then started again", Ordeal.change_and_catch, "kill"),
        fault("nginx", "killed in mid-proof, then started again", change_and_catch_proof, "kill"),
        fault("nginx", "stopped and started in mid-activation", Ordeal.change_and_catch, "stop"),
    ],
)
def test_ended_while_it_takes_a_change(ordeal: Ordeal, catch: Callable[[Ordeal], None], end: str) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10), ordeal.prober.resting():
        before = proofs(edge)
        catch(ordeal)
        getattr(edge.nginx, end)()
        assert proofs(edge) == before, "it ended too late to cut anything"
        edge.nginx.start()


@pytest.mark.fault("nginx", "killed in mid-proof, and away for longer than a proof may take")
def test_killed_and_long_away(ordeal: Ordeal) -> None:
    """The candidate may be what killed it, so it is taken back; that it was not shows with the next master."""
    edge = ordeal.edge
    edge.configure(more=_IMPATIENT)
    ordeal.begin()
    with ordeal.endured(within=10), ordeal.prober.resting():
        change_and_catch_proof(ordeal)
        edge.nginx.kill()
        wait_until(lambda: edge.events("rolled_back"), "the change is taken back")
        edge.nginx.start()


@pytest.mark.fault("nginx", "stopped, and started as another master")
def test_stopped_and_started(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10), ordeal.prober.resting():
        edge.nginx.stop()
        before = len(edge.events("applied"))
        ordeal.change()
        wait_until(lambda: len(edge.events("applied")) > before, "the next start has something new to serve")
        edge.nginx.start()
        assert edge.serves(*edge.backends), "it starts with the newest"


@pytest.mark.parametrize(
    "stays",
    [
        fault("nginx", "its binary is upgraded under load, and the upgrade stays", "new"),
        fault("nginx", "its binary is upgraded under load, and the upgrade taken back", "old"),
    ],
)
def test_binary_upgraded(ordeal: Ordeal, stays: str) -> None:
    """Only a master that made itself a daemon follows SIGUSR2."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        with ordeal.prober.resting():
            edge.nginx.stop()
            edge.nginx.conf.write_text(edge.nginx.conf.read_text().replace("daemon off;", ""))
            subprocess.run([BINARY, "-c", edge.nginx.conf], check=True)
        old = wait_until(lambda: edge.nginx.running_pid() or 0, "a daemon of its own runs")
        wait_until(lambda: edge.noticed("proven"), "it is noticed")
        os.kill(old, signal.SIGUSR2)
        new = wait_until(lambda: pid if (pid := edge.nginx.running_pid() or 0) != old else 0, "a second master runs")
        applied = len(edge.events("applied"))
        ordeal.change()
        wait_until(lambda: len(edge.events("applied")) > applied, "the change reaches the second master")
        last, gone = (new, old) if stays == "new" else (old, new)
        os.kill(gone, signal.SIGQUIT)
        wait_until(lambda: start_time(gone) is None, "one master is left")
        wait_until(lambda: edge.nginx.running_pid() == last, "the pid file names it")
        if stays == "old":
            wait_until(lambda: len(edge.noticed("started")) == 1, "it is brought to what stands")
        wait_until(lambda: edge.serves(*edge.backends), "it serves the change")
        with ordeal.prober.resting(), ordeal.cold.resting():
            os.kill(last, signal.SIGTERM)
            wait_until(lambda: not edge.nginx.pid_file.exists(), "the daemon has ended")
            edge.nginx.write_conf()
            edge.nginx.start()


# ------------------------------------------------------------ it stalls


@pytest.mark.fault("nginx", "its master is suspended, then resumed")
def test_master_suspended(ordeal: Ordeal) -> None:
    """The workers go on; a signal would only be taken later, at a moment that nobody expects."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        os.kill(edge.nginx.pid, signal.SIGSTOP)
        ordeal.change()
        held = wait_until(lambda: edge.events("held"), "the change is held")[0]
        assert (held["by"], "suspended" in held["reason"]) == ("nginx", True)
        os.kill(edge.nginx.pid, signal.SIGCONT)


@pytest.mark.fault("nginx", "its master is suspended in mid-proof, then resumed")
def test_master_suspended_in_mid_proof(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    edge.configure(more=_IMPATIENT)
    ordeal.begin()
    with ordeal.endured(within=10):
        ordeal.change_and_catch()
        os.kill(edge.nginx.pid, signal.SIGSTOP)
        assert ordeal.under_way
        wait_until(lambda: not ordeal.under_way, "the activation is over")
        os.kill(edge.nginx.pid, signal.SIGCONT)


@pytest.mark.fault("nginx", "a worker is killed in mid-proof")
def test_worker_killed(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        with ordeal.prober.resting():  # a request in the hands of the worker is lost with it
            change_and_catch_proof(ordeal)
            os.kill(edge.nginx.children()[-1], signal.SIGKILL)
        wait_until(lambda: edge.serves(*edge.backends), "the change is served")


@pytest.mark.fault("nginx", "a worker is suspended, then resumed")
def test_worker_suspended(ordeal: Ordeal) -> None:
    """It takes no request, so it keeps nobody waiting for what the others serve."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        worker = edge.nginx.children()[0]
        with ordeal.prober.resting():
            os.kill(worker, signal.SIGSTOP)
        before = len(edge.events("applied"))
        ordeal.change()
        wait_until(lambda: len(edge.events("applied")) > before, "the change is proven meanwhile")
        os.kill(worker, signal.SIGCONT)


# ------------------------------------------------------------ its pid file lies


def _dead_pid() -> str:
    gone = start(["true"])
    gone.wait()
    return str(gone.pid)


@pytest.mark.parametrize(
    "kind",
    [
        fault("nginx", f"its pid file {what}")
        for what in ("names a dead process", "is empty", "is deleted", "names another process")
    ],
)
def test_pid_file(ordeal: Ordeal, kind: str) -> None:
    """The master that was proven counts as long as it lives, so changes go on."""
    edge = ordeal.edge
    pid_file = edge.nginx.pid_file
    ordeal.begin()
    stranger = start(["sleep", "1000"])
    try:
        with ordeal.endured(within=10):
            if kind.endswith("deleted"):
                pid_file.unlink()
            else:
                lie = {"dead": _dead_pid(), "empt": "", "anot": str(stranger.pid)}
                pid_file.write_text(next(text for key, text in lie.items() if key in kind))
            ordeal.change()
            wait_until(lambda: edge.serves(*edge.backends), "the change is served all the same")
            pid_file.write_text(f"{edge.nginx.pid}\n")
        assert stranger.poll() is None, "the stranger was signalled"
    finally:
        stop(stranger, sig=signal.SIGKILL)


@pytest.mark.fault("nginx", "its pid file is lost while grayctl starts, then written anew")
def test_pid_file_lost_before_the_start(ordeal: Ordeal) -> None:
    """Nobody is signalled whom no pid file names."""
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        edge.down()
        edge.nginx.pid_file.unlink()
        edge.run()
        applied = len(edge.events("applied"))
        ordeal.change()
        wait_until(lambda: len(edge.events("applied")) > applied, "the change is on disk, unproven")
        edge.nginx.pid_file.write_text(f"{edge.nginx.pid}\n")
