"""Free loopback ports, safe under pytest-xdist and with several runs on one machine.

Ports come in blocks. A process owns a block as long as it holds the lock on the block's file, so two test
processes never hand out the same port, also between the check and the moment the server binds it. All blocks
lie below the kernel's ephemeral range, so that no outgoing connection takes a port in between.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

FIRST = 12000
BLOCK = 64
BLOCKS = 300


class _Allocator:
    """The blocks this process holds; the locks go with the process."""

    def __init__(self) -> None:
        self._locks: list[IO[bytes]] = []
        self._next = 0
        self._end = 0

    def take(self, count: int) -> int:
        """The first of `count` consecutive free ports."""
        if not 1 <= count <= BLOCK:
            raise ValueError(f"{count} ports: a block holds 1-{BLOCK}")
        for _ in range(BLOCKS * BLOCK):
            if self._next + count > self._end:
                self._lock_another_block()
            start = self._next
            taken = next((port for port in range(start, start + count) if not _is_free(port)), None)
            self._next = start + count if taken is None else taken + 1
            if taken is None:
                return start
        raise RuntimeError("no free ports")

    def _lock_another_block(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"grayctl-test-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        offset = random.randrange(BLOCKS)
        for step in range(BLOCKS):
            number = (offset + step) % BLOCKS
            lock = (folder / str(number)).open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._locks.append(lock)
            self._next = FIRST + number * BLOCK
            self._end = self._next + BLOCK
            return
        raise RuntimeError(f"all {BLOCKS} port blocks are taken: other test runs hold the locks in {folder}")


def _is_free(port: int) -> bool:
    """Whether a server may bind the port now, TCP and UDP (Consul's gossip needs both)."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                # As the servers do: a connection in TIME_WAIT must not make the port look taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True


_ALLOCATOR = _Allocator()


def free_block(count: int) -> int:
    """The first of `count` (1-64) consecutive ports that are free now and that nobody else is given."""
    return _ALLOCATOR.take(count)


def free_ports(count: int) -> list[int]:
    """`count` ports, each free now and given to nobody else."""
    return [free_block(1) for _ in range(count)]
