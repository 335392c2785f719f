"""Policies from files: what would be in force, without Consul. For previews, `explain` and tests."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from grayctl.errors import ListError, Problem, ReleaseError
from grayctl.model.release import InForce
from grayctl.policy.document import read_release
from grayctl.policy.lists import entries_of, parts_of
from grayctl.policy.live import follow, revision_of
from grayctl.policy.standing import Standing

OFFLINE_SALT = "preview"  # a real one is drawn when the first share is given, so slots differ from it


def offline(files: Iterable[Path], lists: Mapping[str, tuple[str, ...]] | None = None) -> Standing:
    """The releases of some files, each as if it had just been applied for the first time.

    Raises:
        ReleaseError: a file cannot be read, is no policy, or names a service that another one names.
    """
    found: dict[str, InForce] = {}
    for file in files:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise _problem(file, "cannot be read", error.strerror or str(error)) from error
        release = read_release(text, str(file))
        if release.service in found:
            raise _problem(file, f"is for {release.service!r}, as another of these files", "Keep one of the two")
        live = follow(release, revision_of(text), None, lambda: OFFLINE_SALT)
        found[release.service] = InForce(release, live)
    return Standing(found, dict(lists or {}), {}, ())


def read_lists(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Lists from files, each written NAME=FILE: what they would be after `grayctl list put`.

    Raises:
        ListError: a word is not written so, names a list twice, or its file cannot be read or can be no list.
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not file or name in found:
            raise ListError(f"--list {word}: write NAME=FILE, each name once")
        try:
            text = Path(file).read_bytes()
        except OSError as error:
            raise ListError(f"--list {word}: cannot be read: {error.strerror or error}") from error
        found[name] = entries_of(parts_of(text, file))
    return found


def _problem(file: Path, wrong: str, allowed: str) -> ReleaseError:
    return ReleaseError((Problem(file=str(file), line=1, path="", value="", wrong=wrong, allowed=allowed),))
