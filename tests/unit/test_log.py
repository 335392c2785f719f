"""Logs: one JSON object a line in a pipe, words on a terminal, colours only where they are wanted."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_env

SPEAK = """
import sys
from grayctl import log
from grayctl.settings import LogSettings
log.configure(LogSettings(level=sys.argv[1], format=sys.argv[2]))
log.get("part").info("thing_done", number=5, text="two\\nlines \\ud83e")
log.get("part").warning("thing_odd")
"""


def arguments(level: str, style: str) -> list[str]:
    return [sys.executable, "-c", SPEAK, level, style]


def piped(level: str = "info", style: str = "auto") -> str:
    done = subprocess.run(arguments(level, style), capture_output=True, timeout=60, check=True, env=clean_env())
    assert done.stdout == b""
    return done.stderr.decode()


def on_a_terminal(style: str = "auto", **env: str) -> str:
    """What standard error says when it is a terminal."""
    ours, theirs = pty.openpty()
    unset = {key: value for key, value in clean_env().items() if key not in {"NO_COLOR", "JOURNAL_STREAM"}}
    try:
        subprocess.run(arguments("info", style), stderr=theirs, timeout=60, check=True, env=unset | env)
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_pipe_gets_json() -> None:
    first, second = map(json.loads, piped().splitlines())
    assert {"event": "thing_done", "component": "part", "level": "info", "number": 5}.items() <= first.items()
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "thing_odd"


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_is_the_settings(level: str, count: int) -> None:
    assert len(piped(level).splitlines()) == count


def test_a_terminal_gets_words_and_colours_unless_told_otherwise() -> None:
    assert "\x1b[" in on_a_terminal()
    plain = on_a_terminal(NO_COLOR="1")
    assert "\x1b[" not in plain
    assert "thing_done" in plain
    assert not plain.startswith("{")


def test_the_journal_gets_json_whatever_standard_error_is() -> None:
    for seen in (on_a_terminal(JOURNAL_STREAM="8:1"), on_a_terminal("json")):
        assert [json.loads(line)["event"] for line in seen.splitlines()] == ["thing_done", "thing_odd"]


def test_console_in_a_pipe_has_no_colours() -> None:
    words = piped(style="console")
    assert "thing_done" in words
    assert "\x1b[" not in words


def test_an_event_that_standard_error_cannot_take_is_lost_and_nothing_else() -> None:
    """The disk of the log is full, or its reader is gone."""
    with Path("/dev/full").open("wb") as full:
        subprocess.run(arguments("info", "json"), stderr=full, timeout=60, check=True, env=clean_env())
