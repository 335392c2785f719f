"""Damage of every kind is healed towards what was good, and an nginx that nobody announced is noticed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from grayctl.errors import StateError
from grayctl.model.outcome import RolledBack
from grayctl.nginx.generations import Store
from grayctl.nginx.process import start_time
from grayctl.nginx.site import Activated, Site
from tests.support.nginx import Nginx, write
from tests.support.process import wait_until


async def applied(site: Site, nginx: Nginx, version: str) -> Activated:
    candidate = write(site.store, nginx.files(version))
    assert (await site.check(candidate)).ok
    result = await site.activate(candidate)
    assert isinstance(result, Activated)
    return result


@pytest.fixture
async def site(nginx: Nginx, store: Store) -> Site:
    """nginx serves generation 2, `v2`; before it stood 0 and 1."""
    one = nginx.site(store)
    one.init(nginx.files("v0"), created=0.0)
    nginx.start()
    await applied(one, nginx, "v1")
    await applied(one, nginx, "v2")
    return one


def the_same(site: Site, nginx: Nginx) -> Site:
    """What a restarted grayctl has."""
    return nginx.site(site.store)


# ---------------------------------------------------------------- damage


def link_missing(root: Path) -> None:
    (root / "current").unlink()


def link_dangling(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to("generations/000099")


def link_elsewhere(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to("/etc")


def link_a_directory(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").mkdir()
    (root / "current" / "http.conf").write_text("# a copy made by hand\n")


def snippets_missing(root: Path) -> None:
    (root / "snippets").unlink()


@pytest.mark.parametrize("harm", [link_missing, link_dangling, link_elsewhere, link_a_directory, snippets_missing])
@pytest.mark.parametrize("runs", [True, False], ids=["nginx-runs", "nginx-is-down"])
async def test_a_lost_link_is_put_back_to_what_was_served(
    site: Site, nginx: Nginx, harm: Callable[[Path], None], *, runs: bool
) -> None:
    if not runs:
        nginx.stop()
    harm(site.store.root)
    assert site.store.verify()
    again = the_same(site, nginx)
    recovery = await again.recover()
    assert (recovery.action, recovery.generation) == ("healed", 2)
    assert recovery.detail
    assert not site.store.verify()
    assert site.store.current_number() == 2
    assert (await again.check_current()).ok
    assert (await again.recover()).action == "nothing"


def manifest_garbage(store: Store, number: int) -> None:
    (store.folder(number) / "manifest.json").write_text("{garbage")


def entry_edited(store: Store, number: int) -> None:
    path = store.folder(number) / "http.conf"
    path.chmod(0o644)
    path.write_text(path.read_text() + "# a hand was here\n")


def entry_missing(store: Store, number: int) -> None:
    (store.folder(number) / "http.conf").unlink()


def object_edited(store: Store, number: int) -> None:
    path = store.objects_dir / store.read(number).objects["shop"]
    path.chmod(0o644)
    path.write_text("broken on purpose;\n")


def object_missing(store: Store, number: int) -> None:
    (store.objects_dir / store.read(number).objects["shop"]).unlink()


def all_gone(store: Store, number: int) -> None:
    store.folder(number).rename(store.root / "moved-away")


GENERATION_HARM = [manifest_garbage, entry_edited, entry_missing, object_edited, object_missing, all_gone]


@pytest.mark.parametrize("harm", GENERATION_HARM)
@pytest.mark.parametrize("runs", [True, False], ids=["nginx-runs", "nginx-is-down"])
async def test_a_damaged_generation_gives_way_to_the_last_good_one(
    site: Site, nginx: Nginx, harm: Callable[[Store, int], None], *, runs: bool
) -> None:
    """The disk can be started from at once; a running nginx serves on from memory until it is brought over."""
    if not runs:
        nginx.stop()
    harm(site.store, 2)
    again = the_same(site, nginx)
    recovery = await again.recover()
    assert (recovery.action, recovery.generation) == ("healed", 1)
    assert (await again.check_current()).ok
    if runs:
        assert nginx.get("/version") == "v2.shop.gray\n", "no reload before somebody knows better"
        noticed = await again.notice()
        assert noticed is not None
        assert noticed.what == "started"
    else:
        nginx.start()
    assert nginx.get("/version") == "v1.shop.gray\n"


@pytest.mark.parametrize("harm", [object_edited, object_missing, entry_edited])
async def test_a_damaged_generation_is_mended_by_writing_it_again(
    site: Site, nginx: Nginx, harm: Callable[[Store, int], None]
) -> None:
    """The way drift is repaired: the same content under a new number, proven like any other."""
    standing = site.store.read(2)
    assert site.store.stands(standing)
    harm(site.store, 2)
    assert not site.store.stands(standing)
    assert site.store.intact(2) is None
    await applied(site, nginx, "v2")
    assert site.store.current_number() == 3
    assert not site.store.verify()
    assert nginx.answers() == site.store.read(3).stamp


async def test_when_nothing_is_whole_everything_is_left_as_it_is(site: Site, nginx: Nginx) -> None:
    """Better what nginx has in memory than stubs that answer 503."""
    for number in site.store.numbers():
        entry_missing(site.store, number)
    again = the_same(site, nginx)
    recovery = await again.recover()
    assert (recovery.action, recovery.generation) == ("damaged", 2)
    assert nginx.get("/version") == "v2.shop.gray\n"
    await applied(again, nginx, "v3")
    assert not site.store.verify()
    assert nginx.get("/version") == "v3.shop.gray\n"


@pytest.mark.parametrize("content", ["", "{", "null", '{"from": "x"}', "\0\0\0"])
@pytest.mark.parametrize("runs", [True, False], ids=["nginx-runs", "nginx-is-down"])
async def test_a_damaged_journal_goes_back_to_what_is_known_to_be_good(
    site: Site, nginx: Nginx, content: str, *, runs: bool
) -> None:
    """`current` may name a candidate that nobody ever checked."""
    if not runs:
        nginx.stop()
    unchecked = write(site.store, nginx.files("v3", body="no_such_directive;\n"))
    site.store.flip(unchecked.number)
    (site.store.root / "pending.json").write_text(content)
    again = the_same(site, nginx)
    recovery = await again.recover()
    assert (recovery.action, recovery.generation) == ("healed", 2)
    assert "pending.json" in recovery.detail
    assert not site.store.has_pending()
    assert (await again.check_current()).ok
    if runs:
        assert again.proven
        assert nginx.answers() == site.store.read(2).stamp


@pytest.mark.parametrize("content", [None, "", "{", '{"serving": "x"}'])
async def test_a_damaged_record_is_written_anew(site: Site, nginx: Nginx, content: str | None) -> None:
    path = site.store.root / "state.json"
    path.unlink() if content is None else path.write_text(content)
    again = the_same(site, nginx)
    recovery = await again.recover()
    assert (recovery.action, recovery.generation) == ("healed", 2)
    assert again.proven
    assert site.store.state().serving == 2


async def test_an_unfinished_activation_is_settled_before_the_next_one(site: Site, nginx: Nginx) -> None:
    """The disk was full in the middle: without a restart, the next change sorts it out first."""
    pending = write(site.store, nginx.files("v3"))

    def full(step: str) -> None:
        if step == "confirmed":
            (site.store.root / ".state.json.new").mkdir()

    site.step = full
    with pytest.raises(StateError, match=r"state\.json"):
        await site.activate(pending)
    assert site.store.has_pending()
    assert nginx.answers() == pending.stamp
    site.step = lambda _: None
    (site.store.root / ".state.json.new").rmdir()
    await applied(site, nginx, "v4")
    assert site.store.state().last_proven == 4
    assert not site.store.has_pending()


async def test_a_check_settles_what_is_unfinished_even_when_it_fails(site: Site, nginx: Nginx) -> None:
    """Otherwise a crash in the flipped check that follows would forget the generation that nginx serves."""
    unfinished = write(site.store, nginx.files("v3"))
    site.step = lambda step: (site.store.root / ".state.json.new").mkdir() if step == "confirmed" else None
    with pytest.raises(StateError, match=r"state\.json"):
        await site.activate(unfinished)
    site.step = lambda _: None
    (site.store.root / ".state.json.new").rmdir()
    assert not (await site.check(write(site.store, nginx.files("v4", body="no_such_directive;\n")))).ok
    assert not site.store.has_pending()
    assert (site.store.state().serving, site.proven) == (3, True)


async def test_a_rollback_goes_on_when_the_journal_cannot_be_written(nginx: Nginx, store: Store) -> None:
    """Going back is never refused for want of a note."""
    site = nginx.site(store, confirm_timeout=0.5)
    site.init(nginx.files("v0"), created=0.0)
    nginx.start()
    block = store.root / ".pending.json.new"

    def full(step: str) -> None:
        if step == "signalled" and not block.exists():
            block.mkdir()

    site.step = full
    result = await site.activate(write(store, nginx.files("v1", marker="a lie")))
    assert isinstance(result, RolledBack)
    assert result.restored
    assert nginx.get("/version") == "v0.shop.gray\n"
    assert not store.has_pending()


# ---------------------------------------------------------------- nginx comes and goes


async def test_without_nginx_a_checked_candidate_stands_unproven_until_nginx_comes(nginx: Nginx, store: Store) -> None:
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    assert await site.notice() is None
    result = await applied(site, nginx, "v1")
    assert not result.proven
    assert not store.state().proven
    assert store.current_number() == 1
    nginx.start()
    noticed = await site.notice()
    assert noticed is not None
    assert (noticed.what, noticed.pid) == ("proven", nginx.process.pid if nginx.process else None)
    assert site.proven
    assert nginx.get("/version") == "v1.shop.gray\n"
    assert await site.notice() is None, "noticed once"


async def test_a_bad_candidate_never_stands_while_nginx_is_down(nginx: Nginx, store: Store) -> None:
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    assert not (await site.check(write(store, nginx.files("v1", body="no_such_directive;\n")))).ok
    assert store.current_number() == 0
    nginx.start()


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_a_master_replaced_by_hand_is_noticed_and_proven(site: Site, nginx: Nginx, how: str) -> None:
    assert await site.notice() is None
    if how == "killed":
        nginx.kill()
        gone = await site.notice()
        assert gone is not None
        assert gone.what == "stopped"
        assert await site.notice() is None, "noticed once"
        nginx.start()
    else:
        nginx.restart()
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "proven"
    assert site.master is not None
    assert nginx.process is not None
    assert site.master.pid == nginx.process.pid


async def test_an_nginx_that_serves_something_else_is_brought_to_what_stands(site: Site, nginx: Nginx) -> None:
    """Somebody started it on an older tree, or `grayctl init` published a name while it ran."""
    site.init(nginx.files("v3"), created=0.0)
    assert nginx.get("/version") == "v2.shop.gray\n"
    assert not site.proven
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "started"
    assert nginx.get("/version") == "v3.shop.gray\n"
    assert site.proven


async def test_an_nginx_that_cannot_be_brought_over_is_not_signalled_again_and_again(site: Site, nginx: Nginx) -> None:
    site.init(nginx.files("v3"), created=0.0)
    nginx.http_extra = "broken_by_the_user on;"
    nginx.write_conf()
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "unproven"
    assert "broken_by_the_user" in noticed.detail
    assert await site.notice() is None, "the next attempt comes later"
    assert "broken_by_the_user" not in nginx.error_log.read_text().replace("nginx: ", "")
    assert nginx.get("/version") == "v2.shop.gray\n"


async def test_orphaned_workers_are_reported_and_left_alone(site: Site, nginx: Nginx) -> None:
    await site.notice()
    left = nginx.kill(with_workers=False)
    wait_until(lambda: all(start_time(pid) is not None for pid in left), "the orphans live")
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "stopped"
    assert set(left) <= set(site.orphans)
    again = the_same(site, nginx)
    await again.recover()
    assert set(left) <= set(again.orphans), "also when grayctl starts later"
    assert all(start_time(pid) is not None for pid in left)


async def test_a_pid_file_that_vanishes_does_not_make_nginx_stopped(site: Site, nginx: Nginx) -> None:
    """Cleaned away from /run, nginx serves on: taken for stopped, it would get generations without a proof."""
    await site.notice()
    nginx.pid_file.unlink()
    assert await site.notice() is None
    result = await applied(site, nginx, "v3")
    assert result.proven
    assert nginx.get("/version") == "v3.shop.gray\n"


async def test_settings_moved_by_the_user_are_followed(site: Site, nginx: Nginx) -> None:
    """A new error_log in nginx.conf: a refusal there is seen without a restart of grayctl."""
    nginx.error_log = nginx.folder / "error.log.moved"
    nginx.write_conf()
    await applied(site, nginx, "v3")
    assert site.facts.error_log == nginx.error_log


async def test_a_new_master_is_brought_over_at_once_whatever_failed_before(site: Site, nginx: Nginx) -> None:
    """What kept the old master from it says nothing about the new one."""
    site.init(nginx.files("v3"), created=0.0)
    nginx.http_extra = "broken_by_the_user on;"
    nginx.write_conf()
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "unproven"
    nginx.http_extra = ""
    nginx.write_conf()
    nginx.restart()
    site.init(nginx.files("v4"), created=0.0)
    noticed = await site.notice()
    assert noticed is not None
    assert noticed.what == "started"
    assert nginx.get("/version") == "v4.shop.gray\n"
