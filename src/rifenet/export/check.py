"""Compares the masks of two engines on the bundled photos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.engines import Engine
from rifenet.examples.samples import Example, load_examples
from rifenet.formats.pictures import binary_mask, load_image, load_mask
from rifenet.segmenting.margins import margins

CLASSES = 3
PHOTOS = 4


class EngineAgreement(NamedTuple):
    """How closely two engines agree."""

    mask_iou: float
    """IoU of their masks, over the pixels of all photos and classes together."""
    logit_difference: float
    """Largest difference between their margins (foreground minus background logit)."""
    photos: int
    """Number of photos segmented."""


def compare(first: Engine, second: Engine) -> EngineAgreement:
    """Both engines learn `CLASSES` classes, the n-th from n photos, and segment the same `PHOTOS` photos."""
    names, examples = load_examples()
    queries = [resize_and_pad(load_image(each.image), first.size) for each in _spread(examples, PHOTOS)]
    images, valid = np.stack([query[0] for query in queries]), np.stack([query[1] for query in queries])
    features = [engine.encode_query(images, valid) for engine in (first, second)]
    shared, either, largest = 0, 0, 0.0
    for number, name in enumerate(names[:CLASSES], start=1):
        shots = [each for each in examples if each.support and name in each.classes][:number]
        support = learning_inputs(shots, names.index(name) + 1, first.size)
        found = [
            margins(engine, encoded, engine.encode_support(*support))
            for engine, encoded in zip((first, second), features, strict=True)
        ]
        largest = max(largest, float(np.abs(found[0] - found[1]).max()))
        masks = [(own > 0) & valid for own in found]
        shared += int((masks[0] & masks[1]).sum())
        either += int((masks[0] | masks[1]).sum())
    iou = shared / either if either else 1.0
    return EngineAgreement(iou if np.isfinite(largest) else 0.0, largest, len(queries))


def learning_inputs(
    shots: list[Example], class_id: int, size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Arguments of `Engine.encode_support` for K examples: images [K,3,S,S], masks (0, 1, 255) and valid [K,S,S]."""
    images, masks, valid = [], [], []
    for shot in shots:
        image, real, placement = resize_and_pad(load_image(shot.image), size)
        labels = load_mask(shot.mask)
        images.append(image)
        masks.append(resize_mask(binary_mask(labels, class_id), placement))
        valid.append(real)
    return np.stack(images), np.stack(masks), np.stack(valid)


def _spread(examples: list[Example], count: int) -> list[Example]:
    """`count` query photos, evenly spaced in the list, which is sorted by class."""
    queries = [each for each in examples if not each.support]
    return [queries[i * len(queries) // count] for i in range(count)]
