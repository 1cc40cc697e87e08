"""A book: the config and the annotations of one labeling project, and which of them teach each class.

It outlives the learned classes. The server drops idle ones, and learns them from the book again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel

from rifenet.engines import Engine
from rifenet.segmenting.segmenter import MAX_SHOTS
from rifenet.server.label_studio.regions import LabelingConfig, Region, regions_of

_NAME = re.compile(r"\d{1,12}\.\d{1,12}")
_MAX_ANNOTATIONS = 500  # of a project; the oldest are forgotten
_OVERHEAD = 1000  # bytes of an annotation's objects and numbers


class TaskIn(BaseModel):
    """A task as Label Studio sends it."""

    id: int = 0
    data: dict[str, Any] = {}


class AnnotationIn(BaseModel):
    """An annotation as Label Studio sends and exports it."""

    id: int
    result: Any = None
    was_cancelled: bool = False
    updated_at: str = ""


class Annotation(NamedTuple):
    """An annotation that marks something."""

    id: int
    task: int
    photo: str
    """Where the photo is, as the task says it."""
    regions: dict[str, bytes]
    """Of each label it marks, packed: as objects they would take ten times as much memory."""
    digest: str
    changed: str
    """When, as Label Studio writes it."""

    @property
    def memory(self) -> int:
        """Bytes that it takes."""
        return len(self.photo) + sum(len(regions) for regions in self.regions.values()) + _OVERHEAD


class Shot(NamedTuple):
    """What a class is learned from: one annotation of a task."""

    annotation: Annotation
    label: str

    @property
    def regions(self) -> list[Region]:
        """Its regions, unpacked each time."""
        kept = json.loads(zlib.decompress(self.annotation.regions[self.label]))
        return [Region.model_validate(region) for region in kept]


@dataclass(eq=False)
class Book:
    """The annotations of one project."""

    name: str
    config: LabelingConfig | None = None
    token: str | None = None
    """What Label Studio sent when it connected."""
    annotations: dict[int, Annotation] = field(default_factory=dict)
    learned: dict[str, str] = field(default_factory=dict)
    """Digest of the shots that each class was last learned from."""
    known: bool = False
    """Whether the server has asked Label Studio for its annotations."""
    events: int = 0
    """Number of changes so far."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def number(self) -> int:
        """Label Studio's number of the project."""
        return int(self.name.partition(".")[0])

    @property
    def memory(self) -> int:
        """Bytes that its annotations take."""
        return sum(annotation.memory for annotation in self.annotations.values())

    def note(self, id: int, annotation: Annotation | None) -> None:
        """Takes what has become of an annotation: None where it is gone, or marks nothing."""
        self.events += 1
        self.annotations.pop(id, None)
        if annotation is not None:
            self.annotations[id] = annotation
        if len(self.annotations) > _MAX_ANNOTATIONS:
            del self.annotations[min(self.annotations.values(), key=lambda each: (each.changed, each.id)).id]

    def forget(self, annotations: Iterable[int] = (), tasks: Iterable[int] = ()) -> None:
        """Forgets annotations, by their numbers or by those of their tasks."""
        self.events += 1
        gone = set(tasks)
        for id in [*annotations, *(each.id for each in self.annotations.values() if each.task in gone)]:
            self.annotations.pop(id, None)

    def shots(self) -> dict[str, list[Shot]]:
        """The shots of each class: one for a task, its newest annotation that marks the class; the newest 20 tasks."""
        found: dict[str, dict[int, Shot]] = {label: {} for label in self.config.labels} if self.config else {}
        for annotation in sorted(self.annotations.values(), key=lambda each: (each.changed, each.id)):
            for label in annotation.regions:
                if label in found:
                    found[label].pop(annotation.task, None)  # so that the newest come last
                    found[label][annotation.task] = Shot(annotation, label)
        return {label: list(shots.values())[-MAX_SHOTS:] for label, shots in found.items() if shots}

    def version(self, engine: Engine) -> str:
        """Names the model and the annotations: the same ones give the same name, after a restart, too."""
        digests = {label: digest_of(shots) for label, shots in self.shots().items()}
        if not digests:
            return f"{engine.name}-{engine.hash[:8]}-untaught"
        text = json.dumps(digests, sort_keys=True)
        return f"{engine.name}-{engine.hash[:8]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:10]}"


def packed(task: TaskIn, annotation: AnnotationIn, config: LabelingConfig) -> Annotation | None:
    """An annotation as a book keeps it; None for one that marks nothing. May take seconds: not for the event loop."""
    photo = task.data.get(config.photo_key)
    marked = {} if annotation.was_cancelled else regions_of(annotation.result, config)
    if not marked or not isinstance(photo, str):
        return None
    regions = {label: _compressed(each) for label, each in marked.items()}
    digest = hashlib.sha256(photo.encode("utf-8", "replace"))
    for label, each in sorted(regions.items()):
        digest.update(label.encode("utf-8", "replace") + each)
    return Annotation(annotation.id, task.id, photo, regions, digest.hexdigest(), annotation.updated_at)


def _compressed(regions: list[Region]) -> bytes:
    return zlib.compress(json.dumps([region.model_dump() for region in regions], sort_keys=True).encode(), 1)


def digest_of(shots: list[Shot]) -> str:
    """Changes with the annotations that a class is learned from."""
    text = " ".join(f"{shot.annotation.id}:{shot.annotation.digest}" for shot in shots)
    return hashlib.sha256(text.encode()).hexdigest()


def book_name(project: Any) -> str:
    """The name `NUMBER.SECONDS` of a project: Label Studio sends it, or a webhook's project gives both parts.

    Raises ValueError for anything else.
    """
    if isinstance(project, dict):
        try:
            made = datetime.fromisoformat(str(project.get("created_at"))).timestamp()
            project = f"{int(project['id'])}.{int(made)}"
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                "Expected a project with id and created_at, but got another. See docs/label_studio.md."
            ) from error
    if not isinstance(project, str) or not _NAME.fullmatch(project):
        raise ValueError("Expected a project NUMBER.SECONDS, as Label Studio calls it, but got another.")
    return project
