"""What the routes share: the projects, and the way of work from a request to the model's thread and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Header
from starlette.requests import Request

from rifenet.engines import Engine
from rifenet.server.clients import PROJECT_COOKIE, client_of
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem
from rifenet.server.projects import Project, Projects, checked_id
from rifenet.server.worker import Watched, Worker

Answer = TypeVar("Answer")


class Service:
    """One model and its clients. Work that decodes pictures, uses the model or changes a project goes through `run`."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self.worker = Worker(limits.queue)
        self.projects = Projects(Watched(engine, self.worker.check), limits)

    def project_of(self, request: Request, header: str | None) -> tuple[str | None, Project | None]:
        """What the client calls its project, and the project, if there is one. Raises Problem: 422."""
        name = header or request.cookies.get(PROJECT_COOKIE)
        return (checked_id(name), self.projects.find(name)) if name else (None, None)

    async def run(self, request: Request, work: Callable[[], Answer]) -> Answer:
        """The answer of `work`, which ends early when the client goes.

        Raises Problem: 422 for what `work` refuses with a ValueError, 503 where there is no time, place or memory.
        """
        try:
            return await self.worker.run(work, self.limits.seconds, _gone(request), client_of(request.scope))
        except ValueError as error:
            raise Problem(422, str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            sentence = (
                "The server ran out of memory over this request. Send smaller or fewer photos, or try again later."
            )
            raise Problem(503, sentence, {"Retry-After": "60"}) from error


# A dependency that is no coroutine waits for a thread, and `/api/health` would where all threads are taken.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(_service)]
"""The application's service, as a parameter of a route."""
ProjectName = Annotated[
    str | None,
    Header(
        alias="X-Project",
        pattern="^[A-Za-z0-9_-]{1,64}$",
        description="Name of the client's project; browsers have a cookie instead.",
    ),
]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch raises RuntimeError, and each of its allocators has its own words."""
    words = ("not enough memory", "allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in words)


def _gone(request: Request) -> Callable[[], Awaitable[object]]:
    """Ends when the client goes: once the body has been read, the next message says so."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone
