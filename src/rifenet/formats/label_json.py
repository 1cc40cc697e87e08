"""Reads the JSON of annotation tools: COCO, LabelMe, and Label Studio's export.

A JSON lists the shapes of a photo with their labels. `label_files` chooses among the shapes and draws only the chosen
ones. Coordinates are in pixels; Label Studio's percentages are converted.
"""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.brush_rle import decode_brush
from rifenet.formats.polygons import corners_of, fill_polygon
from rifenet.formats.remarks import remark
from rifenet.formats.run_lengths import Check, decode_runs, unchecked

SHAPE_FILES = (".json", ".xml")
"""Suffixes of files that list the shapes of photos."""

Parse = Callable[[str], Any]
"""Content of a JSON. Raises ValueError or RecursionError where it is none."""

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
    faults: tuple[str, ...] = ()
    """Why annotations of the photo are no shapes, a sentence for each."""


class Asked(NamedTuple):
    """What is looked for in a file of annotations."""

    photo: str
    """Path of the photo."""
    most_pixels: int
    size: tuple[int, int] | None
    """Height and width of the photo, if they are known."""
    file: str
    """What to call the file in messages."""


def parse_annotations(text: bytes, file: str = "the JSON", parse: Parse = json.loads) -> Any:
    """Content of an annotation JSON, for `annotations_of` and `photos_of`.

    `file`: what to call it in messages. `parse`: what to parse it with. Raises ValueError where it is no JSON.
    """
    try:
        return parse(_decoded(text, file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected annotations, but the file is not JSON ({error}).") from error


def annotations_of(
    content: Any, photo: str, most_pixels: int, size: tuple[int, int] | None = None, file: str = "the JSON"
) -> Annotated:
    """Annotations of the photo at the path `photo`; a JSON of only one photo is read whatever the name.

    `size`: height and width of the photo, for a JSON that lacks them. `file`: what to call the JSON in messages.
    Raises ValueError for an unknown kind of JSON, for a photo not in it, and for more than `most_pixels` pixels.
    """
    asked = Asked(photo, most_pixels, size, file)
    if isinstance(content, dict) and "shapes" in content:
        return _labelme(content, asked)
    if isinstance(content, dict) and "images" in content and "annotations" in content:
        return _coco(content, asked)
    tasks = content if isinstance(content, list) else [content]
    if tasks and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        return _label_studio(tasks, asked)
    raise ValueError(
        "Expected annotations of COCO (images, annotations, categories), LabelMe (shapes) or Label Studio (a list of"
        " tasks, exported as JSON, not JSON-MIN), but got none of them."
    )


def composed(text: str) -> str:
    """Text with accents as one character each (NFC): file systems and programs write them in two ways."""
    return unicodedata.normalize("NFC", text)


def whole(value: Any) -> int | None:
    """A whole number that a JSON may also write as 10.0 or "10"; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _decoded(text: bytes, file: str) -> str:
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return text.decode("utf-16")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = text.decode("gb18030")
    remark(file, "It is not in UTF-8 and was read as GB18030, which Chinese Windows writes. Save it in UTF-8.")
    return decoded


def size_of(height: Any, width: Any, asked: Asked) -> tuple[int, int]:
    """Height and width that a file says, or those of `asked` where it says none. Raises ValueError for others."""
    if asked.size is not None and not height and not width:  # null, 0 or missing
        return asked.size
    high, wide = whole(height), whole(width)
    if high is None or wide is None or min(high, wide) < 1:
        raise ValueError(f"Expected the photo's height and width in pixels, but got {height!r} and {width!r}.")
    if high * wide > asked.most_pixels:
        raise ValueError(f"Expected at most {asked.most_pixels:,} pixels, but got a photo of {wide} x {high}.")
    return high, wide


def one_of(asked: Asked, names: Sequence[str]) -> int:
    """Index of the only name, or of the name that matches the photo's."""
    photo, wanted = asked.photo, _plain(asked.photo)
    if len(names) == 1:
        if photo and names[0] and PurePosixPath(_plain(names[0])).stem != PurePosixPath(wanted).stem:
            remark(asked.file, f"It annotates {base_name(names[0])}, and was taken for {base_name(photo)}.")
        return 0
    places = [place for place, name in enumerate(names) if photo and _plain(name) == wanted]
    if not places:
        there = ", ".join(dict.fromkeys(map(base_name, names[:8]))) + (" and others" if len(names) > 8 else "")
        raise ValueError(
            f"Expected annotations of the photo {base_name(photo) or '(which has no file name)'}, but the file"
            f" annotates {there or 'none'}. Rename the photo, or choose the file that belongs to it."
        )
    shared = [_shared_folders(names[place], photo) for place in places]
    if shared.count(max(shared)) > 1:
        raise ValueError(
            f"Expected the photo {base_name(photo)} once, but the file has it {len(places)} times:"
            f" {', '.join(names[place] for place in places[:4])}. Give the photo with its folders, or rename it."
        )
    return places[shared.index(max(shared))]


def _shared_folders(name: str, photo: str) -> int:
    """How many folders above the file, from the last, are the same in both paths."""
    ours, theirs = (
        PurePosixPath(PureWindowsPath(composed(path).casefold()).as_posix()).parts[-2::-1] for path in (photo, name)
    )
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))


