"""One thread that uses the model, and a bounded queue before it that all clients share fairly.

Clients take turns, however many jobs each has in the queue. A job stops when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context, Engine, ShotwiseEngine, is_shotwise
from rifenet.server.problem import Problem

Answer = TypeVar("Answer")


class Stopped(Exception):
    """Ends a job whose client has gone or whose time is over."""


@dataclass(eq=False)
class Job:
    """Work that waits or runs."""

    work: Callable[[], Any]
    deadline: float
    """On `time.monotonic`."""
    client: str
    done: Future[Any] = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Called between steps: raises `Stopped` once nobody waits for the answer."""
        if self.stopped.is_set() or time.monotonic() > self.deadline:
            raise Stopped


class Worker:
    """Runs jobs one after another in a thread of its own, which ends with the process or with `close`."""

    def __init__(self, queue_size: int) -> None:
        self._size = queue_size
        self._jobs: dict[str, deque[Job]] = {}  # of each client that waits, in the order of their turns
        self._changed = threading.Condition()  # guards the two around it
        self._closing = False
        self._current: Job | None = None
        self._thread = threading.Thread(target=self._work, name="rifenet-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue. The running job does not count."""
        return sum(len(jobs) for jobs in list(self._jobs.values()))

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._current is not None

    def check(self) -> None:
        """Called from within a job, between its steps: raises `Stopped` once nobody waits for it."""
        if self._current is not None and threading.current_thread() is self._thread:
            self._current.check()

    async def run(
        self, work: Callable[[], Answer], seconds: float, gone: Callable[[], Awaitable[object]], client: str = ""
    ) -> Answer:
        """The answer of `work`, or its exception.

        Args:
            work: runs in the worker's thread.
            seconds: how long to wait for the answer, time in the queue included.
            gone: ends when the client has gone.
            client: who asks; see `clients`.

        Raises:
            Problem: 503 where the queue is full or the time is over.
            Stopped: the client has gone.
        """
        job = Job(work, time.monotonic() + seconds, client)
        self._put(job)
        answer, leaving = asyncio.wrap_future(job.done), asyncio.ensure_future(gone())
        try:
            await asyncio.wait({answer, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.cancelled():
                raise Problem(503, "The server is stopping. Send this to the next one.")
            if answer.done() and not isinstance(answer.exception(), Stopped):
                return answer.result()
            if leaving.done():
                raise Stopped
            raise Problem(
                503,
                f"Expected an answer within {seconds:g} seconds, but it took longer. Send fewer or smaller photos, or"
                " try again when the server is less busy.",
                {"Retry-After": "5"},
            )
        finally:
            job.stopped.set()
            self._drop(job)
            leaving.cancel()
            answer.cancel()

    def close(self, timeout: float = 10) -> None:
        """Ends the thread after the job that runs; those that wait get no answer."""
        with self._changed:
            self._closing = True
            if current := self._current:
                current.stopped.set()
            for jobs in self._jobs.values():
                for job in jobs:
                    job.done.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join(timeout)

    def _put(self, job: Job) -> None:
        with self._changed:
            if self._closing:
                raise Problem(503, "The server is stopping. Send this to the next one.")
            if self.waiting >= self._size:
                self._make_room(job.client)
            self._jobs.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def _make_room(self, client: str) -> None:
        """Takes the newest job from the client that has the most, where that is more than `client` would have.

        Raises Problem: 503 where it is not.
        """
        busy = Problem(503, f"The server is busy: {self._size} requests wait. Try again soon.", {"Retry-After": "2"})
        most = max(self._jobs.values(), key=len)
        if len(most) <= len(self._jobs.get(client, ())) + 1:
            raise busy
        refused = most.pop().done
        if refused.set_running_or_notify_cancel():
            refused.set_exception(busy)

    def _drop(self, job: Job) -> None:
        """Makes room where the job still waits."""
        with self._changed, contextlib.suppress(KeyError, ValueError):
            self._jobs[job.client].remove(job)
            if not self._jobs[job.client]:
                del self._jobs[job.client]

    def _next(self) -> Job:
        """The oldest job of the client whose turn it is; its next turn comes after those of all others."""
        client = next(iter(self._jobs))
        jobs = self._jobs.pop(client)
        job = jobs.popleft()
        if jobs:
            self._jobs[client] = jobs
        return job

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job = self._next()
                self._current = job
            self._run(job)
            del job  # else the last job's pictures stay until the next one comes

    def _run(self, job: Job) -> None:
        if not job.done.set_running_or_notify_cancel():
            self._current = None
            return
        try:
            job.check()
            answer = job.work()
        except BaseException as error:
            job.done.set_exception(error)
        else:
            job.done.set_result(answer)
        finally:
            self._current = None


class Watched:
    """An engine that stops between its steps when nobody waits for the result; see `rifenet.engines.Engine`."""

    def __init__(self, engine: Engine, check: Callable[[], None]) -> None:
        self._engine, self._check = engine, check
        self.name, self.hash, self.weights_hash = engine.name, engine.hash, engine.weights_hash
        self.size, self.threshold, self.calibration = engine.size, engine.threshold, engine.calibration
        self.inner_names = engine.inner_names
        self.shotwise = is_shotwise(engine)

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class."""
        self._check()
        context = self._engine.encode_support(images, masks, valid)
        self._check()  # a class that nobody waits for is not kept
        return context

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images."""
        self._check()
        return self._engine.encode_query(images, valid)

    def inner(self, features: Any) -> list[Mapping[str, NDArray[Any]]]:
        """Maps inside the network."""
        self._check()
        return self._engine.inner(features)

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Segments one class."""
        self._check()
        return self._engine.decode(features, context)

    def encode_shot(self, image: NDArray[np.float32], mask: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Any:
        """Encodes one shot."""
        self._check()
        return self._of_shots().encode_shot(image, mask, valid)

    def learn_shots(self, shots: Sequence[Any]) -> Context:
        """Learns a class."""
        context = self._of_shots().learn_shots(shots)
        self._check()  # a class that nobody waits for is not kept
        return context

    def query_of(self, shot: Any) -> Any:
        """Features of a shot's photo."""
        self._check()
        return self._of_shots().query_of(shot)

    def _of_shots(self) -> ShotwiseEngine:
        assert is_shotwise(self._engine), "Looks asks before it uses these"
        return self._engine
