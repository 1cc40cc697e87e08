"""Annotates a CVAT task by what its annotated frames show: a detection function for `cvat_sdk.auto_annotation`.

    cvat-cli task auto-annotate 7 --function-module rifenet.integrations.cvat -p task=int:7

`cvat-cli` calls `create` and then `detect` for every frame. The shots are the masks and polygons of the task that
people made or corrected. Frames that have any stay as they are, and so do, unless `replace` is set, frames with
automatic ones. Before a frame is segmented, at most once in a few seconds, the server is asked whether the task has
changed. If so, its annotations are read again, and the classes whose shots differ are learned again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.config import needs
from rifenet.formats.object_files import FoundRegion, regions
from rifenet.formats.polygons import corners_of, fill_polygon, flattened, signed_area
from rifenet.segmenting.result import PRESENT, Result
from rifenet.segmenting.segmenter import MAX_SHOTS, Segmenter

if TYPE_CHECKING:
    from cvat_sdk import Client, models
    from cvat_sdk.auto_annotation import DetectionFunctionContext, DetectionFunctionSpec

EXTRA = "rifenet[cvat]"
_KINDS = ("mask", "polygon")
_AUTOMATIC = "auto"  # what CVAT notes as the source of a shape that no person has touched
_LEAST_PART = 4  # square pixels of a polygon: smaller parts are specks
_THUMB, _ALIKE = 32, 2.0  # px, grey levels on average: the same frame, encoded once more
log = logging.getLogger(__name__)


def create(
    task: int,
    server: str | None = None,
    port: int | None = None,
    user: str | None = None,
    profile: str | None = None,
    organization: str | None = None,
    insecure: bool = False,
    model: str = "default",
    device: str = "auto",
    objects: bool = True,
    replace: bool = False,
    seconds: float = 5.0,
) -> TaskFunction:
    """The detection function of a task, as `cvat-cli` makes it: its options come as `-p NAME=TYPE:VALUE`.

    The function asks the server for the task's annotations itself. It signs in as `cvat-cli` does: by the token in
    `CVAT_ACCESS_TOKEN`, by a saved profile, or by a user whose password is in `PASS`.

    Args:
        task: number of the task whose annotated frames are the shots; best the one to annotate.
        server: address of CVAT, as `--server-host` of `cvat-cli`.
        port: as `--server-port`.
        user: name of the user, as in `--auth`.
        profile: a saved profile, as `--profile`.
        organization: as `--organization`.
        insecure: do not check the server's certificate.
        model: which model, as `Segmenter.from_pretrained` takes it.
        device: auto, cpu, cuda, cuda:N or mps.
        objects: a shape for each object; False: a mask for each class, or a polygon for each of its parts.
        replace: segment frames with automatic shapes again, and delete those where the new ones differ.
        seconds: how long the answer of the server, whether the task has changed, is trusted.

    Raises:
        ValueError: the task is a video, or no label of it takes masks or polygons; the model or the device is unknown;
            cvat-sdk is not installed.
        cvat_sdk.exceptions.ApiException: the server refuses.
    """
    with needs(EXTRA):
        from cvat_sdk.core.auth import ClientAuthParameters, get_auth_factory, make_client_from_cli

    auth = None if user is None else get_auth_factory(user)
    parameters = ClientAuthParameters(
        profile=profile,
        auth=auth,
        server_host=server,
        server_port=port,
        insecure=insecure,
        organization=organization,
    )
    client = make_client_from_cli(parameters, logger=log)
    segmenter = Segmenter.from_pretrained(model, device)
    return TaskFunction(client, task, segmenter, objects=objects, replace=replace, seconds=seconds)


class _Marked(NamedTuple):
    """A mask or polygon of a frame."""

    id: int
    label: int
    kind: str
    points: tuple[float, ...]
    automatic: bool
    source: Any
    """The shape as the server gave it; None for one of a track."""

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Its pixels, [height, width]. Raises ValueError for a broken shape."""
        if self.kind == "polygon":
            return fill_polygon(corners_of(self.points, height, width), height, width)
        from cvat_sdk.masks import decode_mask

        return np.asarray(decode_mask(self.points, image_width=width, image_height=height))


@dataclass(eq=False)
class _Seen:
    """What the server has said about the task."""

    asked: float = -np.inf
    """When it was last asked whether the task has changed."""
    changed: Any = None
    """When the task had last changed."""
    frames: dict[int, list[_Marked]] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)
    """Frames within a track of people."""


