"""Generations on disk: one writer, immutable objects, numbers that only go up, nothing half written."""

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grayctl.errors import Locked, StateError
from grayctl.model.generation import GENERATION
from grayctl.nginx.content import content_sha
from grayctl.nginx.generations import Store
from grayctl.nginx.journal import Pending, State
from grayctl.nginx.staging import _libc, leave_namespace, namespace_allowed
from tests.support.nginx import Nginx, write
from tests.support.process import clean_env

ROOT = Path(__file__).resolve().parents[2]


def test_a_generation_is_laid_out_as_documented(nginx: Nginx, store: Store) -> None:
    files = nginx.files("v1", more={"cart": "# cart\n"})
    manifest = write(store, files)
    folder = store.folder(0)
    assert manifest.number == 0
    assert folder == nginx.state_dir / "generations/000000"
    assert f"000000 {files.digest}" in (folder / "http.conf").read_text()
    assert GENERATION not in (folder / "http.conf").read_text()
    assert json.loads((folder / "manifest.json").read_text())["objects"] == manifest.objects
    assert (folder / "snippets/cart.conf").read_text() == files.objects["cart"].snippet
    for one in files.objects.values():
        path = store.objects_dir / one.filename
        assert path.read_text() == one.content
        assert path.stat().st_mode & 0o777 == 0o444
    assert store.current() is None, "writing refers to nothing"
    assert store.objects(manifest) == files.objects
    assert store.entry(manifest) == (folder / "http.conf").read_text()
    assert not [path for path in store.root.rglob(".*") if path.name != ".."], "no temporary file is left"


def test_flipping_is_the_only_thing_that_changes_what_stands(nginx: Nginx, store: Store) -> None:
    one, two = write(store, nginx.files("v1")), write(store, nginx.files("v2"))
    store.flip(one.number)
    assert os.readlink(store.root / "current") == "generations/000000"  # noqa: PTH115 -- the text is the point
    assert store.stands(one)
    store.flip(two.number)
    assert store.current() == two
    assert not store.stands(one)
    assert (store.root / "snippets/shop.conf").is_file()
    assert store.verify() == []


def test_objects_and_snippets_are_shared_between_generations(nginx: Nginx, store: Store) -> None:
    more = {"cart": "# cart\n"}
    one = write(store, nginx.files("v1", more=more))
    store.flip(one.number)
    inode = (store.objects_dir / one.objects["cart"]).stat().st_ino
    two = write(store, nginx.files("v2", more=more))
    assert one.objects["cart"] == two.objects["cart"]
    assert (store.objects_dir / two.objects["cart"]).stat().st_ino == inode
    assert one.snippets == two.snippets
    three = write(store, nginx.files("v2", more={**more, "pay": "# pay\n"}))
    assert three.snippets != two.snippets
    for kind in ("cart.conf", "pass/cart.conf"):
        old, new = (store.sets_dir / name / kind for name in (two.snippets, three.snippets))
        assert old.stat().st_ino == new.stat().st_ino, "an unchanged snippet is linked, not written"
    assert (store.sets_dir / three.snippets / "pass/pay.conf").read_text() == "# pass pay\n"


def test_numbers_only_go_up(nginx: Nginx, store: Store) -> None:
    """nginx may still answer an old number: one that was given once is never given again."""
    for number in range(4):
        assert write(store, nginx.files(f"v{number}")).number == number
    store.flip(1)
    store.set_state(State(serving=1, digest="x", proven=True, last_proven=1))
    for number in (2, 3):
        for path in store.folder(number).iterdir():
            path.unlink()
        store.folder(number).rmdir()
    assert write(store, nginx.files("v4")).number == 4
    assert store.numbers() == [0, 1, 4]


def test_a_number_in_the_journal_is_not_given_again(nginx: Nginx, store: Store) -> None:
    store.set_pending(Pending(from_=None, to=7, checked=True))
    assert write(store, nginx.files("v1")).number == 8


def overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_text("x", encoding="ascii")


HARMS = pytest.mark.parametrize("harm", [overwrite, Path.unlink])
SNIPPETS = pytest.mark.parametrize("snippet", ["shop.conf", "pass/shop.conf"])


