"""The policies of examples/acl on a Consul that denies by default: who may write what, to the key."""

import re
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from grayctl.consul.client import ConsulClient
from grayctl.consul.releases import Change, Stored, Written, audit, author, get_release, history, write_releases
from grayctl.errors import ConsulDenied
from grayctl.model.history import Act, Action
from grayctl.model.release import Live
from grayctl.policy.live import revision_of
from grayctl.settings import ConsulSettings, Secret
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul

FOLDER = Path(__file__).parents[2] / "examples" / "acl"
ROLES = ("viewer", "releaser", "approver", "agent")
# every kind of key that grayctl keeps -> the roles that may write it
WRITERS = {
    "releases/shop": {"releaser"},
    "staged/shop": {"releaser"},
    "live/shop": {"releaser", "agent"},
    "rollouts/shop": {"releaser", "agent"},
    "drains/shop": {"releaser"},
    "history/shop/000001": {"releaser", "agent"},
    "audit/shop/20261121T080000": {"releaser", "approver", "agent"},
    "approvals/shop": {"approver"},
    "leader": {"agent"},
    "nodes/edge-1": {"agent"},
    "windows/edge-1/shop": {"agent"},
    # other services and nodes, names that begin alike among them, and what is everybody's
    "releases/shop-admin": set(),
    "releases/shop/below": set(),
    "staged/shop-admin": set(),
    "live/shop-admin": {"agent"},
    "rollouts/shop-admin": {"agent"},
    "drains/shop-admin": set(),
    "history/shop-admin/000001": {"agent"},
    "audit/shop-admin/20261121T080000": {"agent"},
    "approvals/shop-admin": set(),
    "nodes/edge-10": set(),
    "windows/edge-10/shop": set(),
    "lists/beta-users/000": set(),
    "freeze": set(),
}
Connect = Callable[[str], AbstractAsyncContextManager[ConsulClient]]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """An agent of our own that denies by default, since the roles name the prefix `grayctl`."""
    agent = Consul(tmp_path_factory.mktemp("acl"), token=ACL_TOKEN, config=ACL_CONFIG)
    yield agent
    agent.stop()


@pytest.fixture(scope="module")
def tokens(guarded: Consul) -> dict[str, str]:
    """role -> the secret of a token that has it, as the file says."""
    return {role: guarded.make_token((FOLDER / f"{role}.hcl").read_text(encoding="utf-8"))[0] for role in ROLES}


@pytest.fixture
def connect(guarded: Consul, tokens: dict[str, str]) -> Connect:
    """A client with the token of a role; `root` may do everything."""

    @asynccontextmanager
    async def connected(role: str) -> AsyncIterator[ConsulClient]:
        token = ACL_TOKEN if role == "root" else tokens[role]
        settings = ConsulSettings(address=guarded.address, token=Secret(token))
        async with ConsulClient(settings, connections=2) as client:
            yield client

    return connected


@pytest.fixture(autouse=True)
def _empty(guarded: Consul) -> Iterator[None]:
    yield
    guarded.call("DELETE", "/v1/kv/grayctl/?recurse")


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_writes_its_keys_and_no_other(connect: Connect, role: str) -> None:
    async with connect(role) as client:
        for key, writers in WRITERS.items():
            if role in writers:
                assert await client.put(f"grayctl/{key}", b"", cas=0), key
            else:
                with pytest.raises(ConsulDenied):
                    await client.put(f"grayctl/{key}", b"", cas=0)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_reads_everything(connect: Connect, guarded: Consul, role: str) -> None:
    for key in WRITERS:
        guarded.put(f"grayctl/{key}", "x")
    async with connect(role) as client:
        assert set(await client.keys("grayctl/")) == {f"grayctl/{key}" for key in WRITERS}
        assert len((await client.kv("grayctl/")).value) == len(WRITERS)


def test_every_rule_of_a_role_says_exactly_what_it_covers() -> None:
    """A key names one key; a prefix ends where a name ends."""
    for role in ROLES:
        rules = re.findall(r'^key(_prefix)? "([^"]*)"', (FOLDER / f"{role}.hcl").read_text("utf-8"), re.MULTILINE)
        assert rules
        assert all(name.endswith("/") == bool(prefix) for prefix, name in rules)


