"""A Consul that says what a test wants: for answers that a real one gives rarely, or never."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Scripted:
    """Answers by path; what has no handler is empty, with index 1, and is held as Consul would hold it.

    Attributes:
        handlers: path -> what answers.
        asked: (path, query) of each request, in order.
        headers: of each request, in order.
    """

    address: str = ""
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query)))
        self.headers.append(dict(request.headers))
        if request.path in self.handlers:
            return await self.handlers[request.path](request)
        if "index" in request.query:
            await asyncio.sleep(3600)
        if request.path.startswith("/v1/kv/"):
            return web.Response(status=404, headers={"X-Consul-Index": "1"})
        return answer({} if request.path == "/v1/catalog/services" else [], 1)

    def queries(self, path: str) -> list[dict[str, str]]:
        """The queries of the requests for one path."""
        return [query for asked, query in self.asked if asked == path]


def answer(value: Any, index: object, status: int = 200) -> web.Response:
    """JSON with an index."""
    return web.Response(
        body=json.dumps(value).encode(),
        status=status,
        headers={"X-Consul-Index": str(index)},
        content_type="application/json",
    )


def script(*answers: web.Response | Callable[[], web.Response]) -> Handler:
    """Answer once with each; hold whatever comes after the last."""
    remaining = list(answers)

    async def handler(_: web.Request) -> web.StreamResponse:
        if not remaining:
            await asyncio.sleep(3600)
        found = remaining.pop(0)
        return found() if callable(found) else found

    return handler


def instance(service: str, number: int = 1, **more: Any) -> dict[str, Any]:
    """One element of a health answer."""
    return {
        "Node": {"Node": "n1", "Address": "10.0.0.9"},
        "Service": {"ID": f"{service}-{number}", "Service": service, "Address": f"10.0.0.{number}", "Port": 80} | more,
        "Checks": [{"Node": "n1", "CheckID": f"c{number}", "Status": "passing"}],
    }


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """A scripted Consul on a port of its own."""
    found = Scripted()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()