@SNIPPETS
@HARMS
def test_a_damaged_object_is_replaced_when_it_is_needed_again(
    nginx: Nginx, store: Store, harm: Callable[[Path], None], snippet: str
) -> None:
    one = write(store, nginx.files("v1"))
    store.flip(one.number)
    for path in (store.objects_dir / one.objects["shop"], store.sets_dir / one.snippets / snippet):
        harm(path)
    assert len(store.damage(one)) == 2
    with pytest.raises(StateError, match="shop"):
        store.objects(one)
    assert store.objects(one, whole=False) == {}
    two = write(store, nginx.files("v1"))
    assert store.damage(two) == []
    assert store.objects(two) == nginx.files("v1").objects


@SNIPPETS
@HARMS
def test_a_damaged_snippet_is_seen_and_mended(
    nginx: Nginx, store: Store, harm: Callable[[Path], None], snippet: str
) -> None:
    one = write(store, nginx.files("v1"))
    store.flip(one.number)
    harm(store.sets_dir / one.snippets / snippet)
    assert store.verify() == [f"{store.sets_dir / one.snippets}: a snippet is missing or changed"]
    with pytest.raises(StateError, match=one.snippets):
        store.objects(one)
    two = store.write(nginx.files("v1"), cause="a test", trace_id="t", created=1.0)
    assert store.complete(two), "what nginx read of it meanwhile counts for nothing"
    assert store.objects(two) == nginx.files("v1").objects


def test_what_an_earlier_grayctl_wrote_without_passes_is_whole_and_gets_them(nginx: Nginx, store: Store) -> None:
    """Were it damaged, an upgrade would forget what was served last."""
    files = nginx.files("v1", more={"cart": "# cart\n"})
    old = {name: replace(one, passing="") for name, one in files.objects.items()}
    one = write(store, replace(files, objects=old))
    store.flip(one.number)
    shutil.rmtree(store.sets_dir / one.snippets / "pass", ignore_errors=True)
    hashes = {name: content_sha(f"# {name}\n") for name in ("cart", "shop")}
    assert one.snippets == content_sha("".join(f"{name} {sha}\n" for name, sha in hashes.items())), "as it named them"
    assert store.verify() == []
    assert store.objects(one) == old
    two = write(store, replace(files, objects={**old, "shop": files.objects["shop"]}))
    store.flip(two.number)
    assert store.verify() == []
    assert store.objects(two) == {**old, "shop": files.objects["shop"]}, "one is in quarantine"


def test_damage_is_named_by_path(nginx: Nginx, store: Store) -> None:
    one = write(store, nginx.files("v1"))
    store.flip(one.number)
    (store.folder(0) / "stream.conf").unlink()
    (store.folder(0) / "http.conf").write_text("# by hand\n")
    assert store.verify() == [f"{store.folder(0)}/http.conf: changed", f"{store.folder(0)}/stream.conf: missing"]


def test_an_unknown_generation_is_refused_with_what_there_is(nginx: Nginx, store: Store) -> None:
    write(store, nginx.files("v1"))
    with pytest.raises(StateError, match=r"no generation 9; kept are: 0"):
        store.read(9)


def test_text_that_is_no_unicode_survives(nginx: Nginx, store: Store) -> None:
    """What a registration says need not be valid; it comes back as it was."""
    files = nginx.files("v1", more={"odd": "# \ud800 \u5317\u4eac\n"})
    assert store.objects(write(store, files)) == files.objects


# ---------------------------------------------------------------- one writer, its own directory


def test_a_second_writer_is_refused_with_the_pid_of_the_first(nginx: Nginx, store: Store) -> None:
    program = f"""
from pathlib import Path
from grayctl.nginx.content import content_sha
from grayctl.nginx.generations import Store
with Store(Path({str(store.root)!r})).opened():
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_env({"PYTHONPATH": str(ROOT)}),
    )
    assert done.returncode != 0
    assert "Locked" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    with pytest.raises(Locked), Store(nginx.state_dir).opened():
        pass


def test_the_lock_goes_with_its_holder(nginx: Nginx) -> None:
    program = f"""
import os, signal
from pathlib import Path
from grayctl.nginx.content import content_sha
from grayctl.nginx.generations import Store
with Store(Path({str(nginx.state_dir)!r})).opened():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = clean_env({"PYTHONPATH": str(ROOT)})
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, env=env).returncode == -9
    with Store(nginx.state_dir).opened() as store:
        assert store.numbers() == []


