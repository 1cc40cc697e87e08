"""Annotated photos as a network takes them: one shot prepared, and the shots of a class kept together.

K shots of a class · S side of the square network input
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.formats.label_files import Label, load_labels
from rifenet.formats.pictures import Source, load_image


class Shots(NamedTuple):
    """Annotated photos as a network takes them: images [K,3,S,S] in [0,1], masks [K,S,S] (0, 1, 255), valid [K,S,S]."""

    images: NDArray[np.float32]
    masks: NDArray[np.uint8]
    valid: NDArray[np.bool_]

    def followed_by(self, more: Shots) -> Shots:
        """These shots, then `more`."""
        return Shots(
            np.concatenate([self.images, more.images]),
            np.concatenate([self.masks, more.masks]),
            np.concatenate([self.valid, more.valid]),
        )

    def without(self, index: int) -> Shots:
        """All but one."""
        return Shots._make(np.delete(part, index, axis=0) for part in self)

    def with_other(self, index: int, shot: Shots) -> Shots:
        """The one at `index` exchanged for `shot` (K = 1)."""
        return Shots(
            np.concatenate([self.images[:index], shot.images, self.images[index + 1 :]]),
            np.concatenate([self.masks[:index], shot.masks, self.masks[index + 1 :]]),
            np.concatenate([self.valid[:index], shot.valid, self.valid[index + 1 :]]),
        )


class PseudoShot(NamedTuple):
    """A photo without annotation that a class was learned from, with the mask that was found in it."""

    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its place among the photos that were given, from 1."""
    confidence: float
    """That the class is in it, in [0,1], by the annotated photos alone and where no other class takes the pixels."""


def prepare_shot(
    name: str, image: Source, mask: Source, size: int, *, label: Label | None = None, white_is_object: bool = False
) -> Shots:
    """One annotated photo of class `name` (K = 1), for a network of side `size`; `label` as in `load_labels`.

    Raises FileNotFoundError, or ValueError where photo or label file cannot be used or do not belong together.
    """
    path = fspath(image) if isinstance(image, str | PathLike) else ""
    shot = f"a shot of {name!r} ({path or 'a picture in memory'})"
    photo = load_image(image)
    labels = load_labels(mask, name, label=label, photo=path, white_is_object=white_is_object)
    if photo.shape[:2] != labels.shape:
        raise ValueError(
            f"Expected a mask as large as its photo, {photo.shape[1]} x {photo.shape[0]} as shown upright, but that of"
            f" {shot} is {labels.shape[1]} x {labels.shape[0]} (width x height)."
        )
    if not (labels == 1).any():
        white = (
            " Its 255 means ignore; where white should mark the object, use white_is_object." if labels.any() else ""
        )
        raise ValueError(f"Expected the mask of {shot} to mark at least one pixel, but it marks none.{white}")
    pixels, valid, placement = resize_and_pad(photo, size)
    return Shots(pixels[None], resize_mask(labels, placement)[None], valid[None])
