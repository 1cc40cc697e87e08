"""Checks what callers give where several photos are expected: one photo or a folder is refused with a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from PIL import Image

from rifenet.formats.pictures import Source


def check_several(photos: Iterable[Source], example: str) -> None:
    """Raises ValueError for one photo, or a folder, where several are expected; `example`: how to write it."""
    one = isinstance(photos, str | os.PathLike | Image.Image) or _dimensions(photos) in range(1, 4)
    if one or not isinstance(photos, Iterable):
        inside = f"sorted(pathlib.Path({str(photos)!r}).iterdir())" if _is_folder(photos) else "[...]"
        raise ValueError(f"Expected a list of photos, but got one. Write {example.format(inside)}.")


def check_pairs(images: Any, masks: Any) -> None:
    """Raises ValueError where images or masks are one instead of several, and where their numbers differ."""
    for given, most in ((images, 3), (masks, 2)):
        one = isinstance(given, str | os.PathLike | Image.Image) or _dimensions(given) in range(1, most + 1)
        if one or not hasattr(given, "__len__"):
            what = f"the folder {given}" if _is_folder(given) else f"a {type(given).__name__}"
            raise ValueError(
                f"Expected lists of images and masks, but got one, {what}. Write images=[...], masks=[...]."
            )
    if not len(images) == len(masks) > 0:
        raise ValueError(f"Expected a mask for each of 1 to 20 images, but got {len(images)} and {len(masks)}.")


def _dimensions(given: Any) -> int:
    """Of an array or tensor; 0 for anything else."""
    dimensions = getattr(given, "ndim", 0)
    return dimensions if isinstance(dimensions, int) else 0


def _is_folder(given: Any) -> bool:
    return isinstance(given, str | os.PathLike) and os.path.isdir(given)