def base_name(path: str) -> str:
    """The last part of a path, of any system."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name


def _plain(name: str) -> str:
    """A file name to compare by: without folders and without the changes that Label Studio makes on upload."""
    return composed(_UPLOADED.sub("", base_name(unquote(name))).replace(" ", "_")).casefold()


def _rows(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"Expected a list of {key}, but got {str(rows)[:80]}.")
    return rows


def _coco(content: dict[str, Any], asked: Asked) -> Annotated:
    images, categories = _rows(content, "images"), _rows(content, "categories")
    names = {number: str(row.get("name")) for row in categories if (number := whole(row.get("id"))) is not None}
    image = images[one_of(asked, [str(row.get("file_name")) for row in images])]
    height, width = size_of(image.get("height"), image.get("width"), asked)
    shapes, faults = [], []
    for row in _rows(content, "annotations"):
        if not _same_id(row.get("image_id"), image.get("id")):
            continue
        category = whole(row.get("category_id"))
        if category is None or category not in names:
            faults.append(
                "Expected one of the file's categories, but an annotation has category_id"
                f" {str(row.get('category_id'))[:80]}."
            )
            continue
        draw = _coco_drawer(row.get("segmentation"), height, width, asked.file)
        shapes.append(Shape(names[category], category, bool(row.get("iscrowd")), draw))
    return Annotated(height, width, shapes, {name: number for number, name in names.items()}, tuple(faults))


def _same_id(one: Any, other: Any) -> bool:
    return bool(one == other or (whole(one) is not None and whole(one) == whole(other)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _coco_drawer(segmentation: Any, height: int, width: int, file: str) -> Callable[[Check], NDArray[Any]]:
    def draw(check: Check) -> NDArray[Any]:
        if isinstance(segmentation, dict):
            if [whole(each) for each in _listed(segmentation.get("size"))] != [height, width]:
                raise ValueError(
                    f"Expected run lengths of the size [{height}, {width}] (height, width) of the photo, but got"
                    f" {str(segmentation.get('size'))[:40]}."
                )
            return decode_runs(segmentation.get("counts") or [], height, width, check)
        if not isinstance(segmentation, list) or not segmentation:
            raise ValueError(f"Expected a segmentation (polygons or run lengths), but got {str(segmentation)[:80]}.")
        mask, faults = np.zeros((height, width), bool), []
        for polygon in segmentation:
            check()
            try:
                mask |= fill_polygon(corners_of(polygon, height, width), height, width)
            except ValueError as error:
                faults.append(error)
        if faults and not mask.any():
            raise faults[0]
        if faults:
            which = "polygon of an annotation was" if len(faults) == 1 else "polygons of an annotation were"
            remark(file, f"{len(faults)} {which} left out. The first: {faults[0]}")
        return mask

    return draw


def _labelme(content: dict[str, Any], asked: Asked) -> Annotated:
    height, width = size_of(content.get("imageHeight"), content.get("imageWidth"), asked)
    if isinstance(path := content.get("imagePath"), str):
        one_of(asked, [path])  # remarks on another name
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


def _label_studio(tasks: list[dict[str, Any]], asked: Asked) -> Annotated:
    names = [next((str(value) for value in task["data"].values() if isinstance(value, str)), "") for task in tasks]
    task = tasks[one_of(asked, names)]
    done = [row for row in _rows(task, "annotations") if not row.get("was_cancelled")]
    best = [row for row in done if row.get("ground_truth")] or done
    regions = [
        row
        for row in (_rows(best[-1], "result") if best else [])
        if _names(row.get("value")) and "original_width" in row
    ]
    if not regions:
        raise ValueError(
            f"Expected an annotation with brush or polygon labels of {base_name(names[0])}, but there is none."
        )
    height, width = (regions[0].get(key) for key in ("original_height", "original_width"))
    if any((row.get("original_height"), row["original_width"]) != (height, width) for row in regions):
        raise ValueError("Expected regions of one photo, but their heights and widths differ. Export the task again.")
    height, width = size_of(height, width, asked)
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


def photos_of(content: Any) -> list[str]:
    """File names of the photos that an annotation JSON lists. Raises ValueError for another kind of file."""
    if isinstance(content, dict) and "shapes" in content:
        return [base_name(str(content.get("imagePath") or ""))]
    if isinstance(content, dict) and "images" in content:
        return [base_name(str(row.get("file_name"))) for row in _rows(content, "images")]
    tasks = content if isinstance(content, list) else [content]
    if tasks and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        return [
            base_name(next((value for value in task["data"].values() if isinstance(value, str)), "")) for task in tasks
        ]
    raise ValueError("Expected annotations of COCO, LabelMe or Label Studio, but got another kind of JSON.")


def same_photo(one: str, other: str) -> bool:
    """Whether two file names mean the same photo, whatever a program changed when it took the file."""
    return _plain(one) == _plain(other)
