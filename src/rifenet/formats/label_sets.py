"""Reads all labels of a file at once as an index mask, for those who do not know yet which classes a file holds.

`label_files` reads one class whose name is known. Here a file's labels become the numbers 1, 2, ... of one mask.

    H W the photo's own size
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.formats.label_files import load_labels
from rifenet.formats.label_json import Annotated, same_photo
from rifenet.formats.pictures import lossy_kind
from rifenet.formats.run_lengths import Check, unchecked

MOST_LABELS = 60
"""A picture with more colours is no mask of classes."""


class FileLabel(NamedTuple):
    """A label of a file. `name` is None where the file has numbers only, and the colour where it has colours only."""

    number: int
    name: str | None
    colour: str | None
    """As #rrggbb, where the file has one."""


class Labelled(NamedTuple):
    """The labels of one photo: `mask` uint8 [H,W] holds their numbers, 0 the background and 255 what is ignored."""

    labels: tuple[FileLabel, ...]
    mask: NDArray[np.uint8]


def labels_of_picture(picture: Image.Image) -> Labelled:
    """Labels of a mask: an index, black-and-white or colour picture, or a cut-out, which holds one label.

    An index picture keeps its numbers. Raises ValueError for a lossy picture, and for one that is no mask.
    """
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I") or lossy_kind(picture):
        return _of_index(picture)
    colours = np.asarray(picture.convert("RGBA"))
    if (colours[..., 3] < 255).any():
        return _single(picture)
    if (colours[..., :3] == colours[..., :1]).all():
        return _of_index(picture)
    codes = (colours[..., 0].astype(np.uint32) << 16) | (colours[..., 1].astype(np.uint32) << 8) | colours[..., 2]
    held = [code for code in np.unique(codes).tolist() if code]
    if len(held) > MOST_LABELS:
        raise ValueError(
            f"Expected a mask of at most {MOST_LABELS} colours, but the picture has {len(held)}. Is it a photo?"
        )
    mask = np.searchsorted(np.array([0, *held], np.uint32), codes).astype(np.uint8)
    names = [f"#{code:06x}" for code in held]
    return Labelled(tuple(FileLabel(number, name, name) for number, name in enumerate(names, 1)), mask)


def _of_index(picture: Image.Image) -> Labelled:
    held = np.flatnonzero(np.bincount(np.asarray(picture.convert("L") if picture.mode != "P" else picture).ravel()))
    values = [value for value in held.tolist() if 0 < value < IGNORE]
    if not 2 <= len(values) <= MOST_LABELS:
        return _single(picture)
    mask = np.zeros((picture.height, picture.width), np.uint8)
    for value in values:
        own = load_labels(picture, str(value), label=value)
        mask[own == 1] = value
    mask[own == IGNORE] = IGNORE
    return Labelled(tuple(FileLabel(value, None, _palette(picture, value)) for value in values), mask)


def _single(picture: Image.Image) -> Labelled:
    return Labelled((FileLabel(1, None, None),), load_labels(picture, "the class"))


def _palette(picture: Image.Image, value: int) -> str | None:
    """Colour of an index in the picture's palette; None without one, and where it is black."""
    table = picture.getpalette("RGB") if picture.mode == "P" else None
    colour = table[3 * value : 3 * value + 3] if table else []
    return "#{:02x}{:02x}{:02x}".format(*colour) if len(colour) == 3 and any(colour) else None


def labels_of_annotation(annotated: Annotated, check: Check = unchecked) -> Labelled:
    """Labels of one photo of an annotation JSON; where shapes overlap, the later one covers the earlier.

    Raises ValueError for a broken shape, and for more than 254 labels. `check` is called between the shapes.
    """
    names = list(dict.fromkeys(shape.label for shape in annotated.shapes if not shape.ignored))
    if len(names) >= IGNORE:
        raise ValueError(f"Expected at most {IGNORE - 1} labels in a photo, but got {len(names)}.")
    numbers = {name: number for number, name in enumerate(names, 1)}
    mask = np.zeros((annotated.height, annotated.width), np.uint8)
    for shape in sorted(annotated.shapes, key=lambda each: not each.ignored):  # objects cover what is ignored
        check()
        mask[np.asarray(shape.draw(check), bool)] = IGNORE if shape.ignored else numbers[shape.label]
    return Labelled(tuple(FileLabel(number, name, None) for name, number in numbers.items()), mask)


def annotated_among(photos: Sequence[str], annotated: Sequence[str], file: str) -> list[int]:
    """Places in `photos` of those that a JSON called `file` annotates under one of the names `annotated`.

    A JSON of one photo may also bear the photo's name itself, whatever it says inside.
    """
    stem = PurePath(file).stem
    own: list[Any] = [stem] if len(annotated) == 1 else []
    return [
        place
        for place, photo in enumerate(photos)
        if any(same_photo(photo, name) for name in annotated) or any(same_photo(PurePath(photo).stem, x) for x in own)
    ]
