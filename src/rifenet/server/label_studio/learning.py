"""Learns the classes of labeling projects from their books, and predicts their tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rifenet.formats.remarks import heard
from rifenet.formats.run_lengths import Check
from rifenet.server.label_studio.book import Annotation, AnnotationIn, Book, Shot, TaskIn, digest_of, packed
from rifenet.server.label_studio.link import Link
from rifenet.server.label_studio.regions import LabelingConfig, mask_of, prediction_of
from rifenet.server.problem import Problem
from rifenet.server.projects import Project
from rifenet.server.service import Service
from rifenet.server.uploads import check_files, read_photo

log = logging.getLogger(__name__)

Photos = dict[str, UploadFile | str]  # place -> photo, or a sentence that says why there is none


class Labeling:
    """All labeling projects. The server's projects hold their classes, under names that no client can give."""

    def __init__(self, service: Service, link: Link) -> None:
        self.service, self.link = service, link
        self._books: dict[str, Book] = {}
        self._running: set[asyncio.Task[Any]] = set()

    def open(self, name: str, config: LabelingConfig) -> Book:
        """The book of a project, with its labeling config as it is now. Raises Problem: 503 for too many."""
        if name not in self._books and len(self._books) >= self.service.limits.projects:
            if self.link.url is None:
                raise Problem(503, "The server keeps no more labeling projects. Start it with a larger --projects.")
            del self._books[next(iter(self._books))]  # the one not used for longest; it can be asked for again
            self.count()
        book = self._books[name] = self._books.pop(name) if name in self._books else Book(name)
        if book.config != config:
            book.config, book.known = config, False  # annotations that meant nothing before may mean something now
        return book

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs work after the request has its answer. A failure is logged; the next prediction meets it again."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def read(self, book: Book, again: bool = False) -> None:
        """Asks Label Studio for the project's annotations, once. Raises ValueError where it does not give them."""
        async with book.lock:
            if book.known and not again:
                return
            limits, before = self.service.limits, -1
            while before != book.events:  # else what came meanwhile would be lost
                before = book.events
                tasks = await run_in_threadpool(
                    self.link.annotated_tasks, book.number, book.token, limits.request_mb * 10**6, limits.seconds
                )
            if self.link.url is not None:
                book.annotations.clear()
            assert book.config is not None
            for annotation in await run_in_threadpool(_annotations, tasks, book.config):
                self.note(book, annotation.id, annotation)
            book.known = True

    def note(self, book: Book, id: int, annotation: Annotation | None) -> None:
        """Takes what has become of an annotation. Raises Problem: 503 where the server has no memory for it."""
        before = book.annotations.get(id)
        more = (annotation.memory if annotation else 0) - (before.memory if before else 0)
        if more > 0:
            self.service.projects.check_bytes(more)
        book.note(id, annotation)
        self.count()

    def count(self) -> None:
        """Tells the projects what the books take of the memory that both share."""
        self.service.projects.beside = sum(book.memory for book in self._books.values())

    async def read_and_learn(self, book: Book, again: bool) -> None:
        """Learns what changed, while no client waits. With `again`, asks Label Studio for all annotations first."""
        await self.read(book, again)
        await self.learn(book, None)

    async def learn(self, book: Book, request: Request | None) -> Project | None:
        """Brings the classes up to the book; None where nothing is annotated. Raises Problem: 503."""
        async with book.lock:
            shots, project = book.shots(), self.service.projects.find(_project(book))
            if project is None:
                book.learned.clear()
                if not shots:
                    return None
            due = {label: each for label, each in shots.items() if book.learned.get(label) != digest_of(each)}
            if project is not None and not due and set(book.learned) == set(shots):
                return project
            places = dict.fromkeys(shot.annotation.photo for each in due.values() for shot in each)
            photos = await self.photos(book, list(places))
            try:
                return await self.service.run(request or _Nobody(), lambda: self._learned(book, shots, due, photos))
            finally:
                _close(photos)

    async def predict(
        self, request: Request, book: Book, tasks: list[TaskIn]
    ) -> tuple[str, list[list[dict[str, Any]]]]:
        """The model's version, and for each task a list of one prediction; an empty one where there is none.

        Raises Problem: 422 where none of the photos can be had, 503.
        """
        project = await self.learn(book, request)
        version, config = book.version(self.service.engine), book.config
        assert config is not None
        if project is None or not tasks:
            return version, [[] for _ in tasks]
        places = [str(task.data.get(config.photo_key)) for task in tasks]
        photos = await self.photos(book, list(dict.fromkeys(places)))

        def one(place: str) -> list[dict[str, Any]]:
            try:
                result = project.segmenter.segment(_read(photos, place, self.service.worker.check))
            except (ValueError, Problem) as error:
                photos[place] = str(getattr(error, "detail", error))
                log.warning("Label Studio project %s: no prediction: %s", book.name, photos[place])
                return []
            regions, score = prediction_of(result, config)
            return [{"result": regions, "score": score, "model_version": version}]

        def all_of_them() -> list[list[dict[str, Any]]]:
            with _logged(book):
                return [one(place) for place in places]

        try:
            found = await self.service.run(request, all_of_them)
        finally:
            _close(photos)
        if not any(found):
            raise Problem(422, str(photos[places[0]]))
        return version, found

    async def photos(self, book: Book, places: list[str]) -> Photos:
        """The photos at these places, one after another."""
        photos: Photos = {}
        for place in places:
            try:
                photos[place] = await run_in_threadpool(self._photo, place, book.token)
            except ValueError as error:
                photos[place] = str(error)
            except Problem as problem:
                photos[place] = str(problem.detail)
        return photos

    def _photo(self, place: str, token: str | None) -> UploadFile:
        limits = self.service.limits
        file = self.link.photo(place, token, limits.file_mb * 10**6, limits.seconds)
        size = file.seek(0, 2)
        upload = UploadFile(file, size=size, filename=place[-60:])  # type: ignore[arg-type]
        check_files([upload], limits, "photo")
        return upload

    def _learned(
        self, book: Book, shots: dict[str, list[Shot]], due: dict[str, list[Shot]], photos: Photos
    ) -> Project | None:
        """Within a job: forgets classes without shots, then learns those whose shots changed. Raises Problem: 503."""
        project = self.service.projects.open(_project(book))
        try:
            for label in set(book.learned) - set(shots):
                del book.learned[label]
            for label in set(project.segmenter.classes) - set(shots):
                project.segmenter.forget(label)
                project.changed(label)
            for label, each in due.items():
                self._learn_class(book, project, label, each, photos)
                book.learned[label] = digest_of(each)
        finally:
            self.service.projects.drop_if_empty(project)
        return project if project.segmenter.classes else None

    def _learn_class(self, book: Book, project: Project, label: str, shots: list[Shot], photos: Photos) -> None:
        self.service.projects.check_memory(len(shots))

        def photo_of(shot: Shot) -> NDArray[np.uint8]:
            return _read(photos, shot.annotation.photo, self.service.worker.check)

        def mask_of_shot(shot: Shot) -> NDArray[np.uint8]:
            height, width = photo_of(shot).shape[:2]
            return mask_of(shot.regions, height, width, self.service.worker.check)

        usable = []
        for shot in shots:
            self.service.worker.check()
            try:
                if not mask_of_shot(shot).any():
                    raise ValueError("Expected an annotation that marks something, but it marks no pixel.")
                usable.append(shot)
            except (ValueError, Problem) as error:
                sentence = getattr(error, "detail", error)
                log.warning(
                    "Label Studio project %s: task %s teaches nothing: %s", book.name, shot.annotation.task, sentence
                )
        if usable:
            with _logged(book):
                project.segmenter.learn(label, _Lazy(usable, photo_of), _Lazy(usable, mask_of_shot), replace=True)
        elif label in project.segmenter.classes:
            project.segmenter.forget(label)
        project.changed(label)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("Label Studio: %s", getattr(error, "detail", error))


