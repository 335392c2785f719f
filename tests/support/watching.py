"""A watcher under test: what it published, what it asked, and how to wait for either."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from grayctl.consul.client import ConsulClient
from grayctl.consul.names import Resolver
from grayctl.consul.wake import Wake
from grayctl.consul.watch import Watcher
from grayctl.model.catalog import Catalog, Registration
from grayctl.settings import ConsulSettings, Duration, Settings, WatchSettings
from tests.support.process import eventually

_PACKAGE = str(Path("grayctl", "consul"))


class Recorder:
    """Keeps what the watcher tells: it is both the observer and the place where wakes go."""

    def __init__(self) -> None:
        self.wakes: list[Wake] = []
        self.endpoints: list[str] = []
        self.errors: list[Exception] = []

    def answered(self, endpoint: str, seconds: float) -> None:
        assert seconds >= 0
        self.endpoints.append(endpoint)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def published(self, wake: Wake) -> None:
        self.wakes.append(wake)


class Watching:
    """A running watcher and its recorder."""

    def __init__(self, watcher: Watcher, recorder: Recorder, client: ConsulClient) -> None:
        self.watcher = watcher
        self.recorder = recorder
        self.client = client
        self.received: list[Wake] = []

    @property
    def wakes(self) -> list[Wake]:
        return self.recorder.wakes

    @property
    def catalog(self) -> Catalog | None:
        return self.wakes[-1].catalog if self.wakes else None

    def service(self, name: str) -> tuple[Registration, ...]:
        """The newest published registrations of one service; empty when there are none."""
        return self.catalog.services.get(name, ()) if self.catalog else ()

    def ids(self, name: str) -> list[str]:
        return [one.id for one in self.service(name)]

    def value(self, name: str) -> list[bytes]:
        """The newest published values of one KV name."""
        return [entry.value for entry in self.catalog.kv[name]] if self.catalog else []

    async def until(self, condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
        return await eventually(condition, what, seconds=seconds)

    async def complete(self) -> None:
        await self.until(lambda: self.wakes, "a complete catalog")


def make_settings(address: str, *services: str, **more: Any) -> Settings:
    """Settings that watch `services`; `consul`, `watch` and other keys are merged."""
    consul = ConsulSettings(address=address, **more.pop("consul", {}))
    watch = {"wait": Duration(10.0), **more.pop("watch", {})}
    return Settings(consul=consul, watch=WatchSettings(services=services, **watch), **more)


@contextlib.asynccontextmanager
async def watching(settings: Settings, *, resolver: Resolver | None = None, **more: Any) -> AsyncIterator[Watching]:
    """A watcher that runs inside the `async with`, and that has left nothing behind after it."""
    recorder = Recorder()
    async with ConsulClient(settings.consul, connections=settings.watch.max_long_polls) as client:
        received: list[Wake] = []
        watcher = Watcher(client, settings, received.append, observer=recorder, resolver=resolver, **more)
        task = asyncio.create_task(watcher.run())
        found = Watching(watcher, recorder, client)
        found.received = received
        try:
            yield found
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.wait([task])
    assert received == recorder.wakes
    left = [task for task in asyncio.all_tasks() if _PACKAGE in str(task.get_coro())]
    assert not left, f"the watcher left tasks behind: {left}"


def replace(settings: Settings, **consul: Any) -> Settings:
    """`settings` with other Consul settings."""
    return msgspec.structs.replace(settings, consul=msgspec.structs.replace(settings.consul, **consul))
