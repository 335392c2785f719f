"""The staged check: the user's whole configuration with the candidate in it, and the live tree left alone."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from grayctl.errors import NginxError, StateError
from grayctl.model.generation import Manifest
from grayctl.nginx.check import Checked, check, command_of
from grayctl.nginx.generations import Store
from grayctl.nginx.site import Site
from grayctl.nginx.staging import Spare, namespace_allowed
from tests.support.nginx import BINARY, Nginx, write
from tests.support.process import clean_env, wait_until
from tests.support.rights import demand_root

ROOT = Path(__file__).resolve().parents[2]


class Waited(Site):
    """Every check finds an nginx that waits for it."""

    async def check(self, candidate: Manifest, *, trial: bool = False) -> Checked:
        async with asyncio.timeout(20):
            while not self.waits():  # noqa: ASYNC110 -- a process says by no event that it waits
                await asyncio.sleep(0.005)
        checked = await super().check(candidate, trial=trial)
        assert self._spare is None, "it was taken, or closed"
        return checked

    def waits(self) -> bool:
        self.stand_by()
        if self._spare is not None and self._spare.fits(command_of(self.settings, self.facts)):
            return True
        if self._spare is not None and self._spare._mounts.changed:  # some other test's, in the meantime
            self.close()
        return False


@pytest.fixture(params=["namespace", "waited", "flip"])
def site(request: pytest.FixtureRequest, nginx: Nginx, store: Store) -> Site:
    """All modes; generation 0 stands, nginx does not run."""
    one = nginx.site(store, kind=Waited if request.param == "waited" else Site)
    if request.param != "flip" and not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    one._namespace = request.param != "flip"
    one.init(nginx.files("v0"), created=0.0)
    return one


def tree_hash(root: Path) -> str:
    """All names, links and contents below a directory, inode and modification time of each included."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        digest.update(f"{path} {found.st_ino} {found.st_mtime_ns} {found.st_mode}\n".encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def mounted() -> str:
    return Path("/proc/self/mountinfo").read_text()


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_good_candidate_passes_and_nothing_that_is_served_changes(site: Site, nginx: Nginx) -> None:
    nginx.start()
    candidate = write(site.store, nginx.files("v1"))
    checked = await site.check(candidate)
    assert checked.ok
    assert checked.messages == ()
    assert site.store.current_number() == 0
    assert nginx.answers() == site.store.read(0).stamp
    assert site.store.has_pending() == (site.staging == "namespace"), "beside the check the journal is made ready"


async def test_a_trial_leaves_no_journal_behind(site: Site, nginx: Nginx) -> None:
    """While a culprit is looked for, a candidate may pass and is not activated all the same."""
    assert (await site.check(write(site.store, nginx.files("v1")), trial=True)).ok
    assert not site.store.has_pending()


async def test_a_refused_candidate_leaves_no_journal_behind(site: Site, nginx: Nginx) -> None:
    assert not (await site.check(write(site.store, nginx.files("v1", body="no_such_directive;\n")))).ok
    assert not site.store.has_pending()


async def test_what_is_damaged_beside_the_check_is_mended_and_checked_again(nginx: Nginx, store: Store) -> None:
    """`write` looks at what is new alone; what else the generation refers to is compared while nginx reads it."""
    site = nginx.site(store)
    site.init(nginx.files("v0", more={"cart": "# one\n"}), created=0.0)
    files = nginx.files("v1", more={"cart": "# one\n"})
    write(store, files)
    candidate = store.write(files, cause="a test", trace_id="t", created=1.0)
    damaged = store.objects_dir / files.objects["cart"].filename
    damaged.chmod(0o644)
    damaged.write_text("no_such_directive;\n")
    assert (await site.check(candidate)).ok
    assert damaged.read_text() == "# one\n"


async def test_the_namespace_check_leaves_the_live_tree_untouched_to_the_last_inode(nginx: Nginx, store: Store) -> None:
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    good, bad = write(store, nginx.files("v1")), write(store, nginx.files("v2", body="no_such_directive;\n"))
    mounts = mounted()
    before = tree_hash(store.root)
    assert (await site.check(good, trial=True)).ok
    assert not (await site.check(bad, trial=True)).ok
    assert tree_hash(store.root) == before
    assert mounted() == mounts


async def test_many_checks_leave_no_thread_and_no_descriptor(site: Site, nginx: Nginx) -> None:
    candidate = write(site.store, nginx.files("v1"))
    await site.check(candidate)
    threads, descriptors = threading.active_count(), descriptors_open()
    for _ in range(5):
        assert (await site.check(candidate)).ok
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    assert descriptors_open() == descriptors


