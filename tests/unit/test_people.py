"""Who acts: the user, and who logged in where the kernel knows."""

import os
import pwd
from pathlib import Path

import pytest

from grayctl.people import author

ME = pwd.getpwuid(os.getuid()).pw_name
NOBODY = pwd.getpwnam("nobody").pw_uid
UNSET = 2**32 - 1


@pytest.mark.parametrize(
    ("login", "uid", "said"),
    [
        (str(UNSET), os.getuid(), ME),
        (str(os.getuid()), os.getuid(), ME),
        (str(NOBODY), os.getuid(), f"nobody as {ME}"),
        ("4294967290", 0, "uid 4294967290 as root"),
        (str(UNSET), 4294967290, "uid 4294967290"),
        (None, NOBODY, "nobody"),
    ],
)
def test_the_login_stands_before_the_user_it_became(
    monkeypatch: pytest.MonkeyPatch, login: str | None, uid: int, said: str
) -> None:
    def read(path: Path, encoding: str) -> str:
        assert (path, encoding) == (Path("/proc/7/loginuid"), "ascii")
        if login is None:
            raise FileNotFoundError
        return login

    monkeypatch.setattr(Path, "read_text", read)
    assert author(7, uid) == said


def test_this_process_by_default() -> None:
    assert ME in author()
