"""A machine learning back-end for Label Studio: `/labeling` is the address to connect.

The server notes annotations as Label Studio sends them, and learns them at once in the background. A prediction first
learns what is still to be learned. After a restart the server asks Label Studio for the annotations again.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from rifenet.server import answers
from rifenet.server.json_bodies import JsonRoute
from rifenet.server.label_studio.book import Annotation, AnnotationIn, Book, TaskIn, book_name, packed
from rifenet.server.label_studio.learning import Labeling
from rifenet.server.label_studio.regions import read_config
from rifenet.server.problem import Problem

router = APIRouter(prefix="/labeling", route_class=JsonRoute)

_SETUP_SECONDS = 2  # Label Studio waits 3
_ANNOTATIONS, _TASKS = TypeAdapter(list[AnnotationIn]), TypeAdapter(list[TaskIn])


async def _labeling(request: Request) -> Labeling:
    labeling: Labeling = request.app.state.labeling
    return labeling


Shared = Annotated[Labeling, Depends(_labeling)]


class SetupIn(BaseModel):
    """What Label Studio sends when it connects."""

    project: str
    label_config: str = Field(alias="schema", description="The labeling config, XML.")
    access_token: str | None = Field(None, description="For Label Studio itself; sent nowhere else.")


class PredictIn(BaseModel):
    """What Label Studio sends for predictions."""

    tasks: list[TaskIn] = Field(max_length=10_000)
    project: str
    label_config: str


class WebhookIn(BaseModel):
    """An event; which other fields it has depends on the action."""

    action: str
    project: dict[str, Any] | None = None
    annotation: Any = None
    annotations: Any = None
    task: Any = None
    tasks: Any = None


class UpAnswer(BaseModel):
    """The back-end works."""

    status: str
    model_class: str


class VersionAnswer(BaseModel):
    """Which predictions are up to date."""

    model_version: str


class PredictAnswer(BaseModel):
    """A list of at most one prediction for each task: `result`, `score`, `model_version`."""

    results: list[list[dict[str, Any]]]
    model_version: str


@router.get("/health", responses=answers.problems())
async def health() -> UpAnswer:
    """Whether the back-end works."""
    return UpAnswer(status="UP", model_class="rifenet")


@router.post("/setup", responses=answers.problems(422, 503))
async def setup(given: SetupIn, labeling: Shared) -> VersionAnswer:
    """Connects a project: reads its labeling config, and its annotations where they are not known yet."""
    book = _open(labeling, given.project, given.label_config)
    book.token = given.access_token or book.token
    reading = labeling.in_background(labeling.read(book))
    await asyncio.wait({reading}, timeout=_SETUP_SECONDS)
    if reading.done() and (error := reading.exception()):
        raise Problem(422, str(error)) if isinstance(error, ValueError) else error
    return VersionAnswer(model_version=book.version(labeling.service.engine))


@router.post("/predict", responses=answers.problems(422, 503))
async def predict(request: Request, given: PredictIn, labeling: Shared) -> PredictAnswer:
    """Predicts tasks; of more than --files, only the first: Label Studio then asks for each of them in turn."""
    book = _open(labeling, given.project, given.label_config)
    try:
        await labeling.read(book)
    except ValueError as error:
        raise Problem(422, str(error)) from error
    tasks = given.tasks if len(given.tasks) <= labeling.service.limits.files else given.tasks[:1]
    version, results = await labeling.predict(request, book, tasks)
    return PredictAnswer(results=results, model_version=version)


@router.post("/webhook", responses=answers.problems(422, 503))
async def webhook(given: WebhookIn, labeling: Shared) -> VersionAnswer:
    """Notes what was annotated, changed or deleted, and learns it in the background."""
    if given.project is None:
        raise Problem(422, "Expected an event with its project, but it has none. Let the webhook send its payload.")
    book = _open(labeling, given.project, given.project.get("label_config"))
    try:
        await _note(labeling, book, given)
    except ValidationError as error:
        raise Problem(
            422, f"Expected an event as Label Studio sends it, but {error.error_count()} fields are not."
        ) from error
    labeling.in_background(labeling.read_and_learn(book, again=given.action == "START_TRAINING"))
    return VersionAnswer(model_version=book.version(labeling.service.engine))


async def _note(labeling: Labeling, book: Book, given: WebhookIn) -> None:
    """Raises ValidationError for an event without its fields, Problem: 503 where there is no memory for it."""
    action, config = given.action, book.config
    assert config is not None
    if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"):

        def read() -> list[tuple[int, Annotation | None]]:
            annotations = _ANNOTATIONS.validate_python(_list(given.annotation))
            tasks = _TASKS.validate_python(_list(given.task))
            pairs = zip(annotations, tasks, strict=False)
            return [(annotation.id, packed(task, annotation, config)) for annotation, task in pairs]

        for id, annotation in await run_in_threadpool(read):
            labeling.note(book, id, annotation)
    elif action in ("ANNOTATION_DELETED", "ANNOTATIONS_DELETED"):
        gone = _ANNOTATIONS.validate_python(_list(given.annotations or given.annotation))
        book.forget(annotations=[each.id for each in gone])
    elif action == "TASKS_DELETED":
        book.forget(tasks=[each.id for each in _TASKS.validate_python(_list(given.tasks))])
    labeling.count()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _open(labeling: Labeling, project: Any, label_config: Any) -> Book:
    """The project's book with this labeling config. Raises Problem: 422, 503."""
    try:
        name = book_name(project)
        if not isinstance(label_config, str):
            raise ValueError("Expected a labeling config, but got none. Save one in the project's settings.")
        config = read_config(label_config)
    except ValueError as error:
        raise Problem(422, str(error)) from error
    if len(config.labels) > (most := labeling.service.limits.classes):
        raise Problem(422, f"Expected at most {most} labels, but the config has more. Start with a larger --classes.")
    return labeling.open(name, config)
