"""The notify protocol of systemd: sd_notify(3), one datagram to NOTIFY_SOCKET."""

import os
import socket


def notify(**fields: str) -> None:
    """Tell systemd about us: READY="1", STATUS="...", WATCHDOG="1", RELOADING="1", STOPPING="1".

    Does nothing where systemd does not listen. A manager that does not take the datagram is no reason to stop.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A line break in a text that repeats somebody's words must not begin a field of its own.
    message = "\n".join(f"{name}={' '.join(value.splitlines())}" for name, value in fields.items())
    target = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)  # noqa: FBT003 -- socket takes no keyword
        try:
            sender.sendto(message.encode("utf-8", "replace"), target)
        except OSError:
            return


def watchdog_interval() -> float | None:
    """Seconds between two keep-alives: half of WATCHDOG_USEC; None when systemd does not ask for any."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdigit() and int(microseconds) > 0 else None
