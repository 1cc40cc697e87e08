"""JSON of clients: its values are counted before it is parsed, and a thread parses it a piece at a time.

A megabyte of small values takes fifty of memory, so that the number of values has a bound; texts, such as photos in
base64, count as one. Python's own parser lets no other thread run before it is done, a third of a second for a million
numbers, in which nobody else would be answered. ijson lets them run between two pieces.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import ijson
import numpy as np
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rifenet.engines.garbage import uncollected
from rifenet.formats.run_lengths import Check, unchecked
from rifenet.server.problem import Problem

MOST_VALUES = 1_000_000
"""Of the body of a request."""
MOST_LABEL_VALUES = 5_000_000
"""Of a label file, which may hold the polygons of a whole dataset: the 5,000 photos of COCO's validation set have 2.5
million coordinates."""
MOST_DEEP = 100
"""Lists in lists; deeper ones end programs that look into them. Brackets within texts count, too: few texts have that
many."""
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_PIECE = 16 * 1024  # bytes parsed in one go: under a millisecond
_COUNTED = 1 << 20  # bytes of a label file counted in one go: some milliseconds
_VALUES = "rifenet.json"  # entry of a request's scope: its parsed JSON
_CHECKED = 10_000  # values between two looks at the deadline


class _Bounds:
    """Counts the values of a JSON, part by part. Raises Problem: 413 at more than `most`, or if nested too deep."""

    def __init__(self, most: int, advice: str) -> None:
        self.most, self.advice = most, advice
        self.values, self.depth = 0, 0

    def add(self, part: bytes) -> None:
        self.values += part.count(b",") + part.count(b"[") + part.count(b"{")  # one of these is before each value
        if self.values > self.most:
            raise Problem(413, f"Expected JSON of at most {self.most:,} values, but got more. {self.advice}")
        if part:
            depths = self.depth + _STEPS[np.frombuffer(part, np.uint8)].cumsum(dtype=np.int64)
            self.depth = int(depths[-1])
            if depths.max() > MOST_DEEP:
                raise Problem(413, f"Expected JSON nested at most {MOST_DEEP} deep, but got more.")


class _JsonRequest(Request):
    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Its parts. Raises Problem: 413 once they hold too many values, or values that are nested too deep."""
        bounds = _Bounds(MOST_VALUES, "Send fewer regions or tasks.")
        async for part in super().stream():
            bounds.add(part)
            yield part

    async def json(self) -> Any:
        """What it holds. Raises JSONDecodeError."""
        body = await self.body()
        async with self.app.state.parsing:  # two at a time would keep the others waiting for twice as long
            try:
                # Not the thread's own return value: that would stay alive until the thread has other work.
                await run_in_threadpool(lambda: self.scope[_VALUES].append(_parsed(body)))
            except ValueError as error:
                raise json.JSONDecodeError(f"no JSON ({error})", "", 0) from error
        return self.scope[_VALUES][-1]


def parse_labels(text: str, check: Check, kept: list[Any]) -> Any:
    """Content of a label file, which is also added to `kept`; `check` is called between its pieces.

    Raises ValueError where it is no JSON, and Problem: 413 for too many values, or values that are nested too deep.
    """
    body = text.encode()
    bounds = _Bounds(MOST_LABEL_VALUES, "Send a part of the annotations at a time.")
    for start in range(0, len(body), _COUNTED):
        bounds.add(body[start : start + _COUNTED])
    kept.append(_parsed(body, check))
    return kept[-1]


def _parsed(body: bytes, check: Check = unchecked) -> Any:
    with uncollected:  # JSON has no cycles
        return _built(body, check)


def _built(body: bytes, check: Check) -> Any:
    made = ijson.ObjectBuilder()
    try:
        for number, (event, value) in enumerate(ijson.basic_parse(io.BytesIO(body), buf_size=_PIECE, use_float=True)):
            if number % _CHECKED == 0:
                check()
            made.event(event, value)
    except ijson.JSONError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return made.value


@contextmanager
def let_go() -> Iterator[list[Any]]:
    """A list for JSON values, which are freed a piece at a time when the context ends."""
    values: list[Any] = []
    yield values
    _let_go(values)


def _let_go(values: list[Any]) -> None:
    """Empties a list of JSON values, and has what nobody else refers to freed, one list or object at a time.

    Python frees a tree in one go, half a million lists in more than 35 ms, in which nobody is answered. While all its
    lists and objects stand in one flat list, parents first, each is freed by itself, and other threads run in between.
    Nothing is changed, so that whoever still refers to a part keeps it.
    """
    waiting = deque(_holders(values))
    values.clear()
    while waiting:
        waiting.popleft()


def _holders(values: list[Any]) -> list[Any]:
    """All lists and objects in JSON values, each before those that it holds."""
    found = [value for value in values if isinstance(value, list | dict)]
    for each in found:  # it grows meanwhile
        inner = each.values() if isinstance(each, dict) else each
        found.extend(value for value in inner if isinstance(value, list | dict))
    return found


class LetGo:
    """Application that frees the JSON of a request after its answer, a piece at a time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request. What refers to its JSON, an error on its way among them, is gone when `app` returns."""
        values: list[Any] = []
        try:
            await self.app({**scope, _VALUES: values}, receive, send)
        finally:
            if values:
                await run_in_threadpool(_let_go, values)


class JsonRoute(APIRoute):
    """A route whose JSON is bounded, and parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for such a request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return bounded
