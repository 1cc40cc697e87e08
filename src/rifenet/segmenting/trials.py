"""A query with a known mask, and a class as other shots teach it: what options of a fit are tried on.

K shots of a class · H W a query's own size · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.data.transforms import Placement, enlarged, resize_and_pad, resize_mask, restore
from rifenet.engines import Context, Engine
from rifenet.metrics import class_iou, intersection_union
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.margins import Seen
from rifenet.segmenting.pixels import PixelClassifier, Sums, discriminant, pixel_sums, total
from rifenet.segmenting.queries import confidence
from rifenet.segmenting.refine import refined_margins
from rifenet.segmenting.shots import Shots
from rifenet.segmenting.tiles import with_tiles

EVIDENCE = "evidence_"
"""Prefix of the parts of a context that the evidence head reads."""
_LEAST = 1e-4
ROOM = 1.5
"""Side of a closer look over the object's longer side, both relative to the photo's sides."""


@dataclass(frozen=True)
class Way:
    """One way to segment a class's photos."""

    blend: float = 0.0
    tiles: bool = False
    refine: bool = False
    offset: float = 0.0
    """Log-odds of the threshold above the model's."""


class Photo(NamedTuple):
    """An annotated photo at the network's scale: image [H,W,3], mask [H,W] (0, 1, 255)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Trial:
    """A query with a known mask, and the class as other shots teach it."""

    def __init__(
        self, engine: Engine, photo: Photo, context: Context, pixels: PixelClassifier | None, usual: float
    ) -> None:
        """`usual` is the share of a photo that the class covers in its shots, in [0,1]."""
        self.engine, self.photo, self.context, self.pixels = engine, photo, context, pixels
        self.usual = usual
        image, valid, self.placement = resize_and_pad(photo.image, engine.size)
        self.seen = Seen(engine, image[None], valid[None])
        self.plain = self.seen.margins(context)[0]
        self._kept: dict[tuple[float, bool, bool], NDArray[np.float32]] = {}

    def iou(self, choice: Way) -> float:
        """IoU in [0,1] of the mask that a choice gives.

        In a photo without the class it is 1 for an empty mask, and 0 for one as large as the class is in its shots.
        """
        mask = (self.margins(choice.blend, choice.tiles, choice.refine) > choice.offset).astype(np.uint8)
        if not (self.photo.mask == 1).any():
            return max(0.0, 1 - np.count_nonzero(mask) / mask.size / max(self.usual, _LEAST))
        return float(np.nan_to_num(class_iou(intersection_union(mask, self.photo.mask))))

    def presence(self, choice: Way) -> float:
        """Confidence in [0,1] that the photo shows the class, from its whole, as `segmenting.queries` finds it."""
        own = self._found(choice.blend, tiles=False)[0] - np.float32(choice.offset)
        real = own[: self.placement.scaled_height, : self.placement.scaled_width]
        return confidence(real, self.engine.calibration)

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


def photo_of(inputs: Shots, number: int) -> Photo:
    """One shot as a photo at the network's scale, without its padding."""
    height, width = (int(inputs.valid[number].any(axis).sum()) for axis in (1, 0))
    pixels = inputs.images[number, :, :height, :width].transpose(1, 2, 0)
    return Photo((255 * pixels).round().astype(np.uint8), inputs.masks[number, :height, :width])


def width_of(mask: NDArray[np.uint8]) -> float:
    """Typical width in pixels of what a mask [H,W] marks: twice its area over its outline; 0 if it marks nothing."""
    own = mask == 1
    outline = np.count_nonzero(own[1:] != own[:-1]) + np.count_nonzero(own[:, 1:] != own[:, :-1])
    return 2 * int(np.count_nonzero(own)) / max(int(outline), 1)


def share_of(mask: NDArray[np.uint8]) -> float:
    """Share of a mask's counted pixels that it marks, in [0,1]."""
    return int(np.count_nonzero(mask == 1)) / max(int(np.count_nonzero(mask != IGNORE)), 1)


def context_of(engine: Engine, inputs: Shots, negatives: Shots | None) -> Context:
    """The class of annotated shots, told apart from what photos without it show.

    The evidence head compares a query with the background of all these photos. The rest of the network knows only shots
    of the class.
    """
    own = engine.encode_support(*inputs)
    if negatives is None:
        return own
    both = engine.encode_support(*inputs.followed_by(negatives))
    return own | {name: array for name, array in both.items() if name.startswith(EVIDENCE)}


def sums_of(engine: Engine, photo: Photo) -> Sums | None:
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
    if not rows.size:
        return []
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


def classifier_of(sums: Sequence[Sums | None]) -> PixelClassifier | None:
    """The classifier that several photos teach together; None if the network has no features for one."""
    known = [each for each in sums if each is not None]
    return discriminant(total(known)) if known else None
