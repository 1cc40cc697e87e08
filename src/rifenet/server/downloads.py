"""Writes a photo and its mask, corrected or not, as files for other programs. The page puts them into its zip."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from rifenet.drawing.visualize import overlay
from rifenet.formats.object_files import rows_of
from rifenet.formats.outputs import FORMATS, check_formats, encoded
from rifenet.formats.pictures import load_mask
from rifenet.segmenting.instances import Instance, ObjectShape, instances
from rifenet.server import answers
from rifenet.server.problem import Problem
from rifenet.server.service import ProjectName, Shared
from rifenet.server.uploads import check_files, file_name, opened, read_photo

router = APIRouter(prefix="/api")


class _Class(BaseModel):
    """A class of the mask; the first has the number 1."""

    name: str = Field(min_length=1, max_length=60)
    confidence: float = Field(1.0, ge=0, le=1)


_CLASSES = TypeAdapter(list[_Class])


@dataclass(frozen=True)
class _Drawn:
    """A photo with a given mask, as the writers take it."""

    image: NDArray[np.uint8]
    classes: tuple[str, ...]
    confidence: dict[str, float]
    source: str
    mask: NDArray[np.uint8]
    shapes: Mapping[str, Sequence[ObjectShape]]
    """Shapes of the learned classes' objects, by which touching ones are told apart."""

    def overlay(self, *, objects: bool = False) -> Image.Image:
        """The photo with the mask drawn over it."""
        return overlay(self.image, self.mask)

    def instances(self, name: str) -> Sequence[Instance]:
        """The objects of a class; the score of each is the class's confidence."""
        inside = self.mask == self.classes.index(name) + 1
        scores = np.full(inside.shape, self.confidence[name], np.float32)
        return instances(inside, scores, self.shapes.get(name, ())) if inside.any() else ()

    def table(self) -> list[dict[str, Any]]:
        """A row for each object."""
        return rows_of(self, {})


@router.post("/files", responses=answers.problems(415, 422, 503))
async def write_files(
    request: Request,
    service: Shared,
    image: Annotated[UploadFile, File(description="The photo.")],
    mask: Annotated[UploadFile, File(description="Its mask: 0 the background, i the i-th class; 255 is left out.")],
    classes: Annotated[str, Form(description='JSON: [{"name", "confidence"}, ...] in the order of their numbers.')],
    formats: Annotated[str, Form(description=f"One or more of {', '.join(FORMATS)}, with commas.")],
    objects: Annotated[bool, Form(description="Tell objects apart, as --instances does; csv always does.")] = False,
    stem: Annotated[
        str, Form(description="What the files' names begin with.", pattern=r"^[^/\\\x00-\x1f]{1,150}$")
    ] = "photo",
    x_project: ProjectName = None,
) -> answers.FilesAnswer:
    """Writes a photo's mask in the formats of `rifenet segment --format`."""
    wanted = _formats(formats)
    try:
        known = _CLASSES.validate_json(classes)
    except ValidationError:
        raise Problem(422, 'Expected classes to be JSON: [{"name", "confidence"}, ...], but got another.') from None
    await run_in_threadpool(check_files, [image], service.limits, "photo")
    await run_in_threadpool(check_files, [mask], service.limits, "mask")

    def work() -> answers.FilesAnswer:
        photo = read_photo(image, 1, service.worker.check)
        labels = load_mask(opened(mask, service.worker.check))
        if labels.shape != photo.shape[:2]:
            raise Problem(422, f"Expected a mask of the photo's size {photo.shape[:2]}, but it has {labels.shape}.")
        labels = np.where(labels <= len(known), labels, np.uint8(0))
        sure = {each.name: each.confidence for each in known}
        project = service.project_of(request, x_project)[1]
        shapes = {each.name: each.shapes for each in project.segmenter.learned} if project else {}
        result = _Drawn(photo, tuple(each.name for each in known), sure, file_name(image, 1), labels, shapes)
        return answers.FilesAnswer(
            files=[
                answers.FileAnswer(kind=kind, name=name, content=base64.b64encode(content).decode())
                for kind, (name, content) in encoded(result, stem, wanted, Path(), objects=objects).items()
            ]
        )

    return await service.run(request, work)


def _formats(text: str) -> Sequence[str]:
    try:
        return check_formats([word.strip() for word in text.split(",") if word.strip()])
    except ValueError as error:
        raise Problem(422, str(error)) from error