# ---------------------------------------------------------------- through the store


def apply(service: str, by: str, seen: Stored | None = None) -> tuple[list[Change], Act]:
    text = f"service: {service}".encode()
    change = Change(seen or Stored(service, None, None), Action.APPLY, text, Live(revision_of(text), "", "v1"))
    return [change], Act(author=by, reason="", trace_id="t1", time=1_800_000_000)


async def test_the_author_is_the_tokens_accessor(connect: Connect, guarded: Consul, tokens: dict[str, str]) -> None:
    async with connect("releaser") as client:
        changes, act = apply("shop", await author(client))
        assert await write_releases(client, changes, act) == Written((1,))
    async with connect("viewer") as client:
        (version,) = await history(client, "shop")
        (done,) = await audit(client)
    assert version.act.author == done.act.author
    assert guarded.call("GET", f"/v1/acl/token/{done.act.author}")["SecretID"] == tokens["releaser"]


async def test_a_viewer_reads_a_release_and_is_told_which_keys_it_may_not_write(connect: Connect) -> None:
    async with connect("releaser") as client:
        await write_releases(client, *apply("shop", "ann"))
    async with connect("viewer") as client:
        seen = await get_release(client, "shop")
        assert seen.policy is not None
        assert seen.policy.value == b"service: shop"
        with pytest.raises(ConsulDenied, match=r"grayctl/live/shop.*: the token may not write this. Use one that may"):
            await write_releases(client, *apply("shop", "eve", seen))


async def test_a_role_for_shop_does_not_reach_shop_admin(connect: Connect) -> None:
    async with connect("releaser") as client:
        with pytest.raises(ConsulDenied, match="grayctl/releases/shop-admin"):
            await write_releases(client, *apply("shop-admin", "eve"))
        both = [*apply("shop", "eve")[0], *apply("shop-admin", "eve")[0]]
        with pytest.raises(ConsulDenied) as caught:
            await write_releases(client, both, apply("shop", "eve")[1])
        assert "grayctl/releases/shop," not in str(caught.value)
        assert await client.keys("grayctl/") == (), "one that is denied denies all"


async def test_a_daemon_adopts_an_edit_by_hand_and_changes_no_policy(connect: Connect, guarded: Consul) -> None:
    guarded.put("grayctl/releases/shop", "service: shop")
    async with connect("agent") as client:
        seen = await get_release(client, "shop")
        changes, act = apply("shop", "edge-1", seen)
        assert await write_releases(client, changes, act) == Written((1,))
        seen = await get_release(client, "shop")
        other = Change(seen, Action.APPLY, b"stable: v2", Live(revision_of(b"stable: v2"), "", "v2"))
        with pytest.raises(ConsulDenied, match="grayctl/releases/shop: the token may not write"):
            await write_releases(client, [other], act)
        with pytest.raises(ConsulDenied, match="grayctl/releases/shop: "):
            await write_releases(client, [Change(seen, Action.DELETE)], act)
        assert await get_release(client, "shop") == seen


async def test_a_token_that_was_deleted_is_denied_everything(guarded: Consul) -> None:
    secret, _ = guarded.make_token((FOLDER / "viewer.hcl").read_text(encoding="utf-8"))
    accessor = next(one["AccessorID"] for one in guarded.call("GET", "/v1/acl/tokens") if _is(guarded, one, secret))
    guarded.call("DELETE", f"/v1/acl/token/{accessor}")
    async with ConsulClient(ConsulSettings(address=guarded.address, token=Secret(secret)), connections=2) as client:
        for call in (get_release(client, "shop"), author(client), write_releases(client, *apply("shop", "eve"))):
            with pytest.raises(ConsulDenied, match="token"):
                await call


def _is(guarded: Consul, token: dict[str, str], secret: str) -> bool:
    try:
        return bool(guarded.call("GET", f"/v1/acl/token/{token['AccessorID']}")["SecretID"] == secret)
    except urllib.error.HTTPError:
        return False
