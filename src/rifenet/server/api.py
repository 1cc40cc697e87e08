"""The routes of the HTTP API (docs/server.md); the running server describes them under `/docs`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from rifenet import __version__
from rifenet.advice import Watch, advise
from rifenet.formats.label_files import Marked
from rifenet.formats.picture_files import Frame
from rifenet.formats.remarks import collected
from rifenet.formats.run_lengths import Check
from rifenet.segmenting.pseudo_labels import COUNT
from rifenet.segmenting.segmenter import Segmenter
from rifenet.server import answers
from rifenet.server.clients import PROJECT_COOKIE
from rifenet.server.limits import Limits
from rifenet.server.marks import read_marks
from rifenet.server.problem import Problem
from rifenet.server.projects import Project
from rifenet.server.service import ProjectName, Service, Shared
from rifenet.server.uploads import check_files, class_name, composed, file_name, read_framed, read_mask, read_photo

router = APIRouter(prefix="/api")

_COOKIE_SECONDS = 30 * 86400


Photos = Annotated[list[UploadFile], File(description="JPEG, PNG, WebP, BMP, GIF or TIFF.")]
Marks = Annotated[
    UploadFile | str | None,
    Form(
        description="A mask (a lossless picture, not 0 where marked), or the JSON of lines:"
        ' [{"points": [[x, y], ...], "width": w}, ...] in pixels of the photo.'
    ),
]
Choice = Literal["auto", "yes", "no"]
_CHOSEN = {"yes": True, "no": False}
_PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "JSON or PNG."}


@router.get("/health", responses=answers.problems())
async def health(service: Shared) -> answers.HealthAnswer:
    """How the server is, and what it accepts. Needs no token."""
    return answers.HealthAnswer(
        status="ok",
        version=__version__,
        model=service.engine.name,
        model_hash=service.engine.hash,
        busy=service.worker.busy,
        waiting=service.worker.waiting,
        projects=len(service.projects),
        limits=asdict(service.limits),
    )


@router.get("/classes", responses=answers.problems(422, 503))
async def classes(request: Request, service: Shared, x_project: ProjectName = None) -> answers.ClassesAnswer:
    """The project's classes."""
    return answers.classes_answer(service.project_of(request, x_project)[1])


@router.post("/classes", responses=answers.problems(415, 422, 503))
async def learn(
    request: Request,
    response: Response,
    service: Shared,
    name: Annotated[str, Form(description="What to call the class.")],
    images: Photos,
    masks: Annotated[
        list[UploadFile],
        File(description="For each photo a mask (0 background, else the class), a cut-out, or a label JSON."),
    ],
    replace: Annotated[bool, Form(description="Take the place of the class's shots; else add to them.")] = False,
    white_is_object: Annotated[bool, Form(description="255 marks the class too; else it is ignored.")] = False,
    label: Annotated[str | None, Form(description="Its name, number or #rrggbb in files of several labels.")] = None,
    background: Annotated[
        list[UploadFile] | None, File(description="Photos that show none of the class; they need no masks.")
    ] = None,
    x_project: ProjectName = None,
) -> answers.LearnedAnswer:
    """Learns a class from annotated photos, or adds shots to one."""
    called, name = service.project_of(request, x_project)[0], class_name(name)
    if len(images) != len(masks):
        raise Problem(422, f"Expected a mask for each photo, but got {len(masks)} for {len(images)}. Send as many.")
    others = background or []
    await run_in_threadpool(check_files, [*images, *others], service.limits, "photo")
    await run_in_threadpool(check_files, masks, service.limits, "mask")

    def work() -> answers.LearnedAnswer:
        service.projects.check_memory(len(images) + len(others))
        project = service.projects.open(called)
        try:
            _check_number(project, name, service.limits)
            check = service.worker.check
            asked = {"name": name, "label": label or None, "white_is_object": white_is_object}

            frames: dict[int, Frame] = {}  # of the photos; `learn` reads each photo before its mask

            def read(image: UploadFile, index: int, check: Check) -> NDArray[np.uint8]:
                photo, frames[index] = read_framed(image, index, check)
                return photo

            def read_marked(mask: UploadFile, index: int, check: Check) -> Marked:
                labels, photo = {**asked, "frame": frames[index]}, file_name(images[index - 1], index)
                return Marked(read_mask(mask, index, labels, photo, service.limits, check))

            photos, labels = _Pictures(images, read, check), _Pictures(masks, read_marked, check)
            with collected() as warnings:
                negatives = _Pictures(others, read_photo, check)
                project.segmenter.learn(name, photos, labels, replace=replace, background=negatives)
            project.changed(name)
        finally:
            service.projects.drop_if_empty(project)
        return answers.LearnedAnswer(**answers.classes_answer(project).model_dump(), warnings=warnings)

    answer = await service.run(request, work)
    if x_project is None:
        response.set_cookie(
            PROJECT_COOKIE, str(answer.project), httponly=True, samesite="strict", max_age=_COOKIE_SECONDS
        )
    return answer


