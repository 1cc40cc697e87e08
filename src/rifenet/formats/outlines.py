"""Draws the objects of COCO annotations into one mask: polygons, run lengths, and run lengths as text.

COCO's outlines overlap, but an index mask has one class per pixel. Smaller objects (by drawn area) lie on top of larger
ones; of two equal objects, the later in the file does. A class thus loses only the pixels under smaller objects of
other classes. A crowd is 255 (ignored) and lies below all objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.formats.polygons import corners_of
from rifenet.formats.run_lengths import unpack_runs

_Runs = Any  # pycocotools' own packed run lengths


def draw_mask(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, values: Mapping[int, int]
) -> NDArray[np.uint8]:
    """Index mask uint8 [height, width] of a picture's annotations; `values`: mask values by category id.

    Raises ValueError naming the broken annotation.
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
    objects.sort(key=lambda item: -int(masks.area(item[1])))  # a stable sort: the later of equal objects lies on top
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
    """Packed run lengths of a segmentation of any kind; checks that they fill the picture exactly."""
    from pycocotools import mask as masks

    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != [height, width]:
            raise ValueError(
                f"Expected run lengths of the picture's size [{height}, {width}] (height, width), but got"
                f" {segmentation.get('size')!r}."
            )
        runs: Any = unpack_runs(counts) if isinstance(counts, str) else counts
        whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
        if not whole or sum(runs) != height * width:  # pycocotools would read past the end of memory
            raise ValueError(f"Expected run lengths that add up to {height} x {width} pixels, but they do not.")
        return masks.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"Expected a segmentation (polygons or run lengths), but got {segmentation!r}.")
    # corners_of refuses corners far outside the picture; pycocotools does not check them.
    polygons = [corners_of(polygon, height, width).ravel().tolist() for polygon in segmentation]
    return masks.merge(masks.frPyObjects(polygons, height, width))
