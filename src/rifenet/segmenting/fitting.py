"""Fits a learned class to its own shots: tries what works on photos with known masks, and keeps the choice.

With two shots or more, each of up to `HELD_OUT` shots is a query in turn, and the others teach the class. A single shot
is compared with altered copies of itself (`segmenting.copies`). One option after the other is chosen by the mean IoU
over these queries: how much a pixel classifier of the class counts (`segmenting.pixels`), tiles, masks that follow the
photo's edges, and the threshold. An option replaces the default only if it is better by a margin, because a few photos
say little. docs/lab/fitting.md tells how the margins were chosen.

    K shots of a class · H W a query's own size · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.data.transforms import Placement, enlarged, resize_and_pad, resize_mask, restore
from rifenet.engines import Context, Engine
from rifenet.metrics import class_iou, intersection_union, log_odds, sigmoid
from rifenet.segmenting.copies import CHANGES, altered
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.margins import Seen
from rifenet.segmenting.pixels import PixelClassifier, Sums, discriminant, pixel_sums, total
from rifenet.segmenting.refine import refined_margins
from rifenet.segmenting.shots import Shots
from rifenet.segmenting.tiles import with_tiles

HELD_OUT = 3
"""Most shots that are queries in turn."""
BLENDS = (0.25, 0.5)
"""Weights of the pixel classifier to try."""
LOST = 0.35
"""With one shot, the pixel classifier is tried only where the network has less than this IoU on the shot's copies."""
OFFSETS = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
"""Thresholds to try, as log-odds above the model's."""
SMALL = 60.0
"""Tiles are tried only for objects at most this wide, in pixels of the network's input."""
ROOM = 1.5
"""Side of a closer look over the object's longer side, both relative to the photo's sides."""


@dataclass(frozen=True)
class Choice:
    """One way to segment a class's photos."""

    blend: float = 0.0
    tiles: bool = False
    refine: bool = False
    offset: float = 0.0
    """Log-odds of the threshold above the model's."""


@dataclass(frozen=True)
class Stage:
    """Options that are tried together."""

    name: str
    options: Sequence[dict[str, Any]]
    needed: float
    """How much better in mean IoU an option must be than what it replaces."""


class Photo(NamedTuple):
    """An annotated photo at the network's scale: image [H,W,3], mask [H,W] (0, 1, 255)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Trial:
    """A query with a known mask, and the class as other shots teach it."""

    def __init__(self, engine: Engine, photo: Photo, context: Context, pixels: PixelClassifier | None) -> None:
        self.engine, self.photo, self.context, self.pixels = engine, photo, context, pixels
        image, valid, self.placement = resize_and_pad(photo.image, engine.size)
        self.seen = Seen(engine, image[None], valid[None])
        self.plain = self.seen.margins(context)[0]
        self._kept: dict[tuple[float, bool, bool], NDArray[np.float32]] = {}

    def iou(self, choice: Choice) -> float:
        """IoU in [0,1] of the mask that a choice gives."""
        mask = (self.margins(choice.blend, choice.tiles, choice.refine) > choice.offset).astype(np.uint8)
        return float(np.nan_to_num(class_iou(intersection_union(mask, self.photo.mask))))

    def margins(self, blend: float, tiles: bool, refine: bool) -> NDArray[np.float32]:
        """Margins at the photo's size, [H,W]."""
        key = blend, tiles, refine
        if key not in self._kept:
            found, placement = self._found(blend, tiles)
            if refine:
                own = found[: placement.scaled_height, : placement.scaled_width]
                self._kept[key] = np.concatenate([rows for _, rows in refined_margins(self.photo.image, own)])
            else:
                self._kept[key] = restore(found, placement)
        return self._kept[key]

    def _found(self, blend: float, tiles: bool) -> tuple[NDArray[np.float32], Placement]:
        own = self.plain
        if blend:
            own = own + np.float32(blend) * self._scores
        if not tiles:
            return own, self.placement
        if blend not in self._tiled:
            fit = Fit(True, False, self.engine.threshold, blend, 0.0, pixels=self.pixels) if blend else None
            maps, placement = with_tiles(
                self.engine, self.photo.image, [self.context], own[None], self.placement, [fit]
            )
            self._tiled[blend] = maps[0], placement
        return self._tiled[blend]

    @cached_property
    def _scores(self) -> NDArray[np.float32]:
        seen = self.seen.described[0]
        assert self.pixels is not None
        assert seen is not None, "a class has a classifier only where the network has features for it"
        return enlarged(self.pixels.scores(seen), self.plain.shape)

    @cached_property
    def _tiled(self) -> dict[float, tuple[NDArray[np.float32], Placement]]:
        return {}


