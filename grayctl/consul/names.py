"""Host names in registrations: resolved here, bounded and cached, and never by nginx.

Nginx resolves while it parses: one dead name costs it 10 s, and the whole configuration (FACTS).
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]

_AT_ONE_TIME = 16
_ONE, _ALL = 5.0, 10.0


class Resolver:
    """The names seen so far and their addresses.

    Args:
        lookup: host name to IP addresses; raises OSError when it cannot. None asks the system.
        one: the longest that one name may take, in seconds.
        everything: the longest that one call may take for all its names, in seconds.
    """

    def __init__(self, lookup: Lookup | None = None, *, one: float = _ONE, everything: float = _ALL) -> None:
        self._lookup = lookup or _System()
        self._one = one
        self._everything = everything
        self._answers: dict[str, tuple[str, ...]] = {}
        self._copy: dict[str, tuple[str, ...]] | None = None  # of the answers, while none is new

    @property
    def answers(self) -> dict[str, tuple[str, ...]]:
        """Name -> IP addresses, sorted; empty for a name that did not resolve. The same object while they stay."""
        if self._copy is None:
            self._copy = dict(self._answers)
        return self._copy

    async def ensure(self, names: Iterable[str]) -> None:
        """Have an answer for each name; asks only for those that were never asked for."""
        await self._resolve(sorted(set(names) - self._answers.keys()))

    async def refresh(self, names: Iterable[str]) -> frozenset[str]:
        """Ask again for all `names` and forget all others; returns those whose addresses changed.

        A name that cannot be resolved now keeps its last good answer.
        """
        wanted = sorted(set(names))
        before = dict(self._answers)
        await self._resolve(wanted)
        for name in before.keys() - set(wanted):
            del self._answers[name]
            self._copy = None
        return frozenset(name for name in wanted if self._answers[name] != before.get(name))

    async def _resolve(self, names: list[str]) -> None:
        if not names:
            return
        tasks = {name: asyncio.create_task(self._ask(name)) for name in names}
        try:
            await asyncio.wait(tasks.values(), timeout=self._everything)
        finally:
            for task in tasks.values():
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for name, task in tasks.items():
            found = None if task.cancelled() else task.result()
            self._copy = None
            self._answers[name] = self._answers.get(name, ()) if found is None else found

    async def _ask(self, name: str) -> tuple[str, ...] | None:
        """The addresses, sorted; None when there was no answer, which keeps the last one."""
        try:
            async with asyncio.timeout(self._one):
                return tuple(sorted(set(await self._lookup(name))))
        except (OSError, UnicodeError):
            return None


class _System:
    """getaddrinfo in daemon threads: asyncio's own threads would hold up the end of the process."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_ONE_TIME)

    async def __call__(self, name: str) -> tuple[str, ...]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

        def deliver(addresses: tuple[str, ...], error: Exception | None) -> None:
            self._free.release()  # not before the thread is done: a hung resolver must not collect threads
            if answer.done():
                return
            if error is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(error)

        def work() -> None:
            found: tuple[str, ...] = ()
            fault: Exception | None = None
            try:
                found = tuple(str(one[4][0]) for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                fault = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
                loop.call_soon_threadsafe(deliver, found, fault)

        threading.Thread(target=work, name=f"resolve {name}", daemon=True).start()
        return await answer