@router.delete("/classes/{name}", responses=answers.problems(404, 422, 503))
async def forget(request: Request, service: Shared, name: str, x_project: ProjectName = None) -> answers.ClassesAnswer:
    """Forgets a class; later classes move down one number."""
    project, name = service.project_of(request, x_project)[1], composed(name)

    def work() -> answers.ClassesAnswer:
        if project is None or name not in project.segmenter.classes:
            raise Problem(404, "Expected the name of a learned class, but the project has none of that name.")
        project.segmenter.forget(name)
        project.changed(name)
        service.projects.drop_if_empty(project)
        return answers.classes_answer(project)

    return await service.run(request, work)


@router.post("/segment", responses={200: _PNG, **answers.problems(415, 422, 503)}, response_model=answers.SegmentAnswer)
async def segment(
    request: Request,
    service: Shared,
    images: Photos,
    keep_absent: Annotated[bool, Form(description="Keep classes in the mask that are judged absent.")] = False,
    tiles: Annotated[Choice, Form(description="Whether to segment in tiles, too, which finds small things.")] = "auto",
    refine: Annotated[Choice, Form(description="Whether masks follow the photo's edges.")] = "auto",
    clean: Annotated[bool, Form(description="Fill small holes of the masks, and remove specks.")] = False,
    format: Annotated[str | None, Form(description="json or png (of one photo); without it, as Accept says.")] = None,
    outlines: Annotated[
        str | None, Form(description="polygons or rle (COCO's): the pixels of each object, too.")
    ] = None,
    x_project: ProjectName = None,
) -> Any:
    """Segments photos by all classes of the project at once: JSON, or the mask of one photo as a PNG."""
    project = _taught(service, request, x_project)
    png = answers.wants_png(request.headers.get("accept", ""), format)
    outlines = answers.check_outlines(outlines)
    if png and len(images) != 1:
        raise Problem(422, f"Expected one photo for a PNG, but got {len(images)}. Send them one by one, or take json.")
    await run_in_threadpool(check_files, images, service.limits, "photo")
    photos = _Pictures(images, read_photo, service.worker.check)
    chosen: dict[str, Any] = {"tiles": _CHOSEN.get(tiles, "auto"), "refine": _CHOSEN.get(refine, "auto")}

    def work() -> bytes | answers.SegmentAnswer:
        results = project.segmenter.segment_many(photos, batch_size=1, keep_absent=keep_absent, clean=clean, **chosen)
        with collected() as warnings:
            if png:
                return answers.mask_png(next(results))
            named = enumerate(zip(results, images, strict=True), 1)
            found = [
                answers.photo_answer(result, file_name(upload, index), outlines) for index, (result, upload) in named
            ]
        return answers.SegmentAnswer(results=found, warnings=warnings)

    answer = await service.run(request, work)
    return Response(answer, media_type="image/png") if isinstance(answer, bytes) else answer


@router.post(
    "/complete", responses={200: _PNG, **answers.problems(415, 422, 503)}, response_model=answers.CompleteAnswer
)
async def complete(
    request: Request,
    service: Shared,
    image: Annotated[UploadFile, File(description="The photo.")],
    object: Marks = None,
    background: Marks = None,
    start: Annotated[UploadFile | None, File(description="A mask to correct, of the photo's size.")] = None,
    name: Annotated[str | None, Form(description="A learned class that the object is of.")] = None,
    format: Annotated[str | None, Form(description="json or png; without it, as Accept says.")] = None,
    x_project: ProjectName = None,
) -> Any:
    """Completes strokes on an object, beside it, or both, to its mask. The same photo again is answered faster."""
    project = service.project_of(request, x_project)[1]
    png = answers.wants_png(request.headers.get("accept", ""), format)
    await run_in_threadpool(check_files, [image], service.limits, "photo")
    drawn = [each for each in (object, background, start) if each is not None and not isinstance(each, str)]
    await run_in_threadpool(check_files, drawn, service.limits, "mask")

    def work() -> bytes | answers.CompleteAnswer:
        with collected() as warnings:
            photo = read_photo(image, 1, service.worker.check)
            given = {"object": object, "background": background, "start": start}
            size = photo.shape[0], photo.shape[1]
            marks = {what: read_marks(each, what, size, service.worker.check) for what, each in given.items()}
            bare = Segmenter(service.projects.engine, service.projects.views)
            segmenter = bare if project is None else project.segmenter
            mask = segmenter.complete(photo, **marks, name=composed(name) if name else None)
        return answers.index_png(mask) if png else answers.complete_answer(mask, warnings)

    answer = await service.run(request, work)
    return Response(answer, media_type="image/png") if isinstance(answer, bytes) else answer


