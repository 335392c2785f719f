"""Servers of a test that is no coroutine: on an event loop in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

T = TypeVar("T")


async def stop_accepting(*descriptors: int) -> None:
    """Listen no more. What was accepted until now is a connection afterwards, which whoever closes the server closes.

    asyncio leaves open what it accepted just before its server is closed (python/cpython#109564).
    """
    for one in descriptors:
        asyncio.get_running_loop().remove_reader(one)
    await asyncio.sleep(0.05)
    for _ in range(10):  # on a busy machine the time may pass in one round of the loop, and it takes three or four
        await asyncio.sleep(0)


@contextlib.contextmanager
def in_background(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter `manager` in another thread, and leave it there at the end."""
    entered: Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def hold() -> None:
        async with manager as value:
            end = asyncio.Event()
            entered.set_result((value, asyncio.get_running_loop(), end))
            await end.wait()

    def work() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=work, name="background")
    thread.start()
    try:
        value, loop, end = entered.result()
        try:
            yield value
        finally:
            loop.call_soon_threadsafe(end.set)
    finally:
        thread.join()
