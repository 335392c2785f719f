"""The disk is full or read-only, the state directory is damaged, and descriptors run out."""

import contextlib
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disk import Disk
from tests.support.edge import Edge
from tests.support.nginx import current_object
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until


@pytest.fixture
def on_disk(disk: Disk, ordeal: Ordeal) -> Ordeal:
    """The state directory is on a disk of its own."""
    edge = ordeal.edge
    edge.nginx.state_dir = disk.root / "state"
    edge.nginx.write_conf()
    edge.configure()
    return ordeal


def held_by_the_disk(edge: Edge, words: str) -> None:
    held = wait_until(lambda: edge.events("held"), "the change is held")[0]
    assert (held["by"], words in held["reason"]) == ("disk", True), held


def outcome_after(edge: Edge, *names: str) -> Callable[[], bool]:
    """Whether there was one more of these outcomes since now."""

    def count() -> int:
        return sum(len(edge.events(name)) for name in names)

    before = count()
    return lambda: count() > before


# ------------------------------------------------------------ nothing can be written


@pytest.mark.fault("disk", "full, then there is space again")
def test_full(disk: Disk, on_disk: Ordeal) -> None:
    on_disk.begin()
    with on_disk.endured(within=10):
        disk.fill()
        on_disk.change()
        held_by_the_disk(on_disk.edge, "No space left on device")
        disk.empty()


@pytest.mark.fault("disk", "full after each of the pages that a change takes, then there is space again")
def test_full_at_every_step(disk: Disk, on_disk: Ordeal) -> None:
    """Wherever a change is cut off by the disk: nothing half done is served, and the next attempt settles it."""
    edge = on_disk.edge
    on_disk.begin()
    with on_disk.endured(within=10):
        for leave in range(12):
            tried, applied = outcome_after(edge, "held", "applied"), outcome_after(edge, "applied")
            disk.fill(leave=leave)
            edge.backend("during", version=f"v{leave}-full")
            wait_until(tried, "there is an outcome")
            disk.empty()
            edge.backend("during", version=f"v{leave}")
            wait_until(applied, "a change is applied")
        assert len(edge.events("held")) > 3, "the disk was hardly ever full"


@pytest.mark.fault("disk", "read-only, then writable again")
def test_read_only(disk: Disk, on_disk: Ordeal) -> None:
    on_disk.begin()
    with on_disk.endured(within=10):
        disk.lock()
        on_disk.change()
        held_by_the_disk(on_disk.edge, "Read-only file system")
        disk.unlock()


@pytest.mark.fault("disk", "the one of grayctl's log is full, then there is space again")
def test_log_full(disk: Disk, ordeal: Ordeal) -> None:
    """What cannot be logged is lost; nothing else is."""
    edge = ordeal.edge
    edge.log = disk.root / "grayctl.log"
    ordeal.begin()
    with ordeal.endured(within=10):
        disk.fill()
        with edge.log.open("ab", buffering=0) as log, contextlib.suppress(OSError):
            while log.write(b"\n"):  # what is left of the log's last page
                pass
        for name in ("during", "later"):  # that the second is served shows that the first was told
            edge.backend(name)
            wait_until(lambda: edge.serves(*edge.backends), "the change is served all the same")
        disk.empty()


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        fault("disk", "full while grayctl starts, then there is space again", Disk.fill, Disk.empty),
        fault("disk", "read-only while grayctl starts, then writable again", Disk.lock, Disk.unlock),
    ],
)
def test_starts_on_it(
    disk: Disk, on_disk: Ordeal, refuse: Callable[[Disk], None], allow: Callable[[Disk], None]
) -> None:
    """What stands is served; a change is held until it can be written."""
    edge = on_disk.edge
    on_disk.begin()
    on_disk.grayctl = "restarted"
    with on_disk.endured(within=10):
        edge.down()
        refuse(disk)
        edge.run()
        on_disk.change()
        wait_until(lambda: [one for one in edge.events("held") if one["by"] == "disk"], "the change is held")
        allow(disk)


# ------------------------------------------------------------ the state directory is damaged


def current(state_dir: Path) -> Path:
    return (state_dir / "current").resolve()


def garble(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(b"\x00garbled{{{\xff\n")


def remove_everything(state_dir: Path) -> None:
    for entry in state_dir.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an object is deleted": lambda state: current_object(state).unlink(),
    "an object is garbled": lambda state: garble(current_object(state)),
    "the entry file is deleted": lambda state: (current(state) / "http.conf").unlink(),
    "the entry file is garbled": lambda state: garble(current(state) / "http.conf"),
    "the manifest is garbled": lambda state: garble(current(state) / "manifest.json"),
    "the current generation is removed": lambda state: shutil.rmtree(current(state)),
    "the current link is removed": lambda state: (state / "current").unlink(),
    "the record is garbled": lambda state: garble(state / "state.json"),
    "a garbled journal turns up": lambda state: garble(state / "pending.json"),
    "the node's id is garbled": lambda state: garble(state / "node-id"),
    "everything is removed": remove_everything,
}


@pytest.mark.parametrize("what", [fault("state directory", text, text) for text in DAMAGE])
def test_damaged(ordeal: Ordeal, what: str) -> None:
    """Found and mended with the next change; nginx serves on from memory."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        with ordeal.cold.resting():
            DAMAGE[what](edge.nginx.state_dir)
            ordeal.change()
            wait_until(lambda: edge.serves(*edge.backends), "the change is served")
        assert not ordeal.cold.refusal()


@pytest.mark.parametrize("what", [fault("state directory", f"{text} while grayctl is down", text) for text in DAMAGE])
def test_damaged_while_down(ordeal: Ordeal, what: str) -> None:
    """Mended by the start, or by the first change after it."""
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        with ordeal.cold.resting():
            edge.down()
            DAMAGE[what](edge.nginx.state_dir)
            edge.run()
            ordeal.change()
            wait_until(lambda: edge.serves(*edge.backends), "the change is served")
        assert not ordeal.cold.refusal()


@pytest.mark.parametrize(
    "what",
    [
        fault("state directory", f"{text}, and nothing changes", text)
        for text in ("an object is deleted", "the current generation is removed", "the current link is removed")
    ],
)
def test_damaged_and_nothing_changes(ordeal: Ordeal, what: str) -> None:
    """Found within seconds, since nginx could not start as long as it lasts."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        with ordeal.cold.resting():
            DAMAGE[what](edge.nginx.state_dir)
            assert ordeal.cold.refusal()
            wait_until(lambda: not ordeal.cold.refusal(), "it is mended", interval=0.2)
        assert edge.events("drifted")


# ------------------------------------------------------------ descriptors


@pytest.mark.fault("descriptors", "none is left, then there are enough again")
def test_no_descriptor_left(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=20):
        assert edge.process is not None
        soft, hard = resource.prlimit(edge.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(edge.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        ordeal.change()
        wait_until(lambda: edge.events("held"), "the change is held")
        resource.prlimit(edge.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault("descriptors", "too few while grayctl starts, then enough")
def test_few_descriptors_at_the_start(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=20):
        edge.down()
        edge.under = ("prlimit", "--nofile=12:1024")
        edge.run(wait=False)
        wait_until(lambda: edge.events("cannot_begin"), "it says that it cannot begin")
        ordeal.change()
        assert edge.process is not None
        resource.prlimit(edge.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