class _Lazy(Sequence[NDArray[np.uint8]]):
    """Makes the picture of a shot when it is read, so that memory holds one photo at a time."""

    def __init__(self, shots: list[Shot], make: Callable[[Shot], NDArray[np.uint8]]) -> None:
        self._shots, self._make = shots, make

    def __len__(self) -> int:
        return len(self._shots)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._make(shot) for shot in self._shots)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._shots[index])


class _Nobody(Request):
    """A request whose client never leaves, for work in the background."""

    def __init__(self) -> None:
        super().__init__({"type": "http", "headers": []}, _never)


async def _never() -> Any:
    await asyncio.get_running_loop().create_future()


def _logged(book: Book) -> AbstractContextManager[None]:
    """Writes remarks on photos and masks into the log."""
    return heard(lambda about, sentence: log.warning("Label Studio project %s: %s: %s", book.name, about, sentence))


def _annotations(tasks: list[Any], config: LabelingConfig) -> list[Annotation]:
    """What tasks, as Label Studio exports them, mark."""
    found = []
    for task in tasks:
        known = TaskIn.model_validate(task)
        for annotation in task.get("annotations") or []:
            if (kept := packed(known, AnnotationIn.model_validate(annotation), config)) is not None:
                found.append(kept)
    return found


def _project(book: Book) -> str:
    return f"labeling:{book.name}"  # a colon is in no client's name


def _read(photos: Photos, place: str, check: Check) -> NDArray[np.uint8]:
    photo = photos[place]
    if isinstance(photo, str):
        raise ValueError(photo)
    return read_photo(photo, 1, check)


def _close(photos: Photos) -> None:
    for photo in photos.values():
        if isinstance(photo, UploadFile):
            photo.file.close()
