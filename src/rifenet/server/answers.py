"""Types of the API's answers. `/openapi.json` and `/docs` describe them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rifenet.advice import Advice
from rifenet.drawing.visualize import class_colour, mask_image
from rifenet.formats.object_files import TOLERANCE
from rifenet.formats.polygons import flattened, trace_polygons
from rifenet.formats.run_lengths import encode_part, pack_runs
from rifenet.segmenting.result import Result
from rifenet.segmenting.shots import PseudoShot
from rifenet.server.problem import Problem
from rifenet.server.projects import Project

Warnings = Annotated[list[str], Field(description="What could have meant something else, and what it was taken for.")]


class ProblemAnswer(BaseModel):
    """A refusal."""

    detail: str = Field(description="What was expected, what came, and how to mend it.")


class ClassAnswer(BaseModel):
    """A learned class."""

    id: int = Field(description="Its number in masks.")
    name: str
    shots: int = Field(description="Annotated photos that teach it.")
    revision: str = Field(description="Changes with the photos that teach it.")
    colour: str = Field(description="Its colour in PNG masks, #rrggbb.")


class ClassesAnswer(BaseModel):
    """The classes of a project."""

    project: str | None = Field(description="The project's name, null where it has no class yet.")
    classes: list[ClassAnswer]


class LearnedAnswer(ClassesAnswer):
    """The classes of a project after one of them was learned."""

    warnings: Warnings = []


class InstanceAnswer(BaseModel):
    """An object of a class. Coordinates are in pixels from the photo's top left corner."""

    box: tuple[int, int, int, int] = Field(description="x, y, width, height.")
    area: int = Field(description="In pixels.")
    centroid: tuple[float, float] = Field(description="x, y.")
    score: float = Field(description="Mean score of the class on its pixels, 0 to 1.")
    polygons: list[list[tuple[float, float]]] | None = Field(
        None, description="With outlines=polygons: an outline for each of its parts, with holes joined to it."
    )
    rle: str | None = Field(None, description="With outlines=rle: COCO's run lengths as text, of the whole photo.")


class FoundAnswer(BaseModel):
    """What one photo says about one class."""

    id: int
    name: str
    present: bool = Field(description="Whether the photo shows the class; if not, it gets no pixel of the mask.")
    confidence: float = Field(description="How likely the photo shows it, 0 to 1.")
    quality: float | None = Field(None, description="Expected IoU of its mask, 0 to 1; null where nobody knows.")
    pixels: int = Field(description="Its pixels in the mask.")
    count: int = Field(description="Its objects in the mask.")
    instances: list[InstanceAnswer] = Field(description="Its objects, the largest first; touching ones apart.")


class PhotoAnswer(BaseModel):
    """One segmented photo."""

    name: str
    width: int
    height: int
    calibrated: bool = Field(description="Whether confidences are measured shares; if not, they only rank photos.")
    classes: list[FoundAnswer]
    mask: str = Field(description="PNG in base64: one number a pixel, 0 the background, else the class's id.")


class SegmentAnswer(BaseModel):
    """Segmented photos, in the order of the request."""

    results: list[PhotoAnswer]
    warnings: Warnings = []


class CompleteAnswer(BaseModel):
    """A photo's strokes, completed to a mask."""

    width: int
    height: int
    pixels: int = Field(description="Pixels of the object.")
    mask: str = Field(description="PNG in base64: 1 the object, 0 the rest.")
    warnings: Warnings = []


class RequestPhoto(BaseModel):
    """A photo of the request."""

    name: str
    number: int = Field(description="Its place among the photos of the request, from 1.")


class AdoptedAnswer(RequestPhoto):
    """A photo that a class learned from, with the mask that the model found in it."""

    confidence: float = Field(
        description="How likely the photo shows the class, where no other class takes its pixels; 0 to 1."
    )


class AdaptedAnswer(BaseModel):
    """What a class adopted."""

    class_name: str
    adopted: list[AdoptedAnswer] = Field(description="The surest first.")


class AdaptAnswer(BaseModel):
    """What each class of the project adopted, in the order of their numbers."""

    classes: list[AdaptedAnswer]
    warnings: Warnings = []