async def test_the_culprit_is_named_by_file_and_line(site: Site, nginx: Nginx) -> None:
    files = nginx.files("v1", more={"cart": "\n\nno_such_directive;\n"})
    checked = await site.check(write(site.store, files))
    assert not checked.ok
    assert checked.culprit is not None
    assert checked.culprit.file == str(site.store.objects_dir / files.objects["cart"].filename)
    assert checked.culprit.line == 3
    assert "no_such_directive" in checked.messages[0]
    assert (await site.check_current()).ok, "the candidate is at fault, not the user's tree"


async def test_an_error_in_the_entry_file_is_named_as_the_user_knows_it(site: Site, nginx: Nginx) -> None:
    checked = await site.check(write(site.store, nginx.files("v1", http="no_such_directive;")))
    assert checked.culprit is not None
    assert checked.culprit.file == str(site.store.root / "current/http.conf")


async def test_an_error_without_a_place_has_no_culprit(site: Site, nginx: Nginx) -> None:
    """A variable that nobody defines any more: nginx names neither file nor line."""
    files = nginx.files("v1", http='split_clients "" $other { * x; }')
    lost = nginx.files("v1")
    stripped = lost.objects["shop"].content.replace("$gray_shop", "$gray_gone")
    without = nginx.files("v1", more={"filler": stripped})
    assert (await site.check(write(site.store, files))).ok
    assert not (await site.check(write(site.store, without))).ok


async def test_a_users_own_broken_tree_is_told_from_a_broken_candidate(site: Site, nginx: Nginx) -> None:
    nginx.http_extra = "broken_by_the_user on;"
    nginx.write_conf()
    assert not (await site.check(write(site.store, nginx.files("v1")))).ok
    current = await site.check_current()
    assert not current.ok
    assert current.culprit is not None
    assert current.culprit.file == str(nginx.conf)


async def test_snippets_of_the_candidate_are_what_the_check_reads(site: Site, nginx: Nginx) -> None:
    """A snippet published with this very generation can be included by the user beside it."""
    nginx.server_extra = f"location /new/ {{ include {nginx.state_dir}/snippets/cart.conf; return 200; }}"
    nginx.write_conf()
    files = nginx.files("v1", more={"cart": "# a new service\n"})
    assert (await site.check(write(site.store, files))).ok
    assert not (await site.check_current()).ok, "what stands does not know the snippet yet"


async def test_the_empty_pid_file_of_a_test_is_not_left_behind(site: Site, nginx: Nginx) -> None:
    assert (await site.check(write(site.store, nginx.files("v1")))).ok
    assert not nginx.pid_file.exists()
    nginx.pid_file.write_text("")
    assert (await site.check_current()).ok
    assert nginx.pid_file.exists(), "what was there before is the user's"


async def test_a_hanging_test_is_killed_with_all_its_children(nginx: Nginx, store: Store) -> None:
    wrapper = nginx.folder / "slow-nginx"
    lock = nginx.folder / "hang"
    hang = f"echo $$ > {nginx.folder}/hung; sleep 1000 & wait"
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *-t*) [ -e {lock} ] && {{ {hang}; }};; esac\nexec {BINARY} "$@"\n')
    wrapper.chmod(0o755)
    nginx.binary = str(wrapper)
    site = nginx.site(store, check_timeout=0.3)
    site.init(nginx.files("v0"), created=0.0)
    candidate = write(store, nginx.files("v1"))
    lock.touch()
    checked = await site.check(candidate)
    assert not checked.ok
    assert "did not end within 0.3 s" in checked.messages[0]
    group = int((nginx.folder / "hung").read_text())
    wait_until(lambda: not members(group), "the whole process group is gone")
    lock.unlink()
    assert (await nginx.site(store).check(candidate)).ok


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in {"Z", "X"}:
                found.append(int(entry.name))
    return found


async def test_a_missing_binary_is_an_error_of_the_machinery(nginx: Nginx, store: Store) -> None:
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    nginx.binary = str(nginx.folder / "nowhere")
    with pytest.raises(NginxError, match="cannot be started"):
        await check(nginx.settings(), site.facts, None)


async def test_nginx_never_sees_the_token(nginx: Nginx, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "a-secret")
    wrapper = nginx.folder / "spy"
    wrapper.write_text(f'#!/bin/sh\nenv > {nginx.folder}/environment\nexec {BINARY} "$@"\n')
    wrapper.chmod(0o755)
    nginx.binary = str(wrapper)
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    assert (await site.check_current()).ok
    seen = (nginx.folder / "environment").read_text()
    assert "MALLOC_TOP_PAD_" in seen
    assert "a-secret" not in seen