class TaskFunction:
    """Detects in frames what the annotated frames of a task show. It is what `create` returns."""

    def __init__(
        self,
        client: Client,
        task: int,
        segmenter: Segmenter,
        *,
        objects: bool = True,
        replace: bool = False,
        seconds: float = 5.0,
    ) -> None:
        """Arguments as in `create`; `client` is signed in, `segmenter` has no classes. Raises as `create`."""
        self.segmenter = segmenter
        self._client, self._objects, self._replace, self._seconds = client, objects, replace, seconds
        self._task = client.tasks.retrieve(task)
        meta = self._task.get_meta()
        if len(meta.frames) != self._task.size:
            raise ValueError(f"Expected a task of images, but task {task} is a video. Make a task of its frames.")
        gone = set(meta.deleted_frames)
        self._frames = {frame.name: number for number, frame in enumerate(meta.frames) if number not in gone}
        self._labels = {
            label.id: label for label in self._task.get_labels() if str(label.get("type", "any")) in (*_KINDS, "any")
        }
        if not self._labels:
            raise ValueError(f"Expected task {task} to have labels of masks, polygons or any shape, but it has none.")
        self._seen = _Seen()
        self._learned: dict[str, str] = {}  # digest of the shots of each class
        self._thumbs: dict[int, tuple[tuple[int, int], NDArray[np.float32]]] = {}

    @property
    def spec(self) -> DetectionFunctionSpec:
        """The labels of the task that take masks or polygons, also those that nobody has drawn yet."""
        from cvat_sdk import auto_annotation

        return auto_annotation.DetectionFunctionSpec(
            labels=[
                auto_annotation.label_spec(label.name, number, type=str(label.get("type", "any")))
                for number, label in self._labels.items()
            ]
        )

    def detect(self, context: DetectionFunctionContext, image: Image.Image) -> list[models.LabeledShapeRequest]:
        """The shapes of a frame; none for one that is annotated, and none for classes judged absent.

        A shape's score is its object's, in [0,1], or with `objects=False` the confidence that the frame shows the
        class. With a threshold, a class counts as absent below that confidence, and no shape has a smaller score.

        Raises ValueError where the task has no annotated frame.
        """
        self.refresh()
        number = self._frames.get(context.frame_name)
        marks = self._seen.frames.get(number, []) if number is not None else []
        if number is not None and (marks or number in self._seen.covered) and self._is_frame(number, image):
            if not self._replace or number in self._seen.covered or not all(each.automatic for each in marks):
                return []
        else:
            marks = []
        if not self._learned:
            raise ValueError(
                f"Expected task {self._task.id} to have frames with masks or polygons to learn from, but it has none."
                " Annotate one to five frames of each label, and save them."
            )
        found = list(self._shapes(image, context))
        return self._instead(marks, found) if marks else found

    def refresh(self) -> None:
        """Learns again what has changed on the server, if it was not asked within the last `seconds`."""
        now = time.monotonic()
        if now - self._seen.asked < self._seconds:
            return
        changed = self._client.tasks.retrieve(self._task.id).updated_date
        if changed != self._seen.changed:
            data = self._task.get_annotations()
            frames, covered = self._read(data)
            self._seen = _Seen(now, changed, frames, covered)
            self._learn()
        self._seen.asked = now

    def _read(self, data: models.LabeledData) -> tuple[dict[int, list[_Marked]], set[int]]:
        """The masks and polygons of each frame, and the frames that tracks cover."""
        frames: dict[int, list[_Marked]] = {}
        covered: set[int] = set()
        known = set(self._frames.values())
        for shape in data.shapes:
            self._note(frames, shape, shape.label_id, str(shape.get("source", "manual")), shape)
        for track in data.tracks:
            drawn = sorted(track.shapes, key=lambda shape: shape.frame)
            for shape, end in zip(drawn, [*(each.frame for each in drawn[1:]), self._task.size], strict=True):
                if not shape.get("outside", False):
                    self._note(frames, shape, track.label_id, str(track.get("source", "manual")), None)
                    covered |= set(range(shape.frame, end)) if str(shape.type) in _KINDS else set()
        return {number: marks for number, marks in frames.items() if number in known}, covered

    def _note(self, frames: dict[int, list[_Marked]], shape: Any, label: int, source: str, given: Any) -> None:
        if label in self._labels and str(shape.type) in _KINDS:
            points = tuple(shape.points)
            marked = _Marked(shape.get("id") or 0, label, str(shape.type), points, source == _AUTOMATIC, given)
            frames.setdefault(shape.frame, []).append(marked)

    def _learn(self) -> None:
        """Learns the classes whose shots are others than before, and forgets those without."""
        photos: dict[int, Image.Image] = {}
        for number, label in self._labels.items():
            shots = self._shots(number)
            digest = hashlib.sha256(repr([(frame, [each[1:4] for each in marks]) for frame, marks in shots]).encode())
            if self._learned.get(label.name) == digest.hexdigest():
                continue
            pairs = [pair for frame, marks in shots if (pair := self._pair(frame, marks, photos)) is not None]
            if pairs:
                images, masks = zip(*pairs, strict=True)
                self.segmenter.learn(label.name, images, masks, replace=True)
                self._learned[label.name] = digest.hexdigest()
                log.info("Learned %r from %d frames of task %d.", label.name, len(pairs), self._task.id)
            elif self._learned.pop(label.name, None):
                self.segmenter.forget(label.name)

    def _shots(self, label: int) -> list[tuple[int, list[_Marked]]]:
        """The frames in which people marked a label, with those marks; the 20 with the newest marks."""
        shots = []
        for number, marks in self._seen.frames.items():
            if own := [each for each in marks if each.label == label and not each.automatic]:
                shots.append((max(each.id for each in own), number, own))
        shots.sort(key=lambda shot: shot[:2])
        return sorted((number, own) for _, number, own in shots[-MAX_SHOTS:])

    def _pair(
        self, number: int, marks: list[_Marked], photos: dict[int, Image.Image]
    ) -> tuple[Image.Image, NDArray[np.uint8]] | None:
        """A frame and where the marks are on it; None, with a line in the log, where none of them can be drawn."""
        if number not in photos:
            photos[number] = self._photo(number)
        photo = photos[number]
        mask = np.zeros((photo.height, photo.width), np.uint8)
        for each in marks:
            try:
                mask[each.mask(*mask.shape)] = 1
            except ValueError as error:
                log.warning("Task %d, frame %d: a shape was left out: %s", self._task.id, number, error)
        return (photo, mask) if mask.any() else None

    def _photo(self, number: int) -> Image.Image:
        photo = Image.open(self._task.get_frame(number, quality="original")).convert("RGB")
        self._thumbs[number] = _thumb(photo)
        return photo

    def _is_frame(self, number: int, image: Image.Image) -> bool:
        """Whether a picture is this frame: a task may be annotated whose frames have the same names as this one's."""
        if number not in self._thumbs:
            self._photo(number)
        (size, pixels), (other_size, others) = self._thumbs[number], _thumb(image)
        return size == other_size and float(np.abs(pixels - others).mean()) < _ALIKE

    def _shapes(self, image: Image.Image, context: DetectionFunctionContext) -> Iterator[models.LabeledShapeRequest]:
        least = context.conf_threshold
        numbers = {label.name: number for number, label in self._labels.items()}
        # Tiles run only for classes in the mask: one that the threshold lets in must be in it from the start.
        low = least is not None and least < PRESENT
        result = self.segmenter.segment(image, keep_absent=low)
        result = dataclasses.replace(result, keep_absent=False, least_confidence=PRESENT if least is None else least)
        for region in regions(result, self._objects):
            if least is None or region.score >= least:
                label = self._labels[numbers[region.name]]
                as_polygon = context.conv_mask_to_poly or str(label.get("type", "any")) == "polygon"
                yield from _requests(region, label.id, as_polygon, result)

    def _instead(
        self, marks: Sequence[_Marked], found: list[models.LabeledShapeRequest]
    ) -> list[models.LabeledShapeRequest]:
        """New shapes of a frame, after its old ones of learned classes are deleted; none where all are equal."""
        learned = {number for number, label in self._labels.items() if label.name in self._learned}
        old = [each for each in marks if each.label in learned and each.source is not None]
        before = sorted(_key(each.label, each.kind, each.points) for each in old)
        after = sorted(_key(each.label_id, str(each.type), each.points) for each in found)
        if before == after:
            return []
        if old:
            from cvat_sdk import models

            gone = [
                models.LabeledShapeRequest(
                    id=each.id, frame=each.source.frame, label_id=each.label, type=each.kind, points=list(each.points)
                )
                for each in old
            ]
            self._client.tasks.api.partial_update_annotations(
                "delete",
                self._task.id,
                patched_labeled_data_request=models.PatchedLabeledDataRequest(shapes=gone, tags=[], tracks=[]),
            )
        return found


def _thumb(image: Image.Image) -> tuple[tuple[int, int], NDArray[np.float32]]:
    small = image.convert("RGB").resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return image.size, np.asarray(small, np.float32)


def _key(label: int, kind: str, points: Sequence[float]) -> tuple[Any, ...]:
    return label, kind, tuple(round(float(each), 2) for each in points)


def _requests(
    region: FoundRegion, label: int, as_polygon: bool, result: Result
) -> Iterator[models.LabeledShapeRequest]:
    """The region as a mask, or as a polygon for each of its parts; polygons lose holes."""
    from cvat_sdk import auto_annotation, masks

    score = round(region.score, 4)
    if not as_polygon:
        left, top, width, height = region.box
        *runs, _, _, _, _ = masks.encode_mask(region.part, [0, 0, width, height])
        box = [left, top, left + width - 1, top + height - 1]
        yield auto_annotation.mask(label, [float(number) for number in (*runs, *box)], score=score)
        return
    for outline, *_ in region.outlines():
        if signed_area(outline) >= _LEAST_PART:
            corners = [number for corner in flattened(outline) for number in corner]
            yield auto_annotation.polygon(label, corners, score=score)