def fit_class(engine: Engine, inputs: Shots, context: Context) -> Fit:
    """What works for a class on its own annotated shots.

    Args:
        engine: the model.
        inputs: the shots, K >= 1.
        context: the class learned from all of them.
    """
    photos = [photo_of(inputs, number) for number in range(len(inputs.images))]
    sums = [_sums_of(engine, photo) for photo in photos]
    trials = list(_trials(engine, inputs, photos, sums, context))
    small = float(np.median([width_of(photo.mask) for photo in photos])) <= SMALL
    best, value, notes = Choice(), _mean(trials, Choice()), []
    classifies = sums[0] is not None and (len(photos) > 1 or value < LOST)
    for stage in _stages(len(photos) > 1, small, classifies):
        tried = [replace(best, **option) for option in stage.options]
        values = [_mean(trials, each) for each in tried]
        index = int(np.argmax(values))
        taken = values[index] > value + stage.needed
        notes.append(
            f"{stage.name}: IoU {100 * value:.0f}% to {100 * values[index]:.0f}%, {'taken' if taken else 'not taken'}"
        )
        if taken:
            best, value = tried[index], values[index]
    return Fit(
        tiles=best.tiles,
        refine=best.refine,
        threshold=float(sigmoid(np.float64(log_odds(engine.threshold) + best.offset))),
        blend=best.blend,
        quality=value,
        notes=tuple(notes),
        shots=len(photos),
        share=float(np.median([_share(photo.mask) for photo in photos])),
        pixels=_classifier(sums) if best.blend else None,
        look=_look(sums, trials[0].seen) if sums[0] is not None else None,
    )


def _stages(several: bool, small: bool, classifies: bool) -> Iterator[Stage]:
    """What to try. The copies of a single shot flatter every option, so fewer are tried, and they must gain more."""
    if classifies:
        yield Stage("pixel classifier", [{"blend": blend} for blend in BLENDS], 0.02)
    if small:
        yield Stage("tiles", [{"tiles": True}], 0.02 if several else 0.04)
    yield Stage("edges", [{"refine": True}], 0.0)
    if several:
        yield Stage("threshold", [{"offset": offset} for offset in OFFSETS], 0.02)


def _mean(trials: Sequence[Trial], choice: Choice) -> float:
    return float(np.mean([trial.iou(choice) for trial in trials]))


def _trials(
    engine: Engine, inputs: Shots, photos: Sequence[Photo], sums: Sequence[Sums | None], context: Context
) -> Iterator[Trial]:
    """Each of some shots as a query for the others; copies of a single shot."""
    count = len(photos)
    if count == 1:
        pixels = _classifier(sums)
        for change in CHANGES:
            copy = Photo(*altered(*photos[0], change))
            if (copy.mask == 1).any():
                yield Trial(engine, copy, context, pixels)
        return
    for number in np.linspace(0, count - 1, min(HELD_OUT, count)).round().astype(int).tolist():
        taught = engine.encode_support(*inputs.without(number))
        yield Trial(engine, photos[number], taught, _classifier([*sums[:number], *sums[number + 1 :]]))


def _sums_of(engine: Engine, photo: Photo) -> Sums | None:
    """What a shot and a closer look at its object teach a pixel classifier; None if the network has no features."""
    parts = []
    for image, mask in (photo, *_closer(photo)):
        pixels, valid, placement = resize_and_pad(image, engine.size)
        seen = Seen(engine, pixels[None], valid[None]).described[0]
        if seen is None:
            return None
        parts.append(pixel_sums(seen, resize_mask(mask, placement)))
    return total(parts)


def _closer(photo: Photo) -> list[Photo]:
    """The part of a photo around its object, with the photo's ratio; empty where that is the whole photo."""
    rows, columns = np.nonzero(photo.mask == 1)
    height, width = photo.mask.shape
    share = ROOM * max((np.ptp(rows) + 1) / height, (np.ptp(columns) + 1) / width)
    if share >= 1:
        return []
    sides = [max(1, round(share * side)) for side in (height, width)]
    starts = [
        int(np.clip((each.min() + each.max() + 1 - side) // 2, 0, whole - side))
        for each, side, whole in zip((rows, columns), sides, (height, width), strict=True)
    ]
    part = np.s_[starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]
    return [Photo(np.ascontiguousarray(photo.image[part]), np.ascontiguousarray(photo.mask[part]))]


def _share(mask: NDArray[np.uint8]) -> float:
    return np.count_nonzero(mask == 1) / max(np.count_nonzero(mask != IGNORE), 1)


def _look(sums: Sequence[Sums | None], seen: Seen) -> NDArray[np.float32]:
    """Unit-length means of the high features over background and class, [2,D]."""
    described = seen.described[0]
    assert described is not None
    means = total([each for each in sums if each is not None]).means[:, : len(described.high)]
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), np.float32)


def _classifier(sums: Sequence[Sums | None]) -> PixelClassifier | None:
    known = [each for each in sums if each is not None]
    return discriminant(total(known)) if known else None


def photo_of(inputs: Shots, number: int) -> Photo:
    """One shot as a photo at the network's scale, without its padding."""
    height, width = (int(inputs.valid[number].any(axis).sum()) for axis in (1, 0))
    pixels = inputs.images[number, :, :height, :width].transpose(1, 2, 0)
    return Photo((255 * pixels).round().astype(np.uint8), inputs.masks[number, :height, :width])


def width_of(mask: NDArray[np.uint8]) -> float:
    """Typical width in pixels of what a mask [H,W] marks: twice its area over its outline; 0 if it marks nothing."""
    own = mask == 1
    outline = np.count_nonzero(own[1:] != own[:-1]) + np.count_nonzero(own[:, 1:] != own[:, :-1])
    return 2 * np.count_nonzero(own) / max(outline, 1)
