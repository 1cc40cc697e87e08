"""Reads the JSON of annotation tools: COCO, LabelMe, and Label Studio's export.

A JSON lists the shapes of a photo with their labels. `label_files` chooses among the shapes and draws only the chosen
ones. Coordinates are in pixels; Label Studio's percentages are converted.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.brush_rle import decode_brush
from rifenet.formats.polygons import corners_of, fill_polygon
from rifenet.formats.run_lengths import Check, decode_runs, unchecked

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # prefix that Label Studio adds to uploaded files


class Shape(NamedTuple):
    """One annotated object. `number`: its category id, if the format has ids. `ignored`: its pixels become 255."""

    label: str
    number: int | None
    ignored: bool
    draw: Callable[[Check], NDArray[Any]]
    """Returns a mask [H,W], not 0 inside. Calls its argument between steps. Raises ValueError for a broken shape."""


class Annotated(NamedTuple):
    """The shapes of one photo of height x width pixels. `labels`: every label of the file, with its category id."""

    height: int
    width: int
    shapes: list[Shape]
    labels: dict[str, int | None]


def read_annotations(text: bytes, photo: str, most_pixels: int) -> Annotated:
    """Annotations of the photo with the file name `photo`; a JSON of only one photo is read whatever the name.

    Raises ValueError for an unknown kind of JSON, for a photo not in it, and for more than `most_pixels` pixels.
    """
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected annotations, but the file is not JSON ({error}).") from error
    if isinstance(content, dict) and "shapes" in content:
        return _labelme(content, most_pixels)
    if isinstance(content, dict) and "images" in content and "annotations" in content:
        return _coco(content, photo, most_pixels)
    tasks = content if isinstance(content, list) else [content]
    if tasks and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        return _label_studio(tasks, photo, most_pixels)
    raise ValueError(
        "Expected annotations of COCO (images, annotations, categories), LabelMe (shapes) or Label Studio (a list of"
        " tasks, exported as JSON, not JSON-MIN), but got none of them."
    )


def _size(height: Any, width: Any, most_pixels: int) -> tuple[int, int]:
    if not (type(height) is int and type(width) is int and min(height, width) > 0):
        raise ValueError(f"Expected the photo's height and width in pixels, but got {height!r} and {width!r}.")
    if height * width > most_pixels:
        raise ValueError(f"Expected at most {most_pixels:,} pixels, but got a photo of {width} x {height}.")
    return height, width


def _one_of(photo: str, names: Sequence[str]) -> int:
    """Index of the only name, or of the name that matches the photo."""
    if len(names) == 1:
        return 0
    wanted = _plain(photo)
    places = [place for place, name in enumerate(names) if photo and _plain(name) == wanted]
    if not places:
        there = ", ".join(dict.fromkeys(map(_base, names[:8]))) + (" and others" if len(names) > 8 else "")
        raise ValueError(
            f"Expected annotations of the photo {_base(photo) or '(which has no file name)'}, but the file annotates"
            f" {there or 'none'}. Rename the photo, or choose the file that belongs to it."
        )
    if len(places) > 1:
        raise ValueError(f"Expected the photo {_base(photo)} once, but the file has it {len(places)} times.")
    return places[0]


def _base(path: str) -> str:
    return PurePosixPath(PureWindowsPath(path).as_posix()).name


def _plain(name: str) -> str:
    """A file name to compare by: without folders and without the changes that Label Studio makes on upload."""
    return _UPLOADED.sub("", _base(unquote(name))).replace(" ", "_").casefold()


def _rows(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"Expected a list of {key}, but got {str(rows)[:80]}.")
    return rows


def _coco(content: dict[str, Any], photo: str, most_pixels: int) -> Annotated:
    images, categories = _rows(content, "images"), _rows(content, "categories")
    names = {row.get("id"): str(row.get("name")) for row in categories if type(row.get("id")) is int}
    image = images[_one_of(photo, [str(row.get("file_name")) for row in images])]
    height, width = _size(image.get("height"), image.get("width"), most_pixels)
    shapes = []
    for row in _rows(content, "annotations"):
        if row.get("image_id") != image.get("id"):
            continue
        category = row.get("category_id")
        if type(category) is not int or category not in names:
            raise ValueError(f"Expected one of the file's categories, but an annotation has category_id {category!r}.")
        draw = _coco_drawer(row.get("segmentation"), height, width)
        shapes.append(Shape(names[category], category, bool(row.get("iscrowd")), draw))
    return Annotated(height, width, shapes, {name: number for number, name in names.items()})


def _coco_drawer(segmentation: Any, height: int, width: int) -> Callable[[Check], NDArray[Any]]:
    def draw(check: Check) -> NDArray[Any]:
        if isinstance(segmentation, dict):
            if segmentation.get("size") != [height, width]:
                raise ValueError(
                    f"Expected run lengths of the size [{height}, {width}] (height, width) of the photo, but got"
                    f" {str(segmentation.get('size'))[:40]}."
                )
            return decode_runs(segmentation.get("counts") or [], height, width, check)
        if not isinstance(segmentation, list) or not segmentation:
            raise ValueError(f"Expected a segmentation (polygons or run lengths), but got {str(segmentation)[:80]}.")
        mask = np.zeros((height, width), bool)
        for polygon in segmentation:
            check()
            mask |= fill_polygon(corners_of(polygon, height, width), height, width)
        return mask

    return draw


def _labelme(content: dict[str, Any], most_pixels: int) -> Annotated:
    height, width = _size(content.get("imageHeight"), content.get("imageWidth"), most_pixels)
    shapes = [
        Shape(str(row.get("label")), None, False, _labelme_drawer(row, height, width))
        for row in _rows(content, "shapes")
    ]
    return Annotated(height, width, shapes, {shape.label: None for shape in shapes})


def _labelme_drawer(row: dict[str, Any], height: int, width: int) -> Callable[[Check], NDArray[Any]]:
    kind, points = row.get("shape_type") or "polygon", row.get("points")

    def draw(check: Check) -> NDArray[Any]:
        if kind == "polygon":
            return fill_polygon(corners_of(points, height, width), height, width)
        try:
            (left, top), (right, bottom) = np.array(points, np.float64).tolist()
            if not np.isfinite([left, top, right, bottom]).all():
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"Expected two points of a {kind}, but got {str(points)[:80]}.") from None
        if kind == "mask":
            return _pasted(row.get("mask"), (round(left), round(top)), height, width)
        if kind == "rectangle":
            corners: Any = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif kind == "circle":
            angles = np.linspace(0, 2 * np.pi, 256, endpoint=False)
            rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            corners = (left, top) + np.hypot(right - left, bottom - top) * rim
        else:
            raise ValueError(
                f"Expected a polygon, rectangle, circle or mask, but got a {kind}. Mark the object's area."
            )
        return fill_polygon(corners_of(corners, height, width), height, width)

    return draw


def _pasted(data: Any, corner: tuple[int, int], height: int, width: int) -> NDArray[Any]:
    """Mask [height, width] from a PNG in base64 whose top left pixel lies at `corner` (column, row)."""
    left, top = corner
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"])
        fits = 0 <= left <= width - picture.width and 0 <= top <= height - picture.height
        part = np.asarray(picture.convert("L")) if fits else None  # decode no PNG that is larger than the photo
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise ValueError(f"Expected a mask as a PNG in base64, but cannot read it: {error}.") from error
    if part is None:
        raise ValueError(f"Expected a mask within the photo of {width} x {height} px, but it goes beyond the edge.")
    mask = np.zeros((height, width), bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
    return mask


def _label_studio(tasks: list[dict[str, Any]], photo: str, most_pixels: int) -> Annotated:
    names = [next((str(value) for value in task["data"].values() if isinstance(value, str)), "") for task in tasks]
    task = tasks[_one_of(photo, names)]
    done = [row for row in _rows(task, "annotations") if not row.get("was_cancelled")]
    best = [row for row in done if row.get("ground_truth")] or done
    regions = [
        row
        for row in (_rows(best[-1], "result") if best else [])
        if _names(row.get("value")) and "original_width" in row
    ]
    if not regions:
        raise ValueError(
            f"Expected an annotation with brush or polygon labels of {_base(names[0])}, but there is none."
        )
    height, width = (regions[0].get(key) for key in ("original_height", "original_width"))
    if any((row.get("original_height"), row["original_width"]) != (height, width) for row in regions):
        raise ValueError("Expected regions of one photo, but their heights and widths differ. Export the task again.")
    height, width = _size(height, width, most_pixels)
    shapes = [
        Shape(label, None, False, partial(draw_region, row["value"], height, width))
        for row in regions
        for label in _names(row["value"])
    ]
    return Annotated(height, width, shapes, {shape.label: None for shape in shapes})


def _names(value: Any) -> list[str]:
    """Labels of a region, from its list `brushlabels`, `polygonlabels`, `labels`, ..."""
    if not isinstance(value, dict):
        return []
    lists = [names for key, names in value.items() if key.endswith("labels") and isinstance(names, list)]
    return [str(name) for name in lists[0]] if lists else []


def draw_region(value: dict[str, Any], height: int, width: int, check: Check = unchecked) -> NDArray[Any]:
    """Mask [height, width] of a Label Studio region, not 0 inside.

    `value` has a brush stroke's `rle`, or a polygon's `points` in percent of width and height. Calls `check` between
    steps; it may raise. Raises ValueError for other kinds of regions and for damaged ones.
    """
    if "rle" in value:
        return decode_brush(value["rle"] or [], height, width, check)
    if "points" in value:
        percent = corners_of(value["points"], 100, 100)
        return fill_polygon(percent * (width / 100, height / 100), height, width)
    raise ValueError("Expected brush or polygon labels, but got a region of another kind. Mark the object's area.")


def photos_of(text: bytes) -> list[str]:
    """File names of the photos that an annotation JSON lists. Raises ValueError for another kind of file."""
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected annotations, but the file is not JSON ({error}).") from error
    if isinstance(content, dict) and "shapes" in content:
        return [_base(str(content.get("imagePath") or ""))]
    if isinstance(content, dict) and "images" in content:
        return [_base(str(row.get("file_name"))) for row in _rows(content, "images")]
    tasks = content if isinstance(content, list) else [content]
    if tasks and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        return [_base(next((value for value in task["data"].values() if isinstance(value, str)), "")) for task in tasks]
    raise ValueError("Expected annotations of COCO, LabelMe or Label Studio, but got another kind of JSON.")


def same_photo(one: str, other: str) -> bool:
    """Whether two file names mean the same photo, whatever a program changed when it took the file."""
    return _plain(one) == _plain(other)