class ShotAnswer(BaseModel):
    """What advice says of one annotated photo."""

    class_name: str
    number: int = Field(description="Its place among the class's photos in the order of learning, from 1.")
    iou: float = Field(description="IoU of its mask with what the class's other photos find; 0 to 1.")
    gain: float | None = Field(description="Rise of the others' IoU without it; null where the server did not try.")
    verdict: str = Field(description="good, hurts, inverted, doubtful or alone.")
    warns: bool = Field(description="Whether somebody should look at its mask.")
    reason: str


class NextAnswer(RequestPhoto):
    """A photo to annotate."""

    rank: int = Field(description="From 1: the order in which to annotate.")
    class_name: str = Field(description="The class whose mask is expected to be worst.")
    doubt: float = Field(description="0 sure, 1 undecided.")
    expected: float = Field(description="Share of its mask that is right by the model's own scores, 0 to 1.")
    confidence: float = Field(description="How likely the class is in the photo, 0 to 1.")
    unlike: float = Field(description="Distance to the most similar annotated photo, 0 the same.")
    reason: str


class AdviceAnswer(BaseModel):
    """Advice on the annotation."""

    shots: list[ShotAnswer]
    next: list[NextAnswer]
    warnings: Warnings = []


class ProgressAnswer(BaseModel):
    """How far a long request is."""

    phase: str = Field(description="What the server does; empty while it does nothing for the project.")
    done: int
    total: int = Field(description="0 where nobody knows.")


class LabelAnswer(BaseModel):
    """A label of a file."""

    id: int = Field(description="Its number in the mask.")
    name: str | None = Field(description="Its name; null where the file has numbers only.")
    colour: str | None = Field(description="Its colour in the file, #rrggbb; null where it has none.")


class LabelledAnswer(BaseModel):
    """What a label file says of one photo."""

    number: int = Field(description="The photo's place in the request, from 1.")
    classes: list[LabelAnswer]
    mask: str = Field(description="PNG in base64: one number a pixel, 0 the background, 255 ignored.")
    warnings: list[str] = Field(description="What could have meant something else.")


class LabelsAnswer(BaseModel):
    """The photos that a label file annotates, of those in the request."""

    photos: list[LabelledAnswer]
    warnings: list[str] = Field(description="Photos whose annotation cannot be used, each with the reason.")


class FileAnswer(BaseModel):
    """A file of a result."""

    kind: str = Field(description="What it is: binary:dog, coco, ...")
    name: str
    content: str = Field(description="In base64.")


class FilesAnswer(BaseModel):
    """A result as files for other programs."""

    files: list[FileAnswer]


