"""What grayctl remembers across a crash: the activation under way, and what stands and whether it was proven."""

from pathlib import Path
from typing import TypeVar

import msgspec

from grayctl.errors import StateError
from grayctl.nginx.content import FileStamp, stamp_of
from grayctl.nginx.disk import explained, sync, write_file

_T = TypeVar("_T")


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """The journal: an activation under way, written before the act.

    Attributes:
        from_: what stood; None before the first generation.
        to: what shall stand.
        checked: `nginx -t` accepted `to`.
        aside: `nginx -t` looks at `to` beside the live tree, and `current` leads there only once it has accepted it.
            Without it, and not `checked`, the check itself needs the flip.
        reverting: nginx did not prove `to`: `from` is put back, whatever happens.
    """

    from_: int | None = msgspec.field(name="from")
    to: int
    checked: bool
    aside: bool = False
    reverting: bool = False


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The last proof: `proven` is false when `serving` was checked while nginx did not run."""

    serving: int = -1
    digest: str = ""
    proven: bool = False
    last_proven: int = -1


class Journal:
    """pending.json and state.json in a state directory. One process at a time writes them.

    Args:
        root: the state directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._state: tuple[FileStamp, State] | None = None  # as it was read last: it is asked for every second

    def pending(self) -> Pending | None:
        """The activation under way; None when there is none.

        Raises:
            StateError: it is unreadable; the caller treats that as an activation that failed.
        """
        return self._read_json("pending.json", Pending)

    def set_pending(self, pending: Pending) -> None:
        """Register the intent, before the act."""
        self._write_json("pending.json", msgspec.json.encode(pending))

    def drop_pending(self) -> None:
        """The activation is over, either way."""
        with explained(self.root, "drop the journal"):
            (self.root / "pending.json").unlink(missing_ok=True)
            sync(self.root)

    def has_pending(self) -> bool:
        """Whether an activation is under way, readable or not."""
        return (self.root / "pending.json").exists()

    def state(self) -> State:
        """The last proof; an unreadable record counts as none."""
        try:
            mark = stamp_of(f"{self.root}/state.json")
            if self._state is None or self._state[0] != mark:
                self._state = mark, self._read_json("state.json", State) or State()
        except (StateError, OSError):
            return State()
        return self._state[1]

    def set_state(self, state: State) -> None:
        """Record a proof."""
        self._write_json("state.json", msgspec.json.encode(state))

    def _read_json(self, name: str, kind: type[_T]) -> _T | None:
        path = self.root / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(f"{path}: unreadable: {error}") from error

    def _write_json(self, name: str, content: bytes) -> None:
        with explained(self.root / name, "write the journal"):
            write_file(self.root / name, content)
            sync(self.root)
