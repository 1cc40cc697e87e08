"""Connections: bounds on how many are open and on how long one may be silent.

uvicorn closes a connection that is silent between two requests. It waits for ever for the rest of a request's head, and
for a client that does not read its answer. Its `limit_concurrency` still accepts every connection, until the system has
none left to give; then asyncio logs thousands of lines a second, and nobody is answered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rifenet.server.limits import Limits

_HEAD_SECONDS = 10
_LOG_SECONDS = 60
_NO_FILES = "socket.accept() out of system resource"  # asyncio's words

log = logging.getLogger(__name__)


def open_files() -> int:
    """Files and connections that this process may have open at a time."""
    try:
        import resource
    except ImportError:  # Windows
        return 2**14
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**14 if most == resource.RLIM_INFINITY else most


class Connection(H11Protocol):
    """One connection. Where there are too many, the one that has been without a request for longest is closed."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._idle_since = 0.0
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way: none has come, its head is unfinished, or its answer is complete."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself, or closes itself where every other connection has a request under way."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) > self._limits.connections:
            others = (each for each in self.connections if isinstance(each, Connection) and each.idle)
            longest = min(others, key=lambda each: each._idle_since)  # there is one: this connection is idle, too
            self.connections.discard(longest)  # its own discard comes later, when more may have been accepted
            longest.transport.abort()
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Gives a request's head some seconds from its first byte on."""
        if self.idle and self._head is None:
            self._expect_head()
        super().data_received(data)
        if not self.idle:
            _cancel(self._head)
            self._head = None

    def on_response_complete(self) -> None:
        """The connection has been idle from here on, unless the next request has come already."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Gives a client that does not read some seconds to go on."""
        super().pause_writing()
        self._reading = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        _cancel(self._reading)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        _cancel(self._head)
        _cancel(self._reading)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """What still comes may also be the rest of a body that was refused; that has as long as any body."""
        whole = self.cycle is None or not self.cycle.more_body
        seconds = min(_HEAD_SECONDS, self._limits.seconds) if whole else self._limits.seconds
        self._head = self.loop.call_later(seconds, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def log_no_files_rarely(loop: asyncio.AbstractEventLoop) -> None:
    """Has one line a minute logged where the system gives no more connections; asyncio would log one for each try."""
    last = -_LOG_SECONDS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        if context.get("message") != _NO_FILES:
            loop.default_exception_handler(context)
        elif loop.time() - last >= _LOG_SECONDS:
            last = int(loop.time())
            log.error("The system lets this process open no more files, so no connection. Raise it with ulimit -n.")

    loop.set_exception_handler(handle)
