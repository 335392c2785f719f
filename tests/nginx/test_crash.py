"""SIGKILL after every step, then recovery: nginx serves old or new, whole, and so does its next start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grayctl.model.generation import GENERATION
from grayctl.nginx.generations import Store
from grayctl.nginx.site import ACTIVATION, ROLLBACK
from grayctl.nginx.staging import namespace_allowed
from tests.support.nginx import Nginx, write
from tests.support.process import clean_env

ROOT = Path(__file__).resolve().parents[2]
ROLLED_BACK = ("pending", "flipped", "signalled", *ROLLBACK)
CHECKED = ("check-pending", "check-flipped", "check-tested", "check-flipped-back")
NEVER = -1


def drive(nginx: Nginx, *, number: int = 1, act: str = "activate", die_at: int = NEVER) -> list[str] | None:
    """Run the driver; its steps, or None when it was killed."""
    spec = {
        "binary": nginx.binary,
        "conf": str(nginx.conf),
        "marker": f"127.0.0.1:{nginx.marker}",
        "state_dir": str(nginx.state_dir),
        "number": number,
        "act": act,
        "die_at": die_at,
        "flip": act == "check",
        "confirm_timeout": 0.7,
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "driver.py", json.dumps(spec)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=clean_env({"PYTHONPATH": str(ROOT)}),
        timeout=60,
    )
    if die_at == NEVER:
        assert done.returncode == 0, done.stderr.decode()
        steps: list[str] = json.loads(done.stdout)
        return steps
    assert done.returncode == -9, done.stderr.decode()
    return None


def prepare(nginx: Nginx, *, fails: bool) -> None:
    """nginx serves generation 0 as `v0`; candidate 1 is `v1`, and when it `fails` its marker lies."""
    with Store(nginx.state_dir).opened() as store:
        nginx.site(store).init(nginx.files("v0"), created=0.0)
        write(store, nginx.files("v1", marker="a lie" if fails else GENERATION))
    nginx.start()


async def settled(nginx: Nginx, *, expected: set[int]) -> None:
    """Recover as the next start does, and demand that nginx and the disk agree on one whole generation."""
    with Store(nginx.state_dir).opened() as store:
        site = nginx.site(store)
        recovery = await site.recover()
        assert recovery.generation in expected, recovery
        current = store.current()
        assert current is not None
        assert current.number == recovery.generation
        assert not store.verify()
        assert not store.has_pending()
        assert store.state().serving == current.number
        assert (await site.check_current()).ok
        if nginx.process is None:
            nginx.start()
            noticed = await site.notice()
            assert noticed is not None
            assert noticed.what == "proven"
        assert nginx.answers() == current.stamp
        assert {nginx.get("/version") for _ in range(20)} == {f"v{current.number}.shop.gray\n"}
        assert site.proven
        assert (await site.recover()).action == "nothing", "once recovered, nothing is left to do"


async def test_the_steps_of_an_activation_are_these(nginx: Nginx) -> None:
    prepare(nginx, fails=False)
    assert drive(nginx) == list(ACTIVATION)


async def test_the_steps_of_a_rollback_are_these(nginx: Nginx) -> None:
    prepare(nginx, fails=True)
    assert drive(nginx) == list(ROLLED_BACK)


@pytest.mark.parametrize("nginx_dies_too", [False, True], ids=["nginx-lives", "nginx-dies"])
@pytest.mark.parametrize("step", range(len(ACTIVATION)), ids=ACTIVATION)
async def test_killed_during_an_activation(nginx: Nginx, step: int, *, nginx_dies_too: bool) -> None:
    prepare(nginx, fails=False)
    drive(nginx, die_at=step)
    if nginx_dies_too:
        nginx.kill()
        expected = {1}  # checked: the next start serves the newest
    else:
        expected = {0} if ACTIVATION[step] in {"pending", "flipped"} else {1}
        expected |= {0} if ACTIVATION[step] == "signalled" else set()
    await settled(nginx, expected=expected)


@pytest.mark.parametrize("nginx_dies_too", [False, True], ids=["nginx-lives", "nginx-dies"])
@pytest.mark.parametrize("step", ["checked", *ACTIVATION])
async def test_killed_after_a_check_beside_the_live_tree(nginx: Nginx, step: str, *, nginx_dies_too: bool) -> None:
    """The journal was written during the check, before anybody knew that it would pass: only the flip says that."""
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    prepare(nginx, fails=False)
    drive(nginx, act="apply", die_at=["checked", *ACTIVATION].index(step))
    if nginx_dies_too:
        nginx.kill()
    flipped = step not in {"checked", "pending"}
    if nginx_dies_too or not flipped:
        expected = {1} if flipped else {0}
    else:
        expected = {"flipped": {0}, "signalled": {0, 1}}.get(step, {1})
    await settled(nginx, expected=expected)


@pytest.mark.parametrize("nginx_dies_too", [False, True], ids=["nginx-lives", "nginx-dies"])
@pytest.mark.parametrize("step", range(len(ROLLED_BACK)), ids=[f"{n}-{one}" for n, one in enumerate(ROLLED_BACK)])
async def test_killed_during_a_rollback(nginx: Nginx, step: int, *, nginx_dies_too: bool) -> None:
    prepare(nginx, fails=True)
    drive(nginx, die_at=step)
    if not nginx_dies_too:
        await settled(nginx, expected={0})
        return
    nginx.kill()
    condemned = step >= ROLLED_BACK.index("condemned")
    if condemned:
        await settled(nginx, expected={0})
        return
    # killed before nginx had the chance to prove it or not: the checked candidate starts, and here its marker lies
    with Store(nginx.state_dir).opened() as store:
        recovery = await nginx.site(store).recover()
        assert (recovery.action, recovery.generation) == ("kept-unproven", 1)
        assert not store.verify()
    nginx.start()
    assert nginx.get("/version") == "v1.shop.gray\n"


@pytest.mark.parametrize("nginx_dies_too", [False, True], ids=["nginx-lives", "nginx-dies"])
@pytest.mark.parametrize("step", range(len(CHECKED)), ids=CHECKED)
async def test_killed_during_a_check_that_flips(nginx: Nginx, step: int, *, nginx_dies_too: bool) -> None:
    """The candidate was never accepted: what stood before stands, with no reload for nginx."""
    prepare(nginx, fails=False)
    drive(nginx, act="check", die_at=step)
    workers = nginx.children()
    if nginx_dies_too:
        nginx.kill()
    await settled(nginx, expected={0})
    if not nginx_dies_too:
        assert nginx.children() == workers, "nothing was signalled, so nothing need be"


async def test_killed_twice_recovery_itself_can_be_cut(nginx: Nginx) -> None:
    """A crash inside recovery leaves the journal, and the next recovery starts over."""
    prepare(nginx, fails=False)
    drive(nginx, die_at=ACTIVATION.index("flipped"))
    with Store(nginx.state_dir).opened() as store:
        site = nginx.site(store)

        def cut(step: str) -> None:
            if step == "flipped-back":
                raise KeyboardInterrupt

        site.step = cut
        with pytest.raises(KeyboardInterrupt):
            await site.recover()
        assert store.has_pending()
    await settled(nginx, expected={0})
