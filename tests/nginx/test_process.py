"""A signal reaches nobody but the proven master; workers are told apart; orphans are left alone."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from grayctl.nginx.generations import Store
from grayctl.nginx.process import Master, find_master, hang_up, is_alive, orphans, start_time, workers
from grayctl.nginx.site import Activated, Site
from tests.support.nginx import BINARY, Nginx, write
from tests.support.process import start, stop, wait_until


@pytest.fixture
def site(nginx: Nginx, store: Store) -> Site:
    """Generation 0 stands, nginx does not run."""
    one = nginx.site(store)
    one.init(nginx.files("v0"), created=0.0)
    return one


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is no nginx and dies of SIGHUP."""
    process = start(["sleep", "1000"])
    yield process.pid
    assert process.poll() is None, "somebody signalled a stranger"
    stop(process, sig=signal.SIGKILL)


def test_the_master_is_found_and_its_workers_are(site: Site, nginx: Nginx) -> None:
    assert find_master(site.facts) is None
    nginx.start()
    master = find_master(site.facts)
    assert nginx.process is not None
    assert master is not None
    assert master.pid == nginx.process.pid
    assert is_alive(master)
    wait_until(lambda: len(workers(master)) == 2, "two workers are up")
    assert {one.pid for one in workers(master)} == set(nginx.children())
    assert not any(one.leaving for one in workers(master))
    nginx.stop()
    assert find_master(site.facts) is None
    assert not is_alive(master)
    assert workers(master) == []


@pytest.mark.parametrize("content", ["", "\n", "none", "-1", "0", "4194304999", "1 2"])
def test_a_senseless_pid_file_means_that_nginx_does_not_run(site: Site, nginx: Nginx, content: str) -> None:
    nginx.pid_file.write_text(content)
    assert find_master(site.facts) is None


def test_a_pid_file_that_names_a_stranger_names_no_master(site: Site, nginx: Nginx, stranger: int) -> None:
    """After a reboot a stale pid file names anybody."""
    nginx.pid_file.write_text(f"{stranger}\n")
    assert find_master(site.facts) is None


async def test_a_stranger_in_the_pid_file_is_never_signalled(site: Site, nginx: Nginx, stranger: int) -> None:
    nginx.pid_file.write_text(f"{stranger}\n")
    candidate = write(site.store, nginx.files("v1"))
    assert (await site.check(candidate)).ok
    result = await site.activate(candidate)
    assert isinstance(result, Activated), "nothing ran, so nothing was rolled back"
    assert not result.proven
    assert await site.notice() is None


def test_a_pid_file_that_names_a_worker_names_no_master(site: Site, nginx: Nginx) -> None:
    nginx.start()
    worker = wait_until(nginx.children, "a worker")[0]
    nginx.pid_file.write_text(f"{worker}\n")
    assert find_master(site.facts) is None


def test_the_master_of_another_configuration_is_not_ours(site: Site, nginx: Nginx, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Nginx(tmp_path / "other")
    with Store(other.state_dir).opened() as store:
        other.site(store).init(other.files("v0"), created=0.0)
        try:
            other.start()
            assert other.process is not None
            nginx.pid_file.write_text(f"{other.process.pid}\n")
            assert find_master(site.facts) is None
        finally:
            other.close()


def test_a_process_that_only_claims_to_be_nginx_is_not(site: Site, nginx: Nginx, tmp_path: Path) -> None:
    """The title is what the process says of itself; the executable is what the kernel says."""
    script = tmp_path / "claims.sh"
    script.write_text(f"exec -a 'nginx: master process nginx -c {nginx.conf}' sleep 1000\n")
    process = start(["bash", script])
    try:
        wait_until(lambda: b"master" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "it claims")
        nginx.pid_file.write_text(f"{process.pid}\n")
        assert find_master(site.facts) is None
    finally:
        stop(process, sig=signal.SIGKILL)


@pytest.mark.parametrize("spelling", [["-c", "{conf}"], ["-c{conf}"], ["-p", "{folder}", "-c", "nginx.conf"]])
def test_the_command_line_may_name_the_configuration_in_any_way(site: Site, nginx: Nginx, spelling: list[str]) -> None:
    arguments = [one.format(conf=nginx.conf, folder=nginx.folder) for one in spelling]
    process = start([BINARY, *arguments], pdeathsig=signal.SIGTERM)
    try:
        wait_until(lambda: nginx.running_pid() == process.pid, "nginx is up")
        found = wait_until(lambda: find_master(site.facts), "the master is found")
        assert found is not None
        assert found.pid == process.pid
    finally:
        stop(process)


@pytest.mark.usefixtures("site")
def test_an_upgraded_executable_is_still_the_master(nginx: Nginx, tmp_path: Path) -> None:
    """A package upgrade unlinks the running binary: /proc says `(deleted)`."""
    private = tmp_path / "nginx-private"
    shutil.copy(BINARY, private)
    nginx.binary = str(private)
    with Store(tmp_path / "elsewhere").opened() as store:
        facts = nginx.site(store).facts
    process = start([private, "-c", nginx.conf], pdeathsig=signal.SIGTERM)
    try:
        wait_until(lambda: find_master(facts), "the master is found")
        private.unlink()
        found = find_master(facts)
        assert found is not None
        assert found.pid == process.pid
    finally:
        stop(process)


def test_a_recycled_pid_gets_no_signal(site: Site, nginx: Nginx) -> None:
    nginx.start()
    master = find_master(site.facts)
    assert master is not None
    before = wait_until(lambda: len(nginx.children()) == 2 and nginx.children(), "two workers are up")
    assert hang_up(Master(master.pid, master.start_time - 1)) is False
    assert "signal 1 (SIGHUP)" not in nginx.error_log.read_text()
    assert nginx.children() == before
    assert hang_up(master) is True
    wait_until(lambda: "signal 1 (SIGHUP)" in nginx.error_log.read_text(), "nginx got the signal")


def test_a_dead_process_gets_no_signal() -> None:
    process = start(["true"])
    process.wait()
    assert hang_up(Master(process.pid, 1)) is False


def test_a_zombie_is_not_alive() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        wait_until(lambda: start_time(pid) is None, "the zombie counts as gone")
    finally:
        os.waitpid(pid, 0)


def test_orphans_are_named_and_left_alone(site: Site, nginx: Nginx) -> None:
    nginx.start()
    assert not set(nginx.children()) & set(orphans(site.facts))
    left = nginx.kill(with_workers=False)
    wait_until(lambda: set(left) <= set(orphans(site.facts)), "the orphans are seen")
    assert all(start_time(pid) is not None for pid in left)


def test_the_workers_are_found_without_the_kernels_list_of_children(
    site: Site, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without CONFIG_PROC_CHILDREN: /proc is searched by parent."""
    nginx.start()
    master = find_master(site.facts)
    assert master is not None
    wait_until(lambda: len(workers(master)) == 2, "two workers are up")
    wanted = nginx.children()
    real = Path.read_text

    def without_children(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "children":
            raise FileNotFoundError(path)
        return real(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", without_children)
    assert sorted(one.pid for one in workers(master)) == sorted(wanted)
