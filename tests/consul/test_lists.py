"""Lists over a real Consul: replaced at once where one transaction holds it, and never with less than what stays."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from grayctl.consul.client import ConsulClient
from grayctl.consul.lists import get_list, get_lists, put_list
from grayctl.policy.lists import PART, entries_of, parts_of
from grayctl.settings import ConsulSettings
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul
from tests.support.process import clean_env

NAME = "beta-users"


@pytest.fixture
async def client(consul: Consul, unique: str) -> AsyncIterator[ConsulClient]:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=4) as client:
        yield client


def users(numbers: Iterable[int]) -> tuple[bytes, ...]:
    """A list's parts; 100,000 users are 14 of them."""
    return parts_of(b"".join(b"user-%030d\n" % number for number in numbers), "users.txt")


async def put(client: ConsulClient, parts: tuple[bytes, ...]) -> tuple[str, ...]:
    return await put_list(client, NAME, parts, seen=await get_list(client, NAME))


async def entries(client: ConsulClient) -> set[str]:
    return set(entries_of(part.value for part in await get_list(client, NAME)))


async def test_a_small_list_is_replaced_in_one_transaction(client: ConsulClient, unique: str) -> None:
    assert await get_list(client, NAME) == ()
    assert await put(client, (b"ann\nbob",)) == ()
    assert await put(client, (b"ann", b"carl")) == ()
    found = await get_list(client, NAME)
    assert [part.key for part in found] == [f"{unique}/lists/{NAME}/000", f"{unique}/lists/{NAME}/001"]
    assert found[0].modify_index == found[1].modify_index
    assert await put(client, (b"ann",)) == ()
    assert [part.value for part in await get_list(client, NAME)] == [b"ann"]


async def test_a_change_at_the_end_of_a_long_list_is_one_transaction_too(client: ConsulClient) -> None:
    """What stays the same is not sent again."""
    assert await put(client, users(range(100_000))) == ()
    before = await get_list(client, NAME)
    assert await put(client, users(range(100_001))) == ()
    after = await get_list(client, NAME)
    assert after[:-1] == before[:-1]
    assert len(await entries(client)) == 100_001


async def test_while_100_000_entries_are_replaced_nobody_who_stays_is_missing(client: ConsulClient) -> None:
    """A half stays, a half leaves, as many come; whatever a reader sees holds all who stay and no stranger."""
    old, new = range(100_000), range(50_000, 150_000)
    assert await put(client, users(old)) == ()
    allowed_old, allowed_new = set(entries_of(users(old))), set(entries_of(users(new)))
    sizes: set[int] = set()
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            found = await entries(client)
            assert allowed_old & allowed_new <= found <= allowed_old | allowed_new
            assert allowed_old <= found or found == allowed_new, "who leaves, leaves together"
            sizes.add(len(found))

    async def write() -> None:
        try:
            assert await put(client, users(new)) == ()
        finally:
            done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        group.create_task(write())
    assert await entries(client) == allowed_new
    assert len(sizes) > 1, "somebody looked in between"


async def test_the_parts_of_one_replacement_after_another_stay_few(client: ConsulClient) -> None:
    numbers = []
    for turn in range(4):
        assert await put(client, users(range(turn * 10_000, turn * 10_000 + 20_000))) == ()
        numbers.append([part.key[-3:] for part in await get_list(client, NAME)])
    assert numbers == [["000", "001", "002"], ["003", "004", "005"], ["000", "001", "002"], ["003", "004", "005"]]


@pytest.mark.parametrize("size", [2, 20_000])
async def test_of_two_writers_at_once_at_most_one_wins_and_the_list_is_whole(client: ConsulClient, size: int) -> None:
    for turn in range(5):
        seen = await get_list(client, NAME)
        both = [users(range(turn + first, turn + first + size)) for first in (10**6, 2 * 10**6)]
        results = await asyncio.gather(*(put_list(client, NAME, parts, seen=seen) for parts in both))
        won = [parts for parts, stale in zip(both, results, strict=True) if not stale]
        found = await entries(client)
        assert len(won) == 1
        assert found == set(entries_of(won[0]))


async def test_a_part_that_changed_meanwhile_is_a_conflict_and_nothing_is_left(
    client: ConsulClient, consul: Consul
) -> None:
    await put(client, users(range(20_000)))
    seen = await get_list(client, NAME)
    consul.put(seen[1].key, "edited")
    edited = await get_list(client, NAME)
    assert await put_list(client, NAME, users(range(7, 20_007)), seen=seen)
    assert await get_list(client, NAME) == edited
    assert await put_list(client, NAME, (b"ann",), seen=seen) == (seen[1].key,)
    assert await get_list(client, NAME) == edited


