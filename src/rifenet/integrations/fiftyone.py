"""A model for FiftyOne's `dataset.apply_model`, learned from those samples that have a field of masks.

    model = learn_from(dataset.exists("ground_truth"), "ground_truth")
    dataset.exists("ground_truth", False).apply_model(model, label_field="found")

The field holds segmentations, detections with masks, or closed polylines. The model has no embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.config import needs
from rifenet.formats.object_files import regions
from rifenet.formats.pictures import load_image
from rifenet.formats.remarks import remark, together
from rifenet.segmenting.result import PRESENT, Result
from rifenet.segmenting.segmenter import MAX_SHOTS, Segmenter

if TYPE_CHECKING:
    from fiftyone import Detections, Label, Sample, SampleCollection, Segmentation
    from fiftyone.core.models import Model

EXTRA = "rifenet[fiftyone]"
KINDS = ("masks", "instances")


def learn_from(
    samples: SampleCollection,
    field: str,
    *,
    kinds: Sequence[str] = ("masks",),
    classes: Iterable[str] | None = None,
    segmenter: Segmenter | None = None,
) -> Model:
    """Learns the classes of a field, and returns the model for `apply_model`.

    A segmentation's numbers are named by the dataset's mask targets; without targets, a number is its own name. A mask
    of another size than its image is scaled. At most 20 samples teach a class, evenly taken.

    Args:
        samples: a dataset or view of images; samples whose field is empty teach nothing.
        field: name of the field with `Segmentation`, `Detections` with masks, or closed `Polylines`.
        kinds: what to predict: `masks`, a `Segmentation` with the numbers of the field's own targets; `instances`,
            `Detections` of objects with masks; with both, `apply_model` makes two fields, LABEL_FIELD_masks and so on.
        classes: the names to learn; None for all.
        segmenter: where to learn them; None for the bundled model.

    Raises:
        ValueError: no sample has a mask of a class; the field holds other labels, or colours as targets; a kind is
            unknown; FiftyOne is not installed.
        FileNotFoundError: an image is missing.
    """
    with needs(EXTRA):
        import fiftyone  # noqa: F401
    if not kinds or (wrong := [kind for kind in kinds if kind not in KINDS]):
        raise ValueError(f"Expected kinds among {', '.join(KINDS)}, but got {', '.join(wrong) if kinds else 'none'}.")
    if field not in samples.get_field_schema():
        raise ValueError(
            f"Expected a field of the samples ({', '.join(samples.get_field_schema())}), but got {field!r}."
        )
    targets = _targets(samples, field)
    wanted = None if classes is None else list(classes)
    shots: dict[str, list[tuple[str, Any]]] = {}
    for sample in samples.select_fields(field):
        for name in _names(sample[field], targets, field):
            if wanted is None or name in wanted:
                shots.setdefault(name, []).append((sample.id, sample.filepath))
    if not shots:
        raise ValueError(
            f"Expected samples with masks in {field!r}"
            f"{'' if wanted is None else f' of {chr(44).join(wanted)}'}, but there are none. Annotate one to five."
        )
    learned = segmenter or Segmenter.from_pretrained()
    for name in [each for each in targets.values() if each in shots] or list(shots):
        _learn(learned, name, shots[name], samples, field, targets)
    numbers = {name: number for number, name in targets.items()}
    from fiftyone.core.models import Model

    made = type("ExampleModel", (Examples, Model), {"__doc__": Examples.__doc__})
    return made(learned, tuple(kinds), numbers)


def _learn(
    segmenter: Segmenter,
    name: str,
    shots: list[tuple[str, Any]],
    samples: SampleCollection,
    field: str,
    targets: Mapping[int, str],
) -> None:
    taken = sorted({round(place) for place in np.linspace(0, len(shots) - 1, min(len(shots), MAX_SHOTS))})
    if len(taken) < len(shots):
        remark(
            f"the field {field!r}", f"{len(shots)} samples show {name!r}; {len(taken)} of them, evenly taken, teach it."
        )
    images, masks = [], []
    with together():
        for place in taken:
            sample_id, path = shots[place]
            image = load_image(path)
            images.append(image)
            masks.append(_mask(samples[sample_id], field, name, targets, image.shape[:2]))
        segmenter.learn(name, images, masks, replace=name in segmenter.classes)


def _targets(samples: SampleCollection, field: str) -> dict[int, str]:
    """Names of the numbers in segmentations; empty where the dataset has none."""
    targets = samples.mask_targets.get(field) or samples.default_mask_targets or {}
    if any(isinstance(target, str) and not target.isdecimal() for target in targets):
        raise ValueError(
            f"Expected numbers as mask targets of {field!r}, but it has colours. Give the masks as numbers."
        )
    return {int(number): str(name) for number, name in targets.items() if int(number)}


def _names(label: Label | None, targets: Mapping[int, str], field: str) -> list[str]:
    """The classes that a label has masks of."""
    from fiftyone import Detections, Polylines, Segmentation

    if label is None:
        return []
    if isinstance(label, Segmentation):
        mask = label.get_mask()
        numbers = [] if mask is None else [number for number in np.unique(_flat(mask, field)).tolist() if number]
        named = [targets.get(number, None if targets else str(number)) for number in numbers]
        return [name for name in named if name is not None]
    if isinstance(label, Detections):
        return list(dict.fromkeys(str(each.label) for each in label.detections if each.has_mask))
    if isinstance(label, Polylines):
        return list(dict.fromkeys(str(each.label) for each in label.polylines if each.closed or each.filled))
    raise ValueError(
        f"Expected segmentations, detections with masks or closed polylines in {field!r}, but got a"
        f" {type(label).__name__}."
    )


def _flat(mask: NDArray[Any], field: str) -> NDArray[Any]:
    if mask.ndim != 2:
        raise ValueError(f"Expected masks of numbers, [H, W], in {field!r}, but got {list(mask.shape)}.")
    return mask


def _mask(
    sample: Sample, field: str, name: str, targets: Mapping[int, str], size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Where a sample shows the class, [H,W]: 1 or 0."""
    from fiftyone import Detections, Polylines, Segmentation

    label, (height, width) = sample[field], size
    if isinstance(label, Segmentation):
        number = next((number for number, each in targets.items() if each == name), None)
        mask = label.get_mask() == (int(name) if number is None else number)
    elif isinstance(label, Detections):
        own = Detections(detections=[each for each in label.detections if each.label == name and each.has_mask])
        mask = own.to_segmentation(frame_size=(width, height)).mask > 0
    else:
        lines = [each for each in label.polylines if each.label == name and (each.closed or each.filled)]
        for each in lines:
            each.filled = True  # in this copy: an outline marks what it holds
        mask = Polylines(polylines=lines).to_segmentation(frame_size=(width, height)).mask > 0
    marked = np.asarray(mask).astype(np.uint8)
    if marked.shape != (height, width):
        remark(
            f"the mask of {sample.filepath}",
            f"It is {marked.shape[1]} x {marked.shape[0]}, and its image {width} x {height}: it was scaled.",
        )
        marked = np.asarray(Image.fromarray(marked).resize((width, height), Image.Resampling.NEAREST))
    return marked