def test_the_lock_is_not_handed_to_children(nginx: Nginx) -> None:
    """nginx -t that hangs must not keep the next grayctl out."""
    with Store(nginx.state_dir).opened():
        child = subprocess.Popen(["sleep", "1000"])
    try:
        with Store(nginx.state_dir).opened():
            pass
    finally:
        child.kill()
        child.wait()


def test_the_state_directory_is_its_owners_alone_unless_somebody_opened_it(tmp_path: Path) -> None:
    """Where nginx's master is not root, it has to read what another user made."""
    with Store(tmp_path / "new").opened() as store:
        assert store.root.stat().st_mode & 0o777 == 0o700
    store.root.chmod(0o755)
    with store.opened():
        assert store.root.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Who writes there writes what runs as root."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(StateError, match="chmod go-w"), Store(tmp_path / "state").opened():
        pass


# ---------------------------------------------------------------- pruning


def fill(nginx: Nginx, store: Store, count: int) -> None:
    """`count` generations that stood one after another."""
    for number in range(count):
        manifest = write(store, nginx.files(f"v{number}", more={f"only-{number}": f"# {number}\n"}))
        store.flip(manifest.number)
        store.mark_served(manifest.number)
        store.set_state(State(serving=number, digest=manifest.digest, proven=True, last_proven=number))


def test_pruning_keeps_the_newest_and_what_they_use(nginx: Nginx, store: Store) -> None:
    fill(nginx, store, 6)
    assert store.prune(3) == (0, 1, 2)
    assert store.numbers() == [3, 4, 5]
    for number in store.numbers():
        assert store.damage(store.read(number)) == []
    assert len(list(store.objects_dir.iterdir())) == 6, "two objects a generation"
    assert len(list(store.sets_dir.iterdir())) == 3
    assert store.prune(3) == ()


def test_pruning_spares_what_a_way_back_needs(nginx: Nginx, store: Store) -> None:
    fill(nginx, store, 8)
    store.flip(2)
    store.set_state(State(serving=2, digest="x", proven=False, last_proven=1))
    store.set_pending(Pending(from_=0, to=3, checked=True))
    store.prune(2)
    assert store.numbers() == [0, 1, 2, 3, 6, 7]


def test_refused_candidates_never_push_served_generations_out(nginx: Nginx, store: Store) -> None:
    """A fault that lasts a night tries every ten seconds."""
    fill(nginx, store, 3)
    for number in range(40):
        write(store, nginx.files(f"refused-{number}"))
    store.prune(3)
    kept = store.numbers()
    assert kept[:3] == [0, 1, 2]
    assert len(kept) == 23, "and they do not fill the disk"


def test_nothing_is_swept_while_a_manifest_cannot_be_read(nginx: Nginx, store: Store) -> None:
    fill(nginx, store, 4)
    (store.folder(2) / "manifest.json").write_text("{")
    with pytest.raises(StateError, match=r"manifest\.json"):
        store.prune(2)
    for number in (3,):
        assert store.damage(store.read(number)) == []
    assert len(list(store.objects_dir.iterdir())) == 8


def test_what_a_crash_left_half_written_is_swept(nginx: Nginx, store: Store) -> None:
    fill(nginx, store, 3)
    (store.generations_dir / ".000007.new").mkdir()
    (store.objects_dir / ".half.conf.new").write_text("ha")
    store.prune(1)
    assert not list(store.root.rglob(".*"))


# ---------------------------------------------------------------- a disk that refuses


def in_private_mounts(work: Callable[[], None]) -> None:
    """Run `work` in a thread with mounts of its own: they are gone with it, whatever happens."""
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    raised: list[BaseException] = []

    def body() -> None:
        try:
            leave_namespace()
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again below, in the test's own thread
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes | None) -> None:
    done = _libc.mount(source, os.fsencode(target), kind, flags, options)
    assert done == 0, os.strerror(ctypes.get_errno())


MS_RDONLY, MS_REMOUNT, MS_BIND = 0x1, 0x20, 0x1000


