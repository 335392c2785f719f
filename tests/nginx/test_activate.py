"""Applied means that nginx serves it: the protocol against a real nginx, and every way in which a reload lies."""

import socket
import subprocess

import pytest

from grayctl.errors import NginxConfigError
from grayctl.model.generation import FileSet
from grayctl.model.outcome import RolledBack
from grayctl.nginx.generations import Store
from grayctl.nginx.process import find_master, workers
from grayctl.nginx.site import ACTIVATION, ROLLBACK, Activated, Site
from tests.support.nginx import BINARY, Nginx, Prober, write
from tests.support.ports import free_block
from tests.support.process import eventually

LIMIT = "limit_req_zone {key} zone=t:1m rate=100r/s;"


async def apply(site: Site, files: FileSet) -> Activated | RolledBack:
    """Write, check, activate; the check must pass: what is hidden behind it is the subject."""
    candidate = write(site.store, files)
    checked = await site.check(candidate)
    assert checked.ok, checked
    return await site.activate(candidate)


def serves(nginx: Nginx, version: str) -> bool:
    return nginx.get("/version") == f"{version}.shop.gray\n" and nginx.get("/") == "backend\n"


def exit_code(nginx: Nginx, *arguments: str) -> int:
    return subprocess.run([BINARY, "-c", nginx.conf, *arguments], capture_output=True, check=False).returncode


def started(nginx: Nginx, store: Store, *, confirm_timeout: float = 10.0, keep: int = 20) -> Site:
    """A running nginx that serves generation 0, `v0`."""
    site = nginx.site(store, confirm_timeout=confirm_timeout, keep=keep)
    site.init(nginx.files("v0", http=LIMIT.format(key="$uri")), created=0.0)
    nginx.start()
    return site


def beyond_staging(steps: list[str]) -> list[str]:
    """The steps without those of a flipped check, which stands in where there is no mount namespace."""
    return [step for step in steps if not step.startswith("check-")]


async def test_what_is_activated_is_served_and_recorded(nginx: Nginx, store: Store) -> None:
    site = started(nginx, store)
    steps: list[str] = []
    site.step = steps.append
    result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri")))
    assert isinstance(result, Activated)
    assert result.proven
    assert beyond_staging(steps) == ["checked", *ACTIVATION]
    assert serves(nginx, "v1")
    assert store.current_number() == 1
    assert site.proven
    assert store.state().last_proven == 1
    assert not store.has_pending()


async def test_a_proof_means_that_nobody_answers_the_old_generation_any_more(nginx: Nginx, store: Store) -> None:
    """One good answer proves nothing: old workers answer for 100 ms more."""
    site = started(nginx, store)
    for version in ("v1", "v2", "v3"):
        assert isinstance(await apply(site, nginx.files(version, http=LIMIT.format(key="$uri"))), Activated)
        assert {nginx.get("/version") for _ in range(60)} == {f"{version}.shop.gray\n"}


async def test_a_refused_key_change_is_rolled_back(nginx: Nginx, store: Store) -> None:
    """nginx -t passes and `-s reload` exits 0: nginx refuses in its error log alone."""
    site = started(nginx, store)
    steps: list[str] = []
    site.step = steps.append
    result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$binary_remote_addr")))
    assert isinstance(result, RolledBack)
    assert "limit_req" in result.reason
    assert (result.generation, result.failed, result.restored) == (0, 1, True)
    assert beyond_staging(steps) == ["checked", "pending", "flipped", "signalled", *ROLLBACK]
    assert serves(nginx, "v0")
    assert nginx.answers() == store.read(0).stamp
    assert not store.has_pending()
    assert site.proven


async def test_the_exit_codes_hide_what_we_detect(nginx: Nginx, store: Store) -> None:
    """The premise of it all, on this very nginx: test and reload both exit 0 over a configuration nginx refuses."""
    site = started(nginx, store)
    store.flip(write(store, nginx.files("v1", http=LIMIT.format(key="$binary_remote_addr"))).number)
    assert exit_code(nginx, "-t") == 0
    assert exit_code(nginx, "-s", "reload") == 0
    await eventually(lambda: "limit_req" in nginx.error_log.read_text(), "nginx refuses")
    assert serves(nginx, "v0")
    assert site.facts.error_log == nginx.error_log


async def test_a_changed_cache_level_is_rolled_back(nginx: Nginx, store: Store) -> None:
    cache = f"proxy_cache_path {nginx.folder}/cache levels={{}} keys_zone=c:1m;"
    site = nginx.site(store)
    site.init(nginx.files("v0", http=cache.format("1")), created=0.0)
    nginx.start()
    result = await apply(site, nginx.files("v1", http=cache.format("1:2")))
    assert isinstance(result, RolledBack)
    assert "levels" in result.reason
    assert result.restored
    assert serves(nginx, "v0")


async def test_a_port_that_another_process_holds_is_detected(nginx: Nginx, store: Store) -> None:
    """nginx -t ignores EADDRINUSE; nginx retries for 2.5 s, gives up, and serves on as before."""
    site = started(nginx, store)
    port = free_block(1)
    with socket.create_server(("127.0.0.1", port)):
        nginx.server_extra = f"listen 127.0.0.1:{port};"
        nginx.write_conf()
        result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri")))
    assert isinstance(result, RolledBack)
    assert "still could not bind" in result.reason
    assert result.restored, "nginx never left what it served, and says so"
    assert serves(nginx, "v0")


