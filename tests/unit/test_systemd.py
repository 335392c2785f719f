"""sd_notify: one datagram where systemd listens, silence where it does not."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from grayctl.systemd import notify, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What listens at NOTIFY_SOCKET."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(path if request.param == "path" else f"\0{path}")
        monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else f"@{path}")
        yield listener


def test_one_datagram_carries_all_fields(manager: socket.socket) -> None:
    notify(READY="1", STATUS="as it shall be")
    assert manager.recv(4096) == b"READY=1\nSTATUS=as it shall be"


def test_a_text_of_several_lines_is_no_further_field(manager: socket.socket) -> None:
    """A status repeats what nginx or a template said; a line of it must not be taken for MAINPID or READY."""
    notify(STATUS="refused\nMAINPID=1\r\nREADY=1", WATCHDOG="1")
    assert [line.partition(b"=")[0] for line in manager.recv(4096).split(b"\n")] == [b"STATUS", b"WATCHDOG"]


def test_what_is_no_utf8_is_sent_too(manager: socket.socket) -> None:
    notify(STATUS="half \ud83e")
    assert manager.recv(4096).startswith(b"STATUS=half ")


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify(READY="1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "seconds"), [("30000000", 15.0), ("1", 5e-7), ("0", None), ("", None), ("soon", None), ("-5", None)]
)
def test_a_keep_alive_comes_twice_in_the_watchdogs_time(
    monkeypatch: pytest.MonkeyPatch, value: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", value)
    assert watchdog_interval() == seconds