def test_a_full_disk_leaves_what_stood_and_says_what_to_do(nginx: Nginx) -> None:
    nginx.state_dir.mkdir()

    def work() -> None:
        mount(b"none", nginx.state_dir, b"tmpfs", 0, b"size=256k,mode=755")
        with Store(nginx.state_dir).opened() as store:
            good = write(store, nginx.files("v1"))
            store.flip(good.number)
            with pytest.raises(StateError, match=r"No space left on device.*free some space"):
                write(store, nginx.files("v2", more={"big": "# filler\n" * 60000}))
            assert store.stands(good)
            assert store.numbers() == [0], "no half of a generation is there"
            assert not list(store.objects_dir.glob(".*")), "and no half of a file keeps the disk full"
            assert write(store, nginx.files("v3")).number == 1, "what fits is written again"

    in_private_mounts(work)


def test_a_read_only_disk_leaves_what_stood_and_says_what_to_do(nginx: Nginx) -> None:
    nginx.state_dir.mkdir()

    def work() -> None:
        mount(b"none", nginx.state_dir, b"tmpfs", 0, b"mode=755")
        with Store(nginx.state_dir).opened() as store:
            good = write(store, nginx.files("v1"))
            store.flip(good.number)
            other = write(store, nginx.files("v2"))
            # a second mount on top, since the first one holds the open lock
            mount(os.fsencode(nginx.state_dir), nginx.state_dir, None, MS_BIND, None)
            mount(b"none", nginx.state_dir, None, MS_REMOUNT | MS_RDONLY | MS_BIND, None)
            for refused in (
                lambda: write(store, nginx.files("v3")),
                lambda: store.flip(other.number),
                lambda: store.set_pending(Pending(from_=0, to=1, checked=True)),
                lambda: store.set_state(State()),
            ):
                with pytest.raises(StateError, match=r"Read-only file system.*remount"):
                    refused()
            assert store.stands(good)
            with pytest.raises(Locked), Store(nginx.state_dir).opened():
                pass

    in_private_mounts(work)


@pytest.mark.parametrize("count", [1, 40], ids=["few", "many"])
def test_what_could_not_be_synced_is_written_again(
    nginx: Nginx, store: Store, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A second sync would succeed and tell nothing: the kernel has dropped what it could not write."""
    files = nginx.files("v1", more={f"s{number}": f"# {number}\n" for number in range(count)})
    candidate = store.write(files, cause="a test", trace_id="t", created=1.0)
    first = (store.objects_dir / candidate.objects["s0"]).stat().st_ino

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("grayctl.nginx.writer.sync", fail)
        with pytest.raises(StateError, match=r"Input/output error.*the disk fails"):
            store.complete(candidate)
    assert store.numbers() == [], "there is no such generation any more"
    again = write(store, files)
    assert store.damage(again)[0].startswith(f"{store.root / 'snippets'}"), "all that is missing is the flip"
    assert (store.objects_dir / again.objects["s0"]).stat().st_ino != first


def test_what_another_daemon_wrote_and_may_not_have_synced_is_written_again(nginx: Nginx) -> None:
    with Store(nginx.state_dir).opened() as store:
        standing = write(store, nginx.files("v0"))
        store.flip(standing.number)
        killed = store.write(nginx.files("v1"), cause="a test", trace_id="t", created=1.0)
        shop = store.objects_dir / killed.objects["shop"]
        before = shop.stat().st_ino, (store.objects_dir / standing.objects["shop"]).stat().st_ino
    with Store(nginx.state_dir).opened() as store:
        write(store, nginx.files("v1"))
        write(store, nginx.files("v0"))
        after = shop.stat().st_ino, (store.objects_dir / standing.objects["shop"]).stat().st_ino
    assert after[0] != before[0]
    assert after[1] == before[1], "what stands was synced before it stood"


def test_what_a_power_cut_left_of_a_candidate_is_removed_at_the_next_start(nginx: Nginx) -> None:
    with Store(nginx.state_dir).opened() as store:
        store.flip(write(store, nginx.files("v0")).number)
        store.mark_served(0)
        torn = store.write(nginx.files("v1"), cause="a test", trace_id="t", created=1.0)
        (store.folder(torn.number) / "manifest.json").write_bytes(b"")
    with Store(nginx.state_dir).opened() as store:
        assert store.numbers() == [0]
        store.prune(1)
