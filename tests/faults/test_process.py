"""grayctl is killed, suspended, stopped and started twice, at moments of nobody's choosing."""

import contextlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from grayctl.nginx.staging import namespace_allowed
from tests.support.edge import Edge
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until

_NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")


@contextlib.contextmanager
def churn(edge: Edge) -> Iterator[None]:
    """An instance that changes its version 20 times a second, and comes and goes; at the end it is there."""
    done = threading.Event()

    def body() -> None:
        for number in itertools.count():
            if done.wait(0.05):
                break
            if number % 7 == 6:
                edge.consul.deregister("flapping")
            else:
                edge.backend("flapping", version=f"v{number}")
        edge.backend("flapping", version="last")

    thread = threading.Thread(target=body, name="churn")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def has_started(edge: Edge, times: int) -> bool:
    return len(edge.events("started")) > times


@pytest.mark.parametrize(
    ("under", "kills"),
    [
        fault("grayctl", "killed at random 50 times under churn", (), 50),
        fault("grayctl", "killed at random 20 times under churn, where it may not mount", _NO_MOUNTS, 20),
    ],
)
def test_killed_at_random(ordeal: Ordeal, under: tuple[str, ...], kills: int) -> None:
    """Started again each time, as systemd does. Some kills fall into an activation, which the next start settles.

    Where it may not mount, candidates are tested in the place of what stands, so more is to be settled.
    """
    edge = ordeal.edge
    edge.under = under
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    ordeal.begin()
    ordeal.grayctl = f"came back {kills} times"
    with ordeal.endured(within=10):
        cut = 0
        with churn(edge):
            for number in range(3 * kills):
                if number >= kills and cut:
                    break
                if number % 2:  # the others may fall before it has even started
                    wait_until(partial(has_started, edge, len(edge.events("started"))), "it has started")
                time.sleep(dice.uniform(0.0, 1.0))  # where the kill falls is the point, not that something has happened
                edge.down(signal.SIGKILL)
                cut += ordeal.under_way
                edge.run(wait=False)
        assert cut, f"no kill fell into an activation; seed {seed}"
    actions = {one["action"] for one in edge.events("recovered")}
    assert {one["staging"] for one in edge.events("assembled")} == {
        "flip" if under or not namespace_allowed() else "namespace"
    }
    assert actions & {"committed", "reverted", "kept-unproven"}, f"nothing was ever settled: {actions}; seed {seed}"


@pytest.mark.parametrize(
    "sig",
    [
        fault("grayctl", f"{name} in mid-activation, then started again", sig)
        for name, sig in (
            ("killed", signal.SIGKILL),
            ("stopped", signal.SIGTERM),
        )
    ],
)
def test_ended_in_mid_activation(ordeal: Ordeal, sig: signal.Signals) -> None:
    """SIGTERM finishes the activation first."""
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        ordeal.change_and_catch()
        edge.down(sig)
        assert ordeal.under_way == (sig == signal.SIGKILL)
        edge.run()


@pytest.mark.fault("grayctl", "away while much changes, then started again")
def test_away(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        edge.down(signal.SIGKILL)
        with churn(edge):
            time.sleep(1.0)  # the length of the fault
        edge.run()


@pytest.mark.fault("grayctl", "suspended for 5 s under churn, then resumed")
def test_suspended(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=20):
        assert edge.process is not None
        with churn(edge):
            edge.process.send_signal(signal.SIGSTOP)
            time.sleep(5.0)  # the length of the fault
        edge.process.send_signal(signal.SIGCONT)


@pytest.mark.fault("grayctl", "suspended in mid-activation for longer than a proof may take, then resumed")
def test_suspended_in_mid_activation(ordeal: Ordeal) -> None:
    """A proof that comes late is one all the same: nothing is taken back."""
    edge = ordeal.edge
    edge.configure(more='[reload]\nconfirm_timeout = "1s"')
    ordeal.begin()
    with ordeal.endured(within=20):
        assert edge.process is not None
        ordeal.change_and_catch()
        edge.process.send_signal(signal.SIGSTOP)
        assert ordeal.under_way
        time.sleep(2.0)  # the length of the fault
        edge.process.send_signal(signal.SIGCONT)
    assert not edge.events("rolled_back")


@pytest.mark.fault("grayctl", "started twice")
def test_started_twice(ordeal: Ordeal) -> None:
    """The second ends at once, names the first, and disturbs it in nothing."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        assert edge.process is not None
        with churn(edge):
            second = edge.cli("run")
        assert (second.returncode, f"pid {edge.process.pid}" in second.stderr) == (1, True), second.stderr
        wait_until(lambda: edge.status() is not None, "the first one's control socket still answers")
