"""JSON of clients: its values are counted while it arrives, and a thread parses it.

A megabyte of small values takes fifty of memory and a fifth of a second. Nobody else is answered while it is parsed,
even in a thread, so that its number of values has a bound; texts, such as photos in base64, count as one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rifenet.server.problem import Problem

MOST_VALUES = 1_000_000


class _JsonRequest(Request):
    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Its parts. Raises Problem: 413 once they hold too many values."""
        values = 0
        async for part in super().stream():
            values += part.count(b",") + part.count(b"[") + part.count(b"{")  # one of these is before each value
            if values > MOST_VALUES:
                raise Problem(
                    413, f"Expected JSON of at most {MOST_VALUES:,} values, but got more. Send fewer regions or tasks."
                )
            yield part

    async def json(self) -> Any:
        """What it holds. Raises JSONDecodeError."""
        body = await self.body()
        async with self.app.state.parsing:  # two at a time would keep the others waiting for twice as long
            return await run_in_threadpool(json.loads, body)


class JsonRoute(APIRoute):
    """A route whose JSON is bounded, and parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for such a request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return bounded
