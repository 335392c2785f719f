"""Policies from files: what would be in force, without Consul. For previews, `explain` and tests."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from grayctl.errors import Problem, ReleaseError
from grayctl.model.release import InForce
from grayctl.policy.document import read_release
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


def _problem(file: Path, wrong: str, allowed: str) -> ReleaseError:
    return ReleaseError((Problem(file=str(file), line=1, path="", value="", wrong=wrong, allowed=allowed),))