async def test_what_a_dead_writer_left_is_replaced_whole(client: ConsulClient, consul: Consul, unique: str) -> None:
    """Forty old parts more than one transaction removes: the new list stands before they go."""
    for number in range(40):
        consul.put(f"{unique}/lists/{NAME}/{number:03d}", f"left-{number}")
    assert await put(client, (b"ann", b"x" * PART, b"y" * PART)) == ()
    assert await entries(client) == {"ann", "x" * PART, "y" * PART}


async def test_lists_are_told_apart(client: ConsulClient) -> None:
    for name in ("beta", "beta-users", "beta.users"):
        await put_list(client, name, (name.encode(),), seen=())
    assert {name: [part.value for part in parts] for name, parts in (await get_lists(client)).items()} == {
        "beta": [b"beta"],
        "beta-users": [b"beta-users"],
        "beta.users": [b"beta.users"],
    }
    assert [part.value for part in await get_list(client, "beta")] == [b"beta"]


# ---------------------------------------------------------------- the commands


@pytest.fixture
def config(tmp_path: Path, consul: Consul, unique: str) -> Path:
    """Settings for the shared agent, with a prefix of our own."""
    file = tmp_path / "grayctl.toml"
    file.write_text(f'[consul]\naddress = "{consul.address}"\nprefix = "{unique}"\n', encoding="utf-8")
    return file


def grayctl(config: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "grayctl", "--config", str(config), "list", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False, env=clean_env())


def test_a_list_is_put_shown_and_listed(config: Path, tmp_path: Path) -> None:
    assert grayctl(config, "ls").stdout == b"there are no lists; `grayctl list put NAME FILE` writes one\n"
    file = tmp_path / "users.txt"
    file.write_bytes(b"# testers\r\nann\r\nbob\r\n")
    done = grayctl(config, "put", "beta-users", str(file))
    assert (done.returncode, done.stdout) == (0, b"beta-users has 2 entries: 2 more, 0 fewer\n")
    assert grayctl(config, "get", "beta-users").stdout == b"# testers\nann\nbob\n"
    assert json.loads(grayctl(config, "get", "beta-users", "--json").stdout) == ["ann", "bob"]
    done = grayctl(config, "put", "beta-users", "-", "--json", stdin=b"bob\ncarl\ndora")
    assert json.loads(done.stdout)["message"] == "beta-users has 3 entries: 2 more, 1 fewer"
    assert grayctl(config, "get", "beta-users").stdout == b"bob\ncarl\ndora\n"
    assert grayctl(config, "put", "nobody", "-").stdout == b"nobody has 0 entries: 0 more, 0 fewer\n"
    assert grayctl(config, "ls").stdout == b"beta-users  3 entries\nnobody  0 entries\n"
    assert json.loads(grayctl(config, "ls", "--json").stdout)[0] == {"name": "beta-users", "entries": 3}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["get", "absent"], b"", "grayctl: there is no list 'absent': see `grayctl list ls`"),
        (["put", "a/b", "-"], b"ann", "grayctl: 'a/b' is no name of a list. It is a letter or digit, then up to 62 of"),
        (["put", "beta", "-"], b"a\0b", "grayctl: <stdin>:1: the line holds a NUL"),
    ],
)
def test_what_is_refused_says_why(config: Path, arguments: list[str], stdin: bytes, message: str) -> None:
    done = grayctl(config, *arguments, stdin=stdin)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(message)


def test_a_token_that_may_not_write_the_list_is_told(tmp_path: Path, make_consul: MakeConsul) -> None:
    agent = make_consul(token=ACL_TOKEN, config=ACL_CONFIG)
    rule = 'key_prefix "grayctl/" { policy = "read" } key_prefix "grayctl/lists/beta/" { policy = "write" }'
    token, _ = agent.make_token(rule)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    config = tmp_path / "grayctl.toml"
    text = f'[consul]\naddress = "{agent.address}"\ntoken_file = "{tmp_path / "token"}"\n'
    config.write_text(text, encoding="utf-8")
    assert grayctl(config, "put", "beta", "-", stdin=b"ann").returncode == 0
    done = grayctl(config, "put", "beta-users", "-", stdin=b"ann")
    assert done.returncode == 1
    assert b"grayctl/lists/beta-users/000: the token may not write this" in done.stderr