class Examples:
    """Segments images by the classes of a segmenter. What `learn_from` makes is a `fiftyone.core.models.Model`, too."""

    def __init__(self, segmenter: Segmenter, kinds: tuple[str, ...], numbers: Mapping[str, int]) -> None:
        """`numbers`: those of the classes in masks; another class is its own name, or gets a number that is free."""
        self.segmenter, self.kinds = segmenter, kinds
        self.numbers = {name: numbers[name] for name in segmenter.classes if name in numbers}
        for name in segmenter.classes:
            if name not in self.numbers:
                taken = self.numbers.values()
                own = int(name) if name.isdecimal() else 0
                free = next(number for number in itertools.count(1) if number not in taken)
                self.numbers[name] = own if own and own not in taken else free
        # apply_model sets these two while it runs.
        self.config = SimpleNamespace(confidence_thresh=None, filter_classes=None)
        self._preprocess = True

    @property
    def mask_targets(self) -> dict[int, str]:
        """What the numbers of predicted masks mean, for `dataset.mask_targets`."""
        return {number: name for name, number in self.numbers.items()}

    @property
    def media_type(self) -> str:
        """What it takes, for FiftyOne."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Whether its transforms give tensors of several sizes; it has none."""
        return False

    @property
    def transforms(self) -> None:
        """None: images are taken as they are."""
        return None

    @property
    def preprocess(self) -> bool:
        """Whether it would transform images; FiftyOne sets it."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: NDArray[np.uint8]) -> Any:
        """Labels of an image [H,W,3]; a dictionary of them by kind where there are two."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[NDArray[np.uint8]]) -> list[Any]:
        """Labels of several images, as `predict` gives them."""
        return list(self._predicted(args))

    def _predicted(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[Any]:
        least, only = self.config.confidence_thresh, self.config.filter_classes
        low = least is not None and least < PRESENT  # so that tiles run for what the threshold lets in
        for result in self.segmenter.segment_many(list(images), keep_absent=low):
            judged = replace(result, keep_absent=False, least_confidence=PRESENT if least is None else least)
            names = [name for name in judged.classes if only is None or name in only]
            made = {kind: _label_of(judged, kind, names, self.numbers, least or 0.0) for kind in self.kinds}
            yield made if len(made) > 1 else made[self.kinds[0]]


def _label_of(
    result: Result, kind: str, names: Sequence[str], numbers: Mapping[str, int], least: float
) -> Segmentation | Detections:
    from fiftyone import Detection, Detections, Segmentation

    if kind == "masks":
        table = np.array([0, *(numbers[name] * (name in names) for name in result.classes)])
        return Segmentation(mask=table.astype(np.min_scalar_type(int(table.max())))[result.mask])
    height, width = result.mask.shape
    found = []
    for each in regions(result, objects=True):
        if each.name in names and each.score >= least:
            left, top, across, down = each.box
            box = [left / width, top / height, across / width, down / height]
            found.append(Detection(label=each.name, bounding_box=box, mask=each.part, confidence=round(each.score, 4)))
    return Detections(detections=found)
