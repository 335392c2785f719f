"""Addresses that nginx listens on, and whether somebody holds them: tried by binding, without nginx."""

import contextlib
import errno
import re
import socket

_LISTEN = re.compile(r"listen\s+(?P<address>[^\s;]+)")
_ADDRESS = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[0-9.]+|\*):)?(?P<port>\d{1,5})\Z")
_LAST = 65535

Address = tuple[str, int]


def address(text: str) -> Address | None:
    """Host and port of an address as nginx writes it; None for a unix socket, a name, or a variable."""
    found = _ADDRESS.match(text)
    if found is None or not 0 < int(found["port"]) <= _LAST:
        return None
    host = (found["host"] or "*").strip("[]")
    return ("0.0.0.0" if host == "*" else host), int(found["port"])  # noqa: S104 -- what nginx means by it


def is_taken(where: Address) -> bool:
    """Whether somebody, nginx included, holds the address.

    TCP and UDP alike, since nginx's words do not tell which; what may not be tried counts as taken.
    """
    return any(_refusal(where, kind) is not None for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))


def strangers(wanted: str, held: str) -> tuple[str, ...]:
    """One line for each TCP address that somebody else holds, of those where `wanted` listens and `held` does not.

    Args:
        wanted: the text of a generated file that nginx shall read.
        held: of the one that it has read, whose addresses are its own.
    """
    return tuple(
        f"{host}:{port} is held by another process, and nginx shall listen there: "
        "end that process, or set nginx.marker or nginx.refuse to free ports"
        for host, port in sorted(_listens(wanted) - _listens(held))
        if _refusal((host, port), socket.SOCK_STREAM) == errno.EADDRINUSE
    )


def _listens(text: str) -> set[Address]:
    """The addresses that a text listens on; what stands in the middle of a line is no directive of its own.

    The word is searched for and not the line: of a thousand lines that include something a handful listen.
    """
    places = (
        one for one in _LISTEN.finditer(text) if not text[text.rfind("\n", 0, one.start()) + 1 : one.start()].strip()
    )
    found = (address(one["address"]) for one in places)
    return {one for one in found if one is not None}


def _refusal(where: Address, kind: socket.SocketKind) -> int | None:
    """The error number of binding the address; None when it can be bound."""
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                # as nginx does: a connection in TIME_WAIT must not make the port look taken
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):  # nginx's default: [::]:80 beside 0.0.0.0:80
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(where)
    except OSError as error:
        return error.errno
    return None