async def test_a_candidate_that_is_gone_is_never_judged(site: Site, nginx: Nginx) -> None:
    """Bound over nothing, the check would silently test what stands."""
    candidate = write(site.store, nginx.files("v1"))
    for path in site.store.folder(candidate.number).iterdir():
        path.unlink()
    site.store.folder(candidate.number).rmdir()
    with pytest.raises(StateError, match="there is no generation 1"):
        await site.check(candidate)


async def test_a_namespace_that_fails_after_all_falls_back_to_flipping(nginx: Nginx, store: Store) -> None:
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    site._namespace = True
    steps: list[str] = []
    site.step = steps.append
    # a `current` that leads nowhere cannot be mounted over
    (store.root / "current").unlink()
    (store.root / "current").symlink_to("generations/000099")
    checked = await asyncio.wait_for(site.check(write(store, nginx.files("v1"))), 30)
    assert checked.ok
    assert steps == ["check-pending", "check-flipped", "check-tested", "check-flipped-back", "checked"]


def test_no_namespace_is_claimed_where_mounts_in_it_would_not_be_private() -> None:
    """In a chroot `/` is no mount point: nothing keeps a mount from the host, so none is made."""
    demand_root("to chroot")
    program = """
import os
from grayctl.nginx.staging import Spare, namespace_allowed
before = namespace_allowed()
os.chroot(os.getcwd())
print(before, namespace_allowed())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=clean_env()
    )
    assert done.stdout.split()[1] == "False"


def waiting(store: Store) -> list[int]:
    """The processes that wait for a check of this store."""
    gate = str(store.root / "next-check").encode()
    return [
        int(one.parent.name) for one in Path("/proc").glob("[0-9]*/cmdline") if gate in one.read_bytes().split(b"\0")
    ]


@pytest.fixture
def waited(nginx: Nginx, store: Store) -> Iterator[Waited]:
    """An nginx waits for the next check; generation 0 stands."""
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    one = nginx.site(store, kind=Waited)
    assert isinstance(one, Waited)
    one.init(nginx.files("v0"), created=0.0)
    wait_until(one.waits, "an nginx waits")
    yield one
    one.close()
    assert not waiting(store)
    assert not (store.root / "next-check").exists()


async def test_a_waiting_nginx_reads_nothing_before_it_is_asked(waited: Waited, nginx: Nginx) -> None:
    candidate = write(waited.store, nginx.files("v1"))
    nginx.http_extra = "broken_by_the_user on;"
    nginx.write_conf()
    (pid,) = waiting(waited.store)
    checked = await Site.check(waited, candidate)
    assert not checked.ok
    assert "broken_by_the_user" in checked.messages[0]
    assert pid not in waiting(waited.store)


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGTERM])
async def test_a_waiting_nginx_that_was_killed_is_no_verdict(
    waited: Waited, nginx: Nginx, killed_by: signal.Signals
) -> None:
    candidate = write(waited.store, nginx.files("v1"))
    (pid,) = waiting(waited.store)
    os.kill(pid, killed_by)
    assert (await Site.check(waited, candidate)).ok


def test_a_waiting_nginx_fits_no_other_command_and_no_other_binary(nginx: Nginx, tmp_path: Path) -> None:
    """A package upgrade between two changes, or an nginx that was taken away."""
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    binary = tmp_path / "nginx-here"
    binary.symlink_to(nginx.binary)
    command = [str(binary), "-t", "-c", str(nginx.conf)]
    spare = Spare(command, tmp_path / "next-check")
    try:
        wait_until(lambda: spare.fits(command) or spare._mounts.changed, "it waits")
        assert not spare.fits([*command, "-q"])
        binary.unlink()
        assert not spare.fits(command)
    finally:
        spare.close()


async def test_what_nginx_logs_in_a_check_may_be_more_than_a_pipe_holds(waited: Waited, nginx: Nginx) -> None:
    names = " ".join(["example.org"] * 30)
    servers = "".join(f"server {{ listen unix:{nginx.folder}/twice; server_name {names}; }}\n" for _ in range(60))
    candidate = write(waited.store, nginx.files("v1", http=servers))
    checked = await Site.check(waited, candidate)
    assert checked.ok
    assert sum(map(len, checked.warnings)) > 1 << 16


def test_a_waiting_nginx_dies_with_whoever_started_it(nginx: Nginx, store: Store) -> None:
    program = f"""
import os, signal, time
from pathlib import Path
from grayctl.nginx.staging import Spare
command = ["{nginx.binary}", "-t", "-c", "{nginx.conf}"]
spare = Spare(command, Path("{store.root}/next-check"))
while not spare.fits(command) and not spare._mounts.changed:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    if not namespace_allowed():
        pytest.skip("no mount namespaces here: needs CAP_SYS_ADMIN")
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, env=clean_env(), timeout=30)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not waiting(store), "it is gone")
