"""The freeze: a file for this node, a key in Consul for the fleet, and which of them stands now."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from grayctl.errors import StateError
from grayctl.model.catalog import Catalog, Freeze

FILE = "freeze.json"


def read_local(state_dir: Path) -> Freeze | None:
    """This node's freeze.

    Raises:
        StateError: when the file is there and unreadable: a brake that cannot be read counts as pulled, so the
            caller must not go on as if there were none.
    """
    path = state_dir / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Freeze)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise StateError(f"{path}: cannot read the freeze: {error}. `grayctl unfreeze` removes it") from error


def write_local(state_dir: Path, freeze: Freeze | None) -> None:
    """Pull the brake of this node, or release it (None).

    Raises:
        StateError: when the state directory cannot be written.
    """
    path = state_dir / FILE
    try:
        if freeze is None:
            path.unlink(missing_ok=True)
            return
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(freeze))
        fresh.replace(path)
    except OSError as error:
        raise StateError(f"{path}: cannot write the freeze: {error.strerror}") from error


class Brake:
    """Which freeze stands.

    Expiry is measured on the monotonic clock from when a freeze was first seen, so that a wall clock that jumps
    neither releases nor prolongs it.

    Args:
        state_dir: where this node's freeze is kept.
        clock: wall clock, read once for each new freeze.
        monotonic: decides.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._monotonic = monotonic
        self._deadlines: dict[Freeze, float] = {}

    def standing(self, catalog: Catalog | None) -> Freeze | None:
        """The freeze in force: the node's own, else the fleet's."""
        for freeze in (self._local(), _fleet(catalog)):
            if freeze is not None and not self._over(freeze):
                return freeze
        return None

    def _local(self) -> Freeze | None:
        try:
            return read_local(self._state_dir)
        except StateError as error:
            return Freeze(reason=str(error), author="grayctl")

    def _over(self, freeze: Freeze) -> bool:
        if freeze.until is None:
            return False
        if freeze not in self._deadlines:
            self._deadlines[freeze] = self._monotonic() + freeze.until - self._clock()
        return self._monotonic() >= self._deadlines[freeze]


def _fleet(catalog: Catalog | None) -> Freeze | None:
    entries = [one for one in (catalog.kv.get("freeze", ()) if catalog else ()) if one.key.endswith("/freeze")]
    if not entries:
        return None
    try:
        return msgspec.json.decode(entries[0].value, type=Freeze)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return Freeze(reason=f"{entries[0].key} is unreadable, which counts as frozen: {error}", scope="fleet")
