"""Node reports over a real Consul: held by a session, taken over after a crash, never by a stranger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from grayctl.consul.client import ConsulClient
from grayctl.consul.store import read_node, read_nodes
from grayctl.errors import ConsulProtocolError, StateError
from grayctl.fleet.reporter import Reporter, installation_id
from grayctl.model.node import NodeReport
from grayctl.settings import ConsulSettings
from tests.support.consul import Consul
from tests.support.process import eventually
from tests.support.scripted import script, scripted

REPORT = NodeReport(node="edge-1", id="first", version="1.0")


@contextlib.asynccontextmanager
async def reporting(client: ConsulClient, *reports: NodeReport) -> AsyncIterator[Reporter]:
    """A reporter that tells the last of `reports`."""
    reporter = Reporter(client, lambda: reports[-1])
    task = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(client: ConsulClient, report: NodeReport, *, live: bool = True) -> None:
    """Wait until that is what Consul holds."""
    async with asyncio.timeout(20):
        while True:
            found = await read_node(client, report.node)
            if found is not None and (found.report, found.live) == (report, live):
                return
            await asyncio.sleep(0.05)


async def test_a_report_is_live_while_its_daemon_is_and_stays_when_it_has_gone(consul: Consul, unique: str) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        reports = [REPORT]
        reporter = Reporter(client, lambda: reports[-1])
        task = asyncio.create_task(reporter.run())
        await _until(client, REPORT)
        reports.append(msgspec.structs.replace(REPORT, generation=7, proven=True))
        reporter.look()
        await _until(client, reports[-1])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _until(client, reports[-1], live=False)
        assert reporter.trouble == ""


async def test_after_a_crash_the_same_installation_takes_over_at_once(consul: Consul, unique: str) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        left = await client.create_session("grayctl", ttl=60)
        assert await client.acquire(f"{unique}/nodes/edge-1", msgspec.json.encode(REPORT), session=left)
        again = msgspec.structs.replace(REPORT, generation=8)
        async with reporting(client, again):
            await _until(client, again)
        assert not await client.renew_session(left), "the session of before the crash has ended"


async def test_another_machine_with_our_name_is_left_alone_and_said(consul: Consul, unique: str) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        async with reporting(client, REPORT):
            await _until(client, REPORT)
            async with reporting(client, msgspec.structs.replace(REPORT, id="second")) as stranger:
                await eventually(lambda: stranger.trouble, "the second is told")
                assert "another machine reports as node 'edge-1'" in stranger.trouble
                assert [one.report.id for one in await read_nodes(client)] == ["first"]
        # the first one has ended: its name is free
        async with reporting(client, msgspec.structs.replace(REPORT, id="second")) as heir:
            await _until(client, msgspec.structs.replace(REPORT, id="second"))
            assert heir.trouble == ""


async def test_a_session_that_was_lost_is_made_anew(
    consul: Consul, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grayctl.fleet.reporter._RENEW_EVERY", 0.2)
    settings = ConsulSettings(address=consul.address, prefix=unique)
    async with ConsulClient(settings, connections=2) as client, reporting(client, REPORT):
        await _until(client, REPORT)
        (entry,) = (await client.kv(f"{unique}/nodes/edge-1")).value
        await client.destroy_session(entry.session)
        await _until(client, REPORT)


async def test_a_token_without_the_right_is_named_with_the_right_it_lacks() -> None:
    async with scripted() as consul:
        consul.handlers["/v1/session/create"] = script(lambda: web.Response(status=403, text="Permission denied"))
        settings = ConsulSettings(address=consul.address)
        async with ConsulClient(settings, connections=2) as client, reporting(client, REPORT) as reporter:
            await eventually(lambda: reporter.trouble, "it is told")
            assert "session:write" in reporter.trouble


async def test_a_report_that_nobody_can_read_is_named(consul: Consul, unique: str) -> None:
    consul.put(f"{unique}/nodes/edge-9", "no report")
    async with ConsulClient(ConsulSettings(address=consul.address, prefix=unique), connections=2) as client:
        with pytest.raises(ConsulProtocolError, match=f"{unique}/nodes/edge-9"):
            await read_nodes(client)


def test_an_installation_keeps_its_id(tmp_path: Path) -> None:
    first = installation_id(tmp_path)
    assert (len(first), installation_id(tmp_path)) == (32, first)
    (tmp_path / "node-id").write_bytes(b"\xff cut off")
    other = installation_id(tmp_path)
    assert other != first
    assert (len(other), installation_id(tmp_path)) == (32, other), "a damaged one is drawn anew"
    with pytest.raises(StateError, match=r"missing.*cannot keep this node's id"):
        installation_id(tmp_path / "missing")
