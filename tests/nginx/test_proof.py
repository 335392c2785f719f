"""What counts as proof: the error log across rotation, the master across replacement."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from grayctl.model.outcome import RolledBack
from grayctl.nginx.confirm import ErrorLog, NotProven, ask_marker, confirm
from grayctl.nginx.generations import Store
from grayctl.nginx.process import Master, start_time
from grayctl.nginx.site import Activated, Site
from tests.support.nginx import Nginx, write
from tests.support.process import start, stop

MASTER = Master(4242, 1)
REFUSED = '2026/01/01 00:00:00 [emerg] 4242#4242: limit_req "t" uses the "$a" key while previously "$b"\n'
LIMIT = "limit_req_zone {key} zone=t:1m rate=100r/s;"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        (REFUSED, True),
        ("x [emerg] 4242#4242: still could not bind()\n", True),
        ("x [alert] 4242#4242: worker process 7 exited with fatal code 2 and cannot be respawned\n", False),
    ],
)
def test_the_lines_that_say_it_failed(tmp_path: Path, line: str, *, refused: bool) -> None:
    path = tmp_path / "error.log"
    path.touch()
    with ErrorLog(path, MASTER) as log:
        assert log.failure() is None
        append(path, line)
        assert log.failure() == (line.rstrip("\n"), refused)
        assert log.failure() == (line.rstrip("\n"), refused), "it is not forgotten once it was read"


@pytest.mark.parametrize(
    "line",
    [
        "x [emerg] 4242#4242: bind() to 127.0.0.1:80 failed (98: Address already in use)\n",
        "x [emerg] 4243#4243: unknown directive, says the nginx -t of somebody else\n",
        "x [emerg] 14242#1: another master\n",
        "x [alert] 99#99: worker process 7 exited with fatal code 2 and cannot be respawned\n",
        "x [notice] 4242#4242: reconfiguring\n",
        "x [emerg] 4242#4242: half a line, without its end",
    ],
)
def test_the_lines_that_say_nothing_yet(tmp_path: Path, line: str) -> None:
    path = tmp_path / "error.log"
    path.touch()
    with ErrorLog(path, MASTER) as log:
        append(path, line)
        assert log.failure() is None


def test_what_was_written_before_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_text(REFUSED)
    with ErrorLog(path, MASTER) as log:
        assert log.failure() is None


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.touch()
    with ErrorLog(path, MASTER) as log:
        append(path, REFUSED[:30])
        assert log.failure() is None
        append(path, REFUSED[30:])
        assert log.failure() is not None


def rename(path: Path, *, before: str, after: str) -> None:
    path.rename(path.with_suffix(".1"))
    append(path.with_suffix(".1"), before)
    append(path, after)


def truncate(path: Path, *, before: str, after: str) -> None:  # noqa: ARG001 -- what a truncation drops nobody can read
    path.write_text("")
    append(path, after)


@pytest.mark.parametrize(
    ("rotate", "before", "after"),
    [(rename, REFUSED, "x\n"), (rename, "x\n", REFUSED), (rename, REFUSED, ""), (truncate, "", REFUSED)],
    ids=["in the old file", "in the new file", "in the old one, the new one empty", "after a truncation"],
)
def test_a_rotation_loses_no_line(tmp_path: Path, rotate: Callable[..., None], before: str, after: str) -> None:
    path = tmp_path / "error.log"
    path.write_text("much that was there before\n" * 100)
    with ErrorLog(path, MASTER) as log:
        assert log.failure() is None
        rotate(path, before=before, after=after)
        assert log.failure() is not None


def test_a_log_that_does_not_exist_yet_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    with ErrorLog(path, MASTER) as log:
        assert log.failure() is None
        append(path, REFUSED)
        assert log.failure() is not None


def test_a_log_that_is_a_pipe_says_nothing_and_stops_nobody(tmp_path: Path) -> None:
    """error_log /dev/stderr in a container: opening a pipe would wait for a writer for ever."""
    path = tmp_path / "error.log"
    os.mkfifo(path)
    with ErrorLog(path, MASTER) as log:
        assert log.failure() is None


@pytest.fixture
def site(nginx: Nginx, store: Store) -> Site:
    """A running nginx that serves generation 0, `v0`."""
    one = nginx.site(store)
    one.init(nginx.files("v0", http=LIMIT.format(key="$uri")), created=0.0)
    nginx.start()
    return one


async def activate(site: Site, nginx: Nginx, *, key: str = "$uri") -> Activated | RolledBack:
    candidate = write(site.store, nginx.files("v1", http=LIMIT.format(key=key)))
    assert (await site.check(candidate)).ok
    return await site.activate(candidate)


def at(step: str, act: Callable[[], object]) -> Callable[[str], None]:
    """A step hook that acts the first time a step is done."""
    left = [act]

    def hook(name: str) -> None:
        if name == step and left:
            left.pop()()

    return hook


@pytest.mark.parametrize("key", ["$uri", "$binary_remote_addr"], ids=["served", "refused"])
async def test_a_rotation_in_mid_proof(site: Site, nginx: Nginx, key: str) -> None:
    def rotate() -> None:
        nginx.error_log.rename(nginx.folder / "error.log.1")
        assert nginx.process is not None
        nginx.process.send_signal(signal.SIGUSR1)

    site.step = at("signalled", rotate)
    result = await activate(site, nginx, key=key)
    if key == "$uri":
        assert isinstance(result, Activated)
        assert result.proven
    else:
        assert isinstance(result, RolledBack)
        assert "limit_req" in result.reason
        assert result.restored


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_master_replaced_in_mid_proof_is_proven_anew(site: Site, nginx: Nginx, how: str) -> None:
    """systemctl restart nginx, or the OOM killer and systemd, while a generation is being proven."""

    def replace() -> None:
        nginx.stop() if how == "stopped" else nginx.kill()
        nginx.start()

    old = nginx.process
    assert old is not None
    signalled: list[int | None] = []
    replace_once = at("signalled", replace)

    def hook(step: str) -> None:
        if step == "signalled":
            signalled.append(site.master.pid if site.master else None)
        replace_once(step)

    site.step = hook
    result = await activate(site, nginx)
    assert isinstance(result, Activated)
    assert result.proven
    assert nginx.process is not None
    assert signalled == [old.pid, nginx.process.pid], "the proof started over with the new master"
    assert nginx.get("/version") == "v1.shop.gray\n"


async def test_a_master_that_ends_in_mid_proof_and_stays_away(nginx: Nginx, store: Store) -> None:
    """Perhaps it died of the candidate: what was served before is what the next start gets."""
    site = nginx.site(store, confirm_timeout=0.5)
    site.init(nginx.files("v0", http=LIMIT.format(key="$uri")), created=0.0)
    nginx.start()
    site.step = at("signalled", nginx.kill)
    result = await activate(site, nginx)
    assert isinstance(result, RolledBack)
    assert "did not come back" in result.reason
    assert not result.restored
    assert store.current_number() == 0
    nginx.start()
    assert nginx.get("/version") == "v0.shop.gray\n"
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "proven"


async def test_an_old_worker_killed_in_mid_proof_changes_nothing(site: Site, nginx: Nginx) -> None:
    """The master replaces a crashed worker by itself: fresh workers are no proof without the marker."""
    site.step = at("flipped", lambda: os.kill(nginx.children()[0], signal.SIGKILL))
    result = await activate(site, nginx, key="$binary_remote_addr")
    assert isinstance(result, RolledBack)
    assert nginx.get("/version") == "v0.shop.gray\n"


class LateFailure(ErrorLog):
    """A log in which the refusal appears while the marker is being asked."""

    reads = 0

    def failure(self) -> tuple[str, bool] | None:
        self.reads += 1
        return (REFUSED, True) if self.reads > 1 else None


async def test_the_log_is_read_once_more_after_the_last_answer(site: Site, nginx: Nginx) -> None:
    master = site.look()
    assert master is not None
    stamp = site.store.read(0).stamp
    with LateFailure(None, master) as log:
        proof = await confirm(
            master, (), log, stays=lambda: True, marker=("127.0.0.1", nginx.marker), stamp=stamp, timeout=5.0
        )
    assert proof == NotProven(REFUSED, refused=True)


async def test_an_answer_without_a_worker_of_this_master_proves_nothing(site: Site, nginx: Nginx) -> None:
    """Orphans of a dead master answer the marker too."""
    stamp = site.store.read(0).stamp
    bare = start(["sleep", "1000"])
    try:
        begun = start_time(bare.pid)
        assert begun is not None
        master = Master(bare.pid, begun)
        with ErrorLog(None, master) as log:
            proof = await confirm(
                master, (), log, stays=lambda: True, marker=("127.0.0.1", nginx.marker), stamp=stamp, timeout=0.3
            )
        assert isinstance(proof, NotProven)
        assert "no new worker appeared" in proof.reason
    finally:
        stop(bare, sig=signal.SIGKILL)


async def test_the_marker_of_nobody_is_empty(nginx: Nginx) -> None:
    assert await ask_marker("127.0.0.1", nginx.marker) == ""