class HealthAnswer(BaseModel):
    """How the server is."""

    status: str
    version: str
    model: str
    model_hash: str
    busy: bool = Field(description="Whether the model works now.")
    waiting: int = Field(description="Requests that wait for it.")
    projects: int
    limits: dict[str, int]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for its description. Any request may get the first five."""
    meaning = {
        400: "The body is not what its headers say.",
        401: "The server asks for a token.",
        403: "Another site's page, or another host name.",
        408: "The upload took too long.",
        413: "Too large, or too many.",
        404: "There is no such class.",
        415: "Not a picture of a known type, or no multipart form.",
        422: "A field is missing or cannot be used.",
        503: "Busy, full, or too slow; Retry-After says when to try again.",
    }
    every = (400, 401, 403, 408, 413)
    return {status: {"model": ProblemAnswer, "description": meaning[status]} for status in (*every, *statuses)}


def classes_answer(project: Project | None) -> ClassesAnswer:
    """The classes of a project as they are now."""
    if project is None or not (listed := project.listed):
        return ClassesAnswer(project=None, classes=[])
    classes = [
        ClassAnswer(id=id, colour="#{:02x}{:02x}{:02x}".format(*class_colour(id)), **each._asdict())
        for id, each in enumerate(listed, 1)
    ]
    return ClassesAnswer(project=project.id, classes=classes)


def mask_png(result: Result) -> bytes:
    """The mask as a PNG with a palette."""
    return index_png(result.mask)


def index_png(mask: NDArray[np.uint8]) -> bytes:
    """A mask [H,W] as a PNG with a palette."""
    buffer = io.BytesIO()
    mask_image(mask).save(buffer, "PNG")
    return buffer.getvalue()


def complete_answer(mask: NDArray[np.uint8], warnings: Sequence[str]) -> CompleteAnswer:
    """A completed mask [H,W] as JSON holds it."""
    height, width = mask.shape
    png = base64.b64encode(index_png(mask)).decode()
    return CompleteAnswer(
        width=width, height=height, pixels=int(np.count_nonzero(mask)), mask=png, warnings=list(warnings)
    )


def photo_answer(result: Result, name: str, outlines: str | None = None) -> PhotoAnswer:
    """One result as JSON holds it; `outlines` as in `check_outlines`."""
    facts = result.to_dict(objects=True)
    return PhotoAnswer(
        name=name,
        width=facts["width"],
        height=facts["height"],
        calibrated=facts["calibrated"],
        classes=[
            FoundAnswer(**entry, count=entry["objects"], instances=_instances(result, entry["name"], outlines))
            for entry in facts["classes"]
        ],
        mask=base64.b64encode(mask_png(result)).decode(),
    )


def _instances(result: Result, name: str, outlines: str | None) -> list[InstanceAnswer]:
    height, width = result.mask.shape
    answers = []
    for each in result.instances(name):
        answer = InstanceAnswer(
            box=each.box,
            area=each.area,
            centroid=(round(each.centroid[0], 2), round(each.centroid[1], 2)),
            score=round(each.score, 4),
            polygons=None,
            rle=None,
        )
        if outlines == "polygons":
            shifted = (corners + each.box[:2] for corners in trace_polygons(each.part, tolerance=TOLERANCE))
            answer.polygons = [[(x, y) for x, y in flattened(corners)] for corners in shifted]
        elif outlines == "rle":
            answer.rle = pack_runs(encode_part(each.part, *each.box[:2], height, width))
        answers.append(answer)
    return answers


def check_outlines(outlines: str | None) -> str | None:
    """How to tell the outlines of objects: polygons, rle or None. Raises Problem: 422 for anything else."""
    if outlines and outlines not in ("polygons", "rle"):
        raise Problem(
            422, f"Expected outlines to be polygons or rle, but got {outlines[:20]!r}. Leave it out for none."
        )
    return outlines or None


def adapt_answer(
    adopted: Mapping[str, Sequence[PseudoShot]], names: Sequence[str], warnings: Sequence[str] = ()
) -> AdaptAnswer:
    """Class -> its adopted photos as JSON holds them; `names` are those of the request's photos."""
    return AdaptAnswer(
        classes=[
            AdaptedAnswer(
                class_name=class_name,
                adopted=[
                    AdoptedAnswer(name=names[shot.number - 1], number=shot.number, confidence=round(shot.confidence, 4))
                    for shot in shots
                ],
            )
            for class_name, shots in adopted.items()
        ],
        warnings=list(warnings),
    )


def advice_answer(advice: Advice, names: Sequence[str], warnings: Sequence[str] = ()) -> AdviceAnswer:
    """Advice as JSON holds it; `names` are those of the request's photos."""
    told = advice.to_dict()
    return AdviceAnswer(
        shots=[ShotAnswer(**shot) for shot in told["shots"]],
        next=[NextAnswer(**photo, name=names[photo["number"] - 1]) for photo in told["next"]],
        warnings=list(warnings),
    )


def wants_png(accept: str, format: str | None) -> bool:
    """Whether to answer with a PNG: the form's field decides; without it, Accept does, if it names PNG before JSON.

    Raises Problem: 422 for another format.
    """
    if format:
        if format not in ("json", "png"):
            raise Problem(422, f"Expected format to be json or png, but got {format[:20]!r}. Leave it out for json.")
        return format == "png"
    kinds = [part.split(";")[0].strip() for part in accept.lower().split(",")]
    return "image/png" in kinds and "application/json" not in kinds[: kinds.index("image/png")]