@router.post("/adapt", responses=answers.problems(415, 422, 503))
async def adapt(
    request: Request,
    service: Shared,
    images: Photos,
    count: Annotated[int, Form(description="How many of them a class adopts at most.", ge=1, le=20)] = COUNT,
    x_project: ProjectName = None,
) -> answers.AdaptAnswer:
    """Adds the photos with the most confident results as extra examples of the project's classes.

    A class keeps them until it gets or loses a shot. Each call begins from the annotated photos.
    """
    project = _taught(service, request, x_project)
    await run_in_threadpool(check_files, images, service.limits, "photo")
    photos = _Pictures(images, read_photo, service.worker.check)

    def work() -> answers.AdaptAnswer:
        trial = copy.copy(project.segmenter)  # kept only if somebody still waits
        counted = project.counted(photos, len(images), "Looking for photos to learn from")
        try:
            with collected() as warnings:
                adopted = trial.adapt(counted, count=count)
        finally:
            project.progress = None
        service.worker.check()
        project.segmenter = trial
        for name in adopted:
            project.changed(name)
        names = [file_name(upload, index) for index, upload in enumerate(images, 1)]
        return answers.adapt_answer(adopted, names, warnings)

    return await service.run(request, work)


@router.post("/advice", responses=answers.problems(415, 422, 503))
async def advice(
    request: Request,
    service: Shared,
    images: Annotated[list[UploadFile] | None, File(description="Photos to choose the next from; may be none.")] = None,
    suggest: Annotated[int, Form(description="How many of them to name at most.", ge=1, le=100)] = 5,
    x_project: ProjectName = None,
) -> answers.AdviceAnswer:
    """Says which annotated photo makes the results worse, and which of these photos to annotate next."""
    project, uploads = _taught(service, request, x_project), images or []
    await run_in_threadpool(check_files, uploads, service.limits, "photo")
    photos = _Pictures(uploads, read_photo, service.worker.check)

    def work() -> answers.AdviceAnswer:
        try:
            with collected() as warnings:
                found = advise(project.segmenter, None, photos, suggest=suggest, watch=_counted(project))
        finally:
            project.progress = None
        names = [file_name(upload, index) for index, upload in enumerate(uploads, 1)]
        return answers.advice_answer(found, names, warnings)

    return await service.run(request, work)


@router.get("/progress", responses=answers.problems(422, 503))
async def progress(request: Request, service: Shared, x_project: ProjectName = None) -> answers.ProgressAnswer:
    """How far the project's long request is: the photos to learn from (`/api/adapt`), or advice."""
    project = service.project_of(request, x_project)[1]
    now = project.progress if project else None
    return answers.ProgressAnswer(phase="", done=0, total=0) if now is None else answers.ProgressAnswer(**now._asdict())


def _counted(project: Project) -> Watch:
    """Tells the project's progress of what `advise` does."""
    phases = {"judging classes": "Checking the classes", "looking at photos": "Looking at the other photos"}
    return lambda items, total, label: project.counted(items, total, phases[label])


class _Pictures(Sequence[Any]):
    """Decodes each upload when it is read, so that memory holds one decoded picture at a time.

    Calls `check` before and while it decodes; `check` raises where nobody waits any more.
    """

    def __init__(self, uploads: list[UploadFile], read: Callable[[UploadFile, int, Check], Any], check: Check) -> None:
        self._uploads, self._read, self._check = uploads, read, check

    def __len__(self) -> int:
        return len(self._uploads)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self._uploads)))

    def __getitem__(self, index: Any) -> Any:
        self._check()
        return self._read(self._uploads[index], index + 1, self._check)


def _taught(service: Service, request: Request, x_project: str | None) -> Project:
    """The client's project. Raises Problem: 422 where it has none, and so no class."""
    project = service.project_of(request, x_project)[1]
    if project is None:
        raise Problem(422, "Expected a project with a learned class, but there is none. Send POST /api/classes first.")
    return project


def _check_number(project: Project, name: str, limits: Limits) -> None:
    if name not in project.segmenter.classes and len(project.segmenter.classes) >= limits.classes:
        raise Problem(422, f"Expected at most {limits.classes} classes in a project. Delete one first.")
