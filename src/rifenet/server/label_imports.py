"""Reads existing masks for the page: which of its photos a label file annotates, and with what."""

from __future__ import annotations

import base64
import io
from functools import partial
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from rifenet.drawing.visualize import mask_image
from rifenet.formats.label_json import Parse, annotations_of, parse_annotations, photos_of
from rifenet.formats.label_sets import Labelled, annotated_among, labels_of_annotation, labels_of_picture
from rifenet.formats.remarks import collected
from rifenet.formats.run_lengths import Check
from rifenet.server import answers
from rifenet.server.json_bodies import let_go, parse_labels
from rifenet.server.problem import Problem
from rifenet.server.service import Shared
from rifenet.server.uploads import check_files, file_name, is_json, opened

router = APIRouter(prefix="/api")


class _Photo(BaseModel):
    """A photo that the client has."""

    name: str = Field(max_length=1000)
    width: int = Field(gt=0)
    height: int = Field(gt=0)


_PHOTOS = TypeAdapter(list[_Photo])


@router.post("/labels", responses=answers.problems(415, 422, 503))
async def read_labels(
    request: Request,
    service: Shared,
    labels: Annotated[UploadFile, File(description="A mask of one photo, or a JSON of COCO, LabelMe, Label Studio.")],
    photos: Annotated[str, Form(description='JSON: [{"name", "width", "height"}, ...] of photos it may annotate.')],
) -> answers.LabelsAnswer:
    """Reads all labels of a file, for the photos that it annotates; learns nothing.

    A mask annotates the only photo of the request. A JSON annotates the photos whose names it lists.
    """
    try:
        known = _PHOTOS.validate_json(photos)
    except ValidationError:
        raise Problem(422, 'Expected photos to be JSON: [{"name", "width", "height"}, ...], but got another.') from None
    if not 1 <= len(known) <= service.limits.files:
        raise Problem(413, f"Expected 1 to {service.limits.files} photos in a request, but got {len(known)}.")
    await run_in_threadpool(check_files, [labels], service.limits, "mask")

    def work() -> answers.LabelsAnswer:
        if is_json(labels):
            with let_go() as kept:
                parse = partial(parse_labels, check=service.worker.check, kept=kept)
                return _from_json(labels, known, service.limits.megapixels * 10**6, service.worker.check, parse)
        if len(known) != 1:
            raise Problem(
                422, f"Expected one photo for a mask, but got {len(known)}. Send the photo that it belongs to."
            )
        with collected() as told:
            found = _fitting(labels_of_picture(opened(labels, service.worker.check)), known[0])
        return answers.LabelsAnswer(photos=[_answer(found, 1, told)], warnings=[])

    return await service.run(request, work)


def _from_json(
    labels: UploadFile, photos: list[_Photo], most_pixels: int, check: Check, parse: Parse
) -> answers.LabelsAnswer:
    with collected() as told_of_all:
        content = parse_annotations(labels.file.read(), parse=parse)
    places = annotated_among([each.name for each in photos], photos_of(content), file_name(labels, 1))
    read: list[answers.LabelledAnswer] = []
    failed = [*told_of_all]
    for place in places:
        check()
        try:
            with collected() as told:
                size = photos[place].height, photos[place].width
                annotated = annotations_of(content, photos[place].name, most_pixels, size)
                found = _fitting(labels_of_annotation(annotated, check), photos[place])
            if found.labels:
                read.append(_answer(found, place + 1, told))
        except ValueError as error:
            failed.append(f"{photos[place].name}: {error}")
    return answers.LabelsAnswer(photos=read, warnings=failed)


def _fitting(found: Labelled, photo: _Photo) -> Labelled:
    height, width = found.mask.shape
    if (width, height) == (photo.width, photo.height):
        return found
    raise ValueError(
        f"Expected a mask of {photo.width} x {photo.height} pixels, as large as {photo.name}, but it has"
        f" {width} x {height}. Save it at the photo's size."
    )


def _answer(found: Labelled, number: int, told: list[str]) -> answers.LabelledAnswer:
    buffer = io.BytesIO()
    mask_image(found.mask).save(buffer, "PNG")
    return answers.LabelledAnswer(
        number=number,
        classes=[answers.LabelAnswer(id=each.number, name=each.name, colour=each.colour) for each in found.labels],
        mask=base64.b64encode(buffer.getvalue()).decode(),
        warnings=[*told],
    )
