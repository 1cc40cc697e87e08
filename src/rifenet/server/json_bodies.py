"""JSON of clients: its values are counted while it arrives, and a thread parses it a piece at a time.

A megabyte of small values takes fifty of memory, so that the number of values has a bound; texts, such as photos in
base64, count as one. Python's own parser lets no other thread run before it is done, a third of a second for a million
numbers, in which nobody else would be answered. ijson lets them run between two pieces.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import ijson
import numpy as np
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rifenet.server.problem import Problem

MOST_VALUES = 1_000_000
MOST_DEEP = 100
"""Lists in lists; deeper ones end programs that look into them. Brackets within texts count, too: few texts have that
many."""
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_PIECE = 16 * 1024  # bytes parsed in one go: under a millisecond


class _JsonRequest(Request):
    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Its parts. Raises Problem: 413 once they hold too many values, or values that are nested too deep."""
        values, depth = 0, 0
        async for part in super().stream():
            values += part.count(b",") + part.count(b"[") + part.count(b"{")  # one of these is before each value
            if values > MOST_VALUES:
                raise Problem(
                    413, f"Expected JSON of at most {MOST_VALUES:,} values, but got more. Send fewer regions or tasks."
                )
            if part:
                depths = depth + _STEPS[np.frombuffer(part, np.uint8)].cumsum(dtype=np.int64)
                depth = int(depths[-1])
                if depths.max() > MOST_DEEP:
                    raise Problem(413, f"Expected JSON nested at most {MOST_DEEP} deep, but got more.")
            yield part

    async def json(self) -> Any:
        """What it holds. Raises JSONDecodeError."""
        body = await self.body()
        async with self.app.state.parsing:  # two at a time would keep the others waiting for twice as long
            return await run_in_threadpool(_parsed, body)


def _parsed(body: bytes) -> Any:
    try:
        made = ijson.ObjectBuilder()
        for event, value in ijson.basic_parse(io.BytesIO(body), buf_size=_PIECE, use_float=True):
            made.event(event, value)
    except ijson.JSONError as error:
        raise json.JSONDecodeError(f"no JSON ({error})", "", 0) from error
    return made.value


class JsonRoute(APIRoute):
    """A route whose JSON is bounded, and parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for such a request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return bounded
