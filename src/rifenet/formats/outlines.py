"""Draws the objects of COCO annotations into one mask: polygons, run lengths, and run lengths as text.

COCO's outlines overlap, but an index mask has one class per pixel. Smaller objects (by drawn area) lie on top of larger
ones; of two equal objects, the later in the file does. A class thus loses only the pixels under smaller objects of
other classes. A crowd is 255 (ignored) and lies below all objects. `draw_layers` keeps all classes of a pixel instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.formats.polygons import corners_of
from rifenet.formats.run_lengths import unpack_runs

_Runs = Any  # pycocotools' own packed run lengths


Layers = tuple[tuple[int, ...], ...]


def draw_mask(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, values: Mapping[int, int]
) -> NDArray[np.uint8]:
    """Index mask uint8 [height, width] of a picture's annotations; `values`: mask values by category id.

    Raises ValueError naming the broken annotation.
    """
    from pycocotools import mask as masks

    crowds, objects = [], []
    for annotation, value, runs in _read(annotations, height, width, values):
        if annotation.get("iscrowd"):
            crowds.append((IGNORE, runs))
        else:
            objects.append((value, runs))
    objects.sort(key=lambda item: -int(masks.area(item[1])))  # a stable sort: the later of equal objects lies on top
    mask = np.zeros((height, width), np.uint8)
    for value, runs in (*crowds, *objects):
        mask[masks.decode(runs).astype(bool)] = value
    return mask


def draw_layers(
    annotations: Sequence[Mapping[str, Any]],
    height: int,
    width: int,
    class_ids: Mapping[int, int],
    box: tuple[int, int, int, int] | None = None,
) -> tuple[NDArray[np.uint8], Layers]:
    """Index mask of a picture whose classes overlap, and the class ids on the pixels of each mask value 1, 2, ...

    A class is the union of its objects. Where several lie on a pixel, all count. A crowd is 255 where no object lies.
    The last rows of the second value, of which no pixel is, name classes without a pixel.

    Args:
        annotations: of one picture.
        height: of the photo, in pixels.
        width: of the photo, in pixels.
        class_ids: by category id.
        box: the part of the photo that is drawn: left, top, right, bottom (exclusive). None: the whole.

    Raises ValueError naming the broken annotation. More than 255 combinations of classes do not fit into the mask: the
    caller checks their number.
    """
    from pycocotools import mask as masks

    left, top, right, bottom = box or (0, 0, width, height)
    outlines: dict[int, list[_Runs]] = {}
    crowd = np.zeros((bottom - top, right - left), bool)
    for annotation, class_id, runs in _read(annotations, height, width, class_ids):
        outlines.setdefault(class_id, [])
        if annotation.get("iscrowd"):
            crowd |= masks.decode(runs)[top:bottom, left:right].astype(bool)
        else:
            outlines[class_id].append(runs)
    found: list[tuple[int, ...]] = [()]
    codes = np.zeros(crowd.shape, np.int64)  # of each pixel: which of `found` lies there
    for class_id in sorted(outlines):
        if not outlines[class_id]:
            continue
        inside = masks.decode(masks.merge(outlines[class_id]))[top:bottom, left:right].astype(bool)
        met = np.flatnonzero(np.bincount(codes[inside], minlength=1))
        after = np.zeros(len(found), np.int64)
        after[met] = len(found) + np.arange(len(met))
        found += [(*found[code], class_id) for code in met]
        codes[inside] = after[codes[inside]]
    used = [code for code in np.flatnonzero(np.bincount(codes.ravel(), minlength=1)) if code]
    values = np.zeros(len(found), np.int64)
    values[used] = np.arange(1, len(used) + 1)
    mask = values[codes]
    mask[crowd & (mask == 0)] = IGNORE
    layers = [found[code] for code in used]
    shown = {class_id for classes in layers for class_id in classes}
    layers += [(class_id,) for class_id in sorted(outlines) if class_id not in shown]
    return mask.astype(np.uint8), tuple(layers)


def _read(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, values: Mapping[int, int]
) -> Iterator[tuple[Mapping[str, Any], int, _Runs]]:
    """Each annotation with its value and its packed run lengths. Raises ValueError naming the broken one."""
    for annotation in annotations:
        try:
            yield annotation, _value(annotation, values), _runs(annotation.get("segmentation"), height, width)
        except ValueError as error:
            raise ValueError(f"Annotation {annotation.get('id')}: {error}") from error


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
