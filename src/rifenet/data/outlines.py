"""Objects of COCO annotations drawn into one mask: polygons, run lengths, and run lengths as text.

An index mask has one class a pixel, COCO's outlines overlap. The smaller object lies on top, by its drawn area, and of
equal ones the later in the file. A class therefore has no pixels under smaller objects of other classes; all others of
its pixels are exact. A crowd is 255 (ignored) where no single object lies on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import IGNORE

_Runs = Any  # pycocotools' own packed run lengths


def draw_mask(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, values: Mapping[int, int]
) -> NDArray[np.uint8]:
    """Index mask uint8 [height, width] of a picture's annotations; `values`: the number to draw for a category id.

    Raises ValueError naming the annotation that cannot be drawn.
    """
    from pycocotools import mask as masks

    crowds, objects = [], []
    for annotation in annotations:
        try:
            value, runs = _value(annotation, values), _runs(annotation.get("segmentation"), height, width)
        except ValueError as error:
            raise ValueError(f"Annotation {annotation.get('id')}: {error}") from error
        if annotation.get("iscrowd"):
            crowds.append((IGNORE, runs))
        else:
            objects.append((value, runs))
    objects.sort(key=lambda item: -int(masks.area(item[1])))  # stable: of equal ones the later lies on top
    mask = np.zeros((height, width), np.uint8)
    for value, runs in (*crowds, *objects):
        mask[masks.decode(runs).astype(bool)] = value
    return mask


def _value(annotation: Mapping[str, Any], values: Mapping[int, int]) -> int:
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in values:
        raise ValueError(f"Expected one of the file's categories, but got category_id {category!r}.")
    return values[category]


def _runs(segmentation: Any, height: int, width: int) -> _Runs:
    """A segmentation of any of the three kinds as run lengths that are sure to fill the picture."""
    from pycocotools import mask as masks

    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != [height, width]:
            raise ValueError(
                f"Expected run lengths of the picture's size [{height}, {width}] (height, width), but got"
                f" {segmentation.get('size')!r}."
            )
        runs: Any = _unpacked(counts) if isinstance(counts, str) else counts
        whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
        if not whole or sum(runs) != height * width:  # pycocotools reads on into foreign memory
            raise ValueError(f"Expected run lengths that add up to {height} x {width} pixels, but they do not.")
        return masks.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"Expected a segmentation (polygons or run lengths), but got {segmentation!r}.")
    return masks.merge(masks.frPyObjects([_polygon(polygon, height, width) for polygon in segmentation], height, width))


def _polygon(corners: Any, height: int, width: int) -> list[float]:
    """Corners x, y, x, y, ..., all within one picture's size of the picture: pycocotools has no bounds of its own."""
    try:
        points = np.array(corners, np.float64)
    except (TypeError, ValueError):
        points = np.empty((0, 0))
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError(f"Expected polygons [x, y, x, y, ...] of at least 3 corners, but got {str(corners)[:80]}.")
    far = np.abs(points.reshape(-1, 2) / (width, height) - 0.5).max()
    if not far <= 1.5:
        raise ValueError(f"Expected polygons in a picture of {width} x {height} px, but a corner is far outside.")
    return points.tolist()


def _unpacked(text: str) -> list[int]:
    """Run lengths out of COCO's text form: 5 bits a character from the lowest on, differences from the fourth run on.

    A character less 48 holds 5 bits and a sixth that says that more follow; the last one's fifth bit is the sign. From
    the fourth run on, a number is added to the run two before it.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) if code & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs if not shift else []
