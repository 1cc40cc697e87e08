"""Prepares annotated photos as network input and keeps the shots of a class together.

K shots of a class · S side of the square network input
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.drawing.visualize import overlay
from rifenet.formats.label_files import Label, Marked, load_labels
from rifenet.formats.pages import Page
from rifenet.formats.picture_files import Frame
from rifenet.formats.pictures import Source, load_photo
from rifenet.formats.remarks import remark
from rifenet.segmenting.closer import window_around


class Shots(NamedTuple):
    """Annotated photos as network input: images [K,3,S,S] in [0,1], masks [K,S,S] (0, 1, 255), valid [K,S,S]."""

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
        """These shots without the one at `index`."""
        return Shots._make(np.delete(part, index, axis=0) for part in self)

    def with_other(self, index: int, shot: Shots) -> Shots:
        """These shots with `shot` (K = 1) in place of the one at `index`."""
        return Shots(
            np.concatenate([self.images[:index], shot.images, self.images[index + 1 :]]),
            np.concatenate([self.masks[:index], shot.masks, self.masks[index + 1 :]]),
            np.concatenate([self.valid[:index], shot.valid, self.valid[index + 1 :]]),
        )

    def overlays(self, class_id: int) -> list[Image.Image]:
        """Each photo as the network sees it, without padding, with its mask in the colour of a class."""
        drawn = []
        for image, mask, valid in zip(*self, strict=True):
            height, width = (int(valid.any(axis).sum()) for axis in (1, 0))
            photo = (255 * image[:, :height, :width].transpose(1, 2, 0)).round().astype(np.uint8)
            own = mask[:height, :width]
            drawn.append(overlay(photo, np.where(own == 1, np.uint8(class_id), own)))
        return drawn


class PseudoShot(NamedTuple):
    """A photo without annotation that a class adopted as a shot."""

    source: str
    """Its path; empty for a picture from memory."""
    number: int
    """Its position among the given photos, from 1."""
    confidence: float
    """First-pass confidence in [0,1] that it shows the class, on the pixels that no other class wins."""


def read_shot(
    name: str, image: Source, mask: Source | Marked, *, label: Label | None = None, white_is_object: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An annotated photo of class `name`: the photo, [H,W,3], and the mask, [H,W]: 1 the class, 0 not, 255 ignored.

    Raises FileNotFoundError, or ValueError for an unusable photo or label file or for two that do not fit each other.
    """
    path, shot = _called(name, image)
    photo, orientation = load_photo(image)
    frame = Frame(photo.shape[0], photo.shape[1], orientation)
    labels = load_labels(
        mask,
        name,
        label=label,
        photo=os.path.abspath(path) if path else "",
        frame=frame,
        white_is_object=white_is_object,
    )
    if photo.shape[:2] != labels.shape:
        turned = " Its EXIF entry turns the photo; the mask fits it neither way." if orientation >= 5 else ""
        raise ValueError(
            f"Expected a mask as large as its photo, {photo.shape[1]} x {photo.shape[0]} as shown upright, but that of"
            f" {shot} is {labels.shape[1]} x {labels.shape[0]} (width x height).{turned}"
        )
    if not (labels == 1).any():
        white = (
            " Its 255 means ignore; where white should mark the object, use white_is_object." if labels.any() else ""
        )
        raise ValueError(f"Expected the mask of {shot} to mark at least one pixel, but it marks none.{white}")
    return photo, labels


def prepare_shot(
    name: str,
    image: Source,
    mask: Source | Marked,
    size: int,
    *,
    label: Label | None = None,
    white_is_object: bool = False,
) -> Shots:
    """One annotated photo of class `name` (K = 1), for a network of side `size`; options and errors as in `read_shot`.

    Where the object is too small for the network in the whole photo, the shot is a part of the photo around it.
    """
    photo, labels = read_shot(name, image, mask, label=label, white_is_object=white_is_object)
    if (window := window_around(labels, size)) is not None:
        whole = f"{photo.shape[1]} x {photo.shape[0]}"
        photo, labels = photo[window], labels[window]
        remark(
            _called(name, image)[1],
            f"The object is too small for the network in a photo of {whole}, so the class learns it from"
            f" {photo.shape[1]} x {photo.shape[0]} px around it. It finds such objects in parts of that size.",
        )
    pixels, valid, placement = resize_and_pad(photo, size)
    return Shots(pixels[None], resize_mask(labels, placement)[None], valid[None])


def _called(name: str, image: Source) -> tuple[str, str]:
    """The path of a photo, empty for one from memory, and what to call the shot in messages."""
    path = str(image) if isinstance(image, str | os.PathLike | Page) else ""
    return path, f"a shot of {name!r} ({path or 'a picture in memory'})"


def prepare_background(image: Source, size: int) -> Shots:
    """A photo that shows none of a class (K = 1): its mask is 0 on the photo. Raises as `prepare_shot` for photos."""
    pixels, valid, _ = resize_and_pad(load_photo(image)[0], size)
    return Shots(pixels[None], np.where(valid, 0, IGNORE).astype(np.uint8)[None], valid[None])
