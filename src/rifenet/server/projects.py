"""Projects: each browser or client has classes of its own. Their number, memory and age are bounded."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from rifenet.engines import Engine
from rifenet.segmenting.photo_views import PhotoViews
from rifenet.segmenting.segmenter import Segmenter
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem

Item = TypeVar("Item")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Progress(NamedTuple):
    """How far the work of a long request is."""

    phase: str
    """What the server does, for people."""
    done: int
    """Photos or classes that are done."""
    total: int
    """All of them; 0 where nobody knows."""


class Listed(NamedTuple):
    """A learned class as answers show it. Its place in the list, from 1, is its number in masks."""

    name: str
    shots: int
    revision: str
    """Changes with its shots and with the photos that it adopts."""


@dataclass(eq=False)
class Project:
    """The classes of one client."""

    id: str
    segmenter: Segmenter
    used: float
    """Time of the last request for it, on the projects' clock."""
    listed: tuple[Listed, ...] = ()
    """The classes after the last change. Each change replaces the tuple, so that any thread may read it."""
    memory: int = 0
    """Bytes that they took then."""
    progress: Progress | None = None
    """How far a long request is; None while there is none. It is replaced, so that any thread may read it."""

    def changed(self, name: str) -> None:
        """Brings `listed` up to date after class `name` was learned or forgotten, within a job."""
        known = {each.name: each.revision for each in self.listed}
        known[name] = secrets.token_hex(6)
        self.listed = tuple(Listed(each, shots, known[each]) for each, shots in self.segmenter.shots.items())
        self.memory = self.segmenter.memory()

    def counted(self, items: Iterable[Item], total: int, phase: str) -> Iterator[Item]:
        """The items of a long request, counted in `progress` as they are taken."""
        for done, item in enumerate(items):
            self.progress = Progress(phase, done, total)
            yield item
        self.progress = Progress(phase, total, total)


class Projects:
    """All projects over one engine, in memory only: a client keeps its photos and can teach them again.

    The lock is for requests, which look for projects while the model's thread makes them.
    """

    def __init__(self, engine: Engine, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine, self.limits, self._clock = engine, limits, clock
        self.views = PhotoViews()
        """What the model saw of the photos that clients mark with strokes."""
        self.beside = 0
        """Bytes that annotations take, which share the projects' memory."""
        self._projects: dict[str, Project] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._projects)

    def find(self, id: str | None) -> Project | None:
        """The project called `id`, if there is one and it has not been idle for too long."""
        with self._lock:
            self._drop_idle()
            project = self._projects.get(id or "")
            if project is not None:
                project.used = self._clock()
            return project

    def open(self, id: str | None) -> Project:
        """The project called `id`, made where it is missing. None makes one with a name that nobody can guess.

        Raises Problem: 503 where there are too many.
        """
        with self._lock:
            if known := self.find(id):
                return known
            if len(self._projects) >= self.limits.projects:
                raise Problem(
                    503,
                    f"The server keeps {self.limits.projects} projects, and all are in use. Try again later, or start"
                    " it with a larger --projects.",
                    {"Retry-After": "60"},
                )
            project = Project(id or secrets.token_urlsafe(16), Segmenter(self.engine, self.views), self._clock())
            self._projects[project.id] = project
            return project

    def drop_if_empty(self, project: Project) -> None:
        """Forgets a project that holds no class, so that failed or finished clients take no place."""
        with self._lock:
            if not project.segmenter.classes and self._projects.get(project.id) is project:
                del self._projects[project.id]

    def memory(self) -> int:
        """Bytes that the learned classes of all projects, the annotations and the views take."""
        with self._lock:
            return self.beside + self.views.memory() + sum(project.memory for project in self._projects.values())

    def check_memory(self, shots: int) -> None:
        """Raises Problem: 503 where `shots` more annotated photos would not fit, with as much again for their class."""
        self.check_bytes(shots * self.engine.size**2 * (3 * 4 + 1 + 1) * 2)

    def check_bytes(self, more: int) -> None:
        """Raises Problem: 503 where so many bytes more would not fit."""
        if self.memory() + more > self.limits.memory_mb * 1e6:
            raise Problem(
                503,
                f"The learned classes of all projects take {self.memory() / 1e6:.0f} MB, and the server keeps at most"
                f" {self.limits.memory_mb}. Delete a class, try again later, or start it with a larger --memory-mb.",
                {"Retry-After": "60"},
            )

    def _drop_idle(self) -> None:
        oldest = self._clock() - 60 * self.limits.idle_minutes
        for id in [id for id, project in self._projects.items() if project.used < oldest]:
            del self._projects[id]


def checked_id(id: str) -> str:
    """A project's name as a client gives it. Raises Problem: 422."""
    if not _ID.fullmatch(id):
        raise Problem(422, "Expected a project name of 1 to 64 letters, digits, - and _, but got another. Choose one.")
    return id