async def test_a_port_that_becomes_free_within_the_retries_is_no_failure(nginx: Nginx, store: Store) -> None:
    site = started(nginx, store)
    port = free_block(1)
    holder = socket.create_server(("127.0.0.1", port))
    nginx.server_extra = f"listen 127.0.0.1:{port};"
    nginx.write_conf()

    def let_go(step: str) -> None:
        if step == "signalled":
            while "failed (98" not in nginx.error_log.read_text():
                pass
            holder.close()

    site.step = let_go
    result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri")))
    assert isinstance(result, Activated)
    assert result.proven
    assert serves(nginx, "v1")


async def test_dying_workers_are_detected_and_reported_when_nothing_helps(nginx: Nginx, store: Store) -> None:
    """A working_directory that vanishes after the check: it loads, and every worker dies. Rolling back cannot help."""
    site = started(nginx, store)
    lost = nginx.folder / "lost"
    lost.mkdir()
    nginx.main_extra = f"working_directory {lost};"
    nginx.write_conf()
    candidate = write(store, nginx.files("v1"))
    assert (await site.check(candidate)).ok
    lost.rmdir()
    assert str(lost) in (await site.check(candidate)).messages[0], "nginx -t says nothing of it"
    result = await site.activate(candidate)
    assert isinstance(result, RolledBack)
    assert "cannot be respawned" in result.reason
    assert not result.restored
    assert store.current_number() == 0
    assert not site.proven
    assert not store.has_pending()

    lost.mkdir()  # the user mends the tree: no human has to touch nginx or grayctl
    lost.chmod(0o777)
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "started"
    assert serves(nginx, "v0")
    assert site.proven


async def test_a_generation_that_loads_and_does_not_answer_is_rolled_back_with_a_proof(
    nginx: Nginx, store: Store
) -> None:
    """The master takes it, new workers serve it, but it is not what was asked for: the way back is a real reload."""
    site = started(nginx, store, confirm_timeout=1.0)
    with Prober(nginx) as prober:
        result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri"), marker="somebody else"))
        assert {nginx.get("/version") for _ in range(60)} == {"v0.shop.gray\n"}
    assert isinstance(result, RolledBack)
    assert "somebody else" in result.reason
    assert result.restored
    assert set(prober.bodies) == {"v0.shop.gray\n", "v1.shop.gray\n"}
    assert prober.failed == 0


async def test_no_request_fails_while_generations_change(nginx: Nginx, store: Store) -> None:
    site = started(nginx, store)
    with Prober(nginx, "/") as prober:
        for number in range(1, 6):
            key = "$uri" if number % 2 else "$binary_remote_addr"  # every other one is refused and rolled back
            await apply(site, nginx.files(f"v{number}", http=LIMIT.format(key=key)))
    assert serves(nginx, "v5")
    assert prober.bodies
    assert prober.failed == 0


async def test_a_long_request_keeps_an_old_worker_and_not_the_proof(nginx: Nginx, store: Store) -> None:
    """A worker that is shutting down takes no new request; waiting for streams to end would take for ever."""
    site = started(nginx, store)
    master = find_master(site.facts)
    assert master is not None
    with socket.create_connection(("127.0.0.1", nginx.web)) as stream:
        stream.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        stream.sendall(b"d")
        await eventually(lambda: len(workers(master)) == 2, "both workers are up")
        result = await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri")))
        assert isinstance(result, Activated)
        assert result.proven
        assert any(one.leaving for one in workers(master))
        assert serves(nginx, "v1")
        stream.sendall(b"efghij")
        assert stream.recv(4096).startswith(b"HTTP/1.1 ")


async def test_a_killed_nginx_starts_again_on_the_generated_tree(nginx: Nginx, store: Store) -> None:
    """A unix-socket listener left behind would stop the next start although the test passes: ours are TCP."""
    site = started(nginx, store)
    await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri")))
    nginx.kill()
    assert (await site.check_current()).ok
    nginx.start()
    assert serves(nginx, "v1")


async def test_without_a_readable_error_log_the_marker_and_the_workers_still_prove(nginx: Nginx, store: Store) -> None:
    site = nginx.site(store, confirm_timeout=1.0)
    site.init(nginx.files("v0", http=LIMIT.format(key="$uri")), created=0.0)
    nginx.error_log.symlink_to("/dev/null")
    nginx.start()
    assert isinstance(await apply(site, nginx.files("v1", http=LIMIT.format(key="$uri"))), Activated)
    refused = await apply(site, nginx.files("v2", http=LIMIT.format(key="$binary_remote_addr")))
    assert isinstance(refused, RolledBack)
    assert "no new worker appeared" in refused.reason
    assert serves(nginx, "v1")


async def test_an_nginx_without_the_include_is_never_signalled(nginx: Nginx, store: Store) -> None:
    site = started(nginx, store)
    nginx.write_conf(included=False)
    candidate = write(store, nginx.files("v1"))
    with pytest.raises(NginxConfigError, match=r"include .*/current/http\.conf;"):
        await site.check(candidate)
    assert serves(nginx, "v0")
    nginx.write_conf()
    assert (await site.check(write(store, nginx.files("v1", http=LIMIT.format(key="$uri"))))).ok


async def test_a_failing_prune_does_not_undo_an_activation(nginx: Nginx, store: Store) -> None:
    site = started(nginx, store, keep=1)
    (store.sets_dir / "stray").write_text("no directory")
    for version in ("v1", "v2", "v3"):
        assert isinstance(await apply(site, nginx.files(version, http=LIMIT.format(key="$uri"))), Activated)
    assert serves(nginx, "v3")
    assert not store.damage(store.read(3))
