"""Who acts, in words for records and `status`. For people to read: nothing is decided by it."""

import os
import pwd
from pathlib import Path

_NOBODY_LOGGED_IN = 2**32 - 1  # what the kernel says of processes that no login began


def author(pid: int | None = None, uid: int | None = None) -> str:
    """Who runs a process, by default this one: `root`, or `ann as root` when ann logged in and became root.

    The kernel keeps who logged in through sudo and su (loginuid, audit(7)); where it does not, as in a container,
    the user stands alone.
    """
    acts = os.getuid() if uid is None else uid
    logged_in = _login(pid)
    name = _name(acts)
    return name if logged_in in {None, acts} else f"{_name(logged_in)} as {name}"


def _login(pid: int | None) -> int | None:
    try:
        uid = int(Path(f"/proc/{pid or 'self'}/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no audit in this kernel, or the process has ended
        return None
    return None if uid == _NOBODY_LOGGED_IN else uid


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"uid {uid}"
