"""Tokens and certificates: read again when they change, refused with a reason, never shown."""

import os
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from grayctl.consul.client import ConsulClient
from grayctl.errors import SettingsError
from grayctl.settings import ConsulSettings, Secret
from tests.support.scripted import answer, script, scripted


def settings(address: str, **more: object) -> ConsulSettings:
    return ConsulSettings(address=address, **more)  # type: ignore[arg-type]  # -- any field, by name


@pytest.mark.parametrize("token", ["with blank", "new\nline", "tab\t", "ümlaut"])
async def test_a_senseless_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(SettingsError) as caught:
        async with ConsulClient(settings("http://127.0.0.1:1", token=Secret(token)), connections=2):
            pytest.fail("it must not open")
    assert token not in str(caught.value)


async def test_a_missing_token_file_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="token_file"):
        async with ConsulClient(settings("http://127.0.0.1:1", token_file=str(tmp_path / "no")), connections=2):
            pytest.fail("it must not open")


async def test_a_new_token_file_is_used_at_once_and_a_broken_one_never(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with (
        scripted() as fake,
        ConsulClient(settings(fake.address, token_file=str(file)), connections=2) as client,
    ):
        await client.services()
        file.write_text("second\n")
        await client.services()
        file.write_text("")
        with structlog.testing.capture_logs() as logs:
            await client.services()
            await client.services()
        file.unlink()
        await client.services()
        file.write_text("third-one\n")
        await client.services()
        assert [headers["X-Consul-Token"] for headers in fake.headers] == [
            "first",
            "second",
            "second",
            "second",
            "second",
            "third-one",
        ]
        assert [line["event"] for line in logs] == ["token_unreadable"]
        assert "second" not in str(logs)


async def test_a_403_has_the_token_file_read_again(tmp_path: Path) -> None:
    """Also when the file looks unchanged: the same size, the same inode, the same time."""
    file = tmp_path / "token"
    file.write_text("aaaa")
    stamp = file.stat()
    async with (
        scripted() as fake,
        ConsulClient(settings(fake.address, token_file=str(file)), connections=2) as client,
    ):
        await client.services()
        file.write_text("bbbb")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        fake.handlers["/v1/kv/x/"] = script(web.Response(status=403), answer([], 5))
        assert (await client.kv("x/")).index == 5
        assert [headers["X-Consul-Token"] for headers in fake.headers] == ["aaaa", "aaaa", "bbbb"]


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
async def test_an_unusable_certificate_is_a_settings_error(tmp_path: Path, key: str) -> None:
    broken = tmp_path / "broken.pem"
    for make in (lambda: None, lambda: broken.write_text("no certificate")):
        make()
        with pytest.raises(SettingsError, match=f"consul.{key}.*broken.pem"):
            async with ConsulClient(settings("https://127.0.0.1:1", **{key: str(broken)}), connections=2):
                pytest.fail("it must not open")
