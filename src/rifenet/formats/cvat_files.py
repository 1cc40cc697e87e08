"""CVAT's own files: reads its XML, reads and writes its segmentation masks. `object_files` writes the XML.

*CVAT for images 1.1* is an XML of all photos of a task with their shapes. *Segmentation mask 1.1* is a folder in the
layout of Pascal VOC, with a colour for each class, which `labelmap.txt` names:

    JPEGImages/a.jpg   SegmentationClass/a.png   SegmentationObject/a.png   ImageSets/Segmentation/default.txt
    labelmap.txt       lines NAME:R,G,B:: of a class each
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.label_json import Annotated, Asked, Shape, composed, one_of, size_of
from rifenet.formats.object_files import Found, regions
from rifenet.formats.polygons import corners_of, fill_polygon
from rifenet.formats.run_lengths import Check

XML = ".xml"
CLASSES, OBJECTS, LABELMAP = "SegmentationClass", "SegmentationObject", "labelmap.txt"
LIST = "ImageSets/Segmentation/default.txt"
_SHAPES = ("polygon", "mask", "box", "ellipse")
_OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton")
_RIM = 256  # corners that an ellipse is drawn with


def read_cvat(text: bytes, asked: Asked) -> Annotated:
    """The shapes of one photo in an XML of *CVAT for images 1.1*; boxes and ellipses count as areas, too.

    Raises ValueError for another kind of XML, and for a photo that is not in it.
    """
    root = _root(text)
    images = root.findall("image")
    image = images[one_of(asked, [each.get("name", "") for each in images])]
    height, width = size_of(image.get("height"), image.get("width"), asked)
    rows = [row for row in image if row.tag in (*_SHAPES, *_OTHER_SHAPES)]
    rows.sort(key=lambda row: _whole(row.get("z_order", "0"), "z_order"))  # what lies above comes later
    shapes = [Shape(_label(row), None, False, partial(_drawn, row, height, width)) for row in rows]
    names = [name.text or "" for name in root.iterfind("meta/*/labels/label/name")]
    return Annotated(height, width, shapes, dict.fromkeys([*names, *(shape.label for shape in shapes)]))


def annotated_photos(path: Path, name: str) -> list[str]:
    """Names of the photos in which an XML has shapes of the class; of those with any shapes where none has it.

    Raises ValueError for another kind of XML.
    """
    rows = [
        (image.get("name", ""), {_folded(_label(row)) for row in image if row.tag in _SHAPES})
        for image in _root(path.read_bytes()).findall("image")
    ]
    own = [photo for photo, labels in rows if _folded(name) in labels]
    return own or [photo for photo, labels in rows if labels]


def _root(text: bytes) -> ET.Element:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities may name other files, or grow without end
        raise ValueError("Expected the XML of CVAT for images 1.1, without a document type, but got one with it.")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"Expected the XML of CVAT for images 1.1, but the file cannot be read: {error}.") from error
    if root.tag == "annotations" and root.find("track") is not None:
        raise ValueError("Expected the XML of CVAT for images 1.1, but got that for video. Export the task as images.")
    if root.tag != "annotations" or root.find("image") is None:
        raise ValueError(
            f"Expected the XML of CVAT for images 1.1 (annotations of images), but got one of {root.tag[:40]!r}."
        )
    return root


def _label(row: ET.Element) -> str:
    return row.get("label", "")


def _folded(name: str) -> str:
    return composed(name.strip()).casefold()


def _number(text: str | None, what: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"Expected a number as {what}, but got {text!r}.") from None


def _whole(text: str | None, what: str) -> int:
    number = _number(text, what)
    if not number.is_integer():  # also NaN and infinity
        raise ValueError(f"Expected a whole number as {what}, but got {text!r}.")
    return int(number)


def _drawn(row: ET.Element, height: int, width: int, check: Check) -> NDArray[np.bool_]:
    """Mask [height, width] of a shape."""
    check()
    if row.tag == "mask":
        return _of_runs(row, height, width, check)
    if row.tag == "polygon":
        corners = [[_number(each, "a corner") for each in pair.split(",")] for pair in row.get("points", "").split(";")]
    elif row.tag == "box":
        left, top, right, bottom = (_number(row.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    elif row.tag == "ellipse":
        x, y, across, down = (_number(row.get(key), key) for key in ("cx", "cy", "rx", "ry"))
        angles = np.linspace(0, 2 * np.pi, _RIM, endpoint=False)
        corners = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1).tolist()
    else:
        raise ValueError(f"Expected a polygon, mask, box or ellipse, but got a {row.tag}. Mark the object's area.")
    turn = _number(row.get("rotation", "0"), "rotation")
    return fill_polygon(_turned(corners_of(corners, height, width), turn), height, width)


def _turned(corners: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Corners turned about the middle of their box, clockwise as seen on a screen."""
    if not degrees:
        return corners
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return middle + (corners - middle) @ np.array([[cosine, sine], [-sine, cosine]])


def _of_runs(row: ET.Element, height: int, width: int, check: Check) -> NDArray[np.bool_]:
    """A mask from run lengths of zeros, ones, zeros, ..., row by row in its box."""
    left, top, across, down = (_whole(row.get(key), key) for key in ("left", "top", "width", "height"))
    if min(across, down) < 1 or not (0 <= left <= width - across and 0 <= top <= height - down):
        raise ValueError(f"Expected a mask within the photo of {width} x {height} px, but it goes beyond the edge.")
    runs = [_whole(run, "a run length") for run in row.get("rle", "").split(",")]
    check()
    if min(runs) < 0 or sum(runs) != across * down:
        raise ValueError(f"Expected run lengths that add up to {across} x {down} pixels, but they do not.")
    mask = np.zeros((height, width), bool)
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + down, left : left + across] = part.reshape(down, across)
    return mask


def colour_of(mask: Path, label: str) -> str | None:
    """Colour #rrggbb of a label in the mask of a photo, by the `labelmap.txt` that belongs to it; None without one.

    Raises ValueError for a label that is not in it.
    """
    listed = mask.parent.parent / LABELMAP
    if mask.parent.name != CLASSES or not listed.is_file():
        return None
    colours: dict[str, str] = {}
    for line in listed.read_text(encoding="utf-8").splitlines():
        name, colour, *_ = [*line.strip().split(":"), "", ""]
        if not name.startswith("#") and re.fullmatch(r"\d{1,3},\d{1,3},\d{1,3}", colour):
            colours[name] = "#{:02x}{:02x}{:02x}".format(*map(int, colour.split(",")))
    found = [colour for name, colour in colours.items() if _folded(name) == _folded(label)]
    if not found:
        raise ValueError(
            f"Expected the label {label!r} in {listed}, but it has {', '.join(colours) or 'none'}. Choose a label:"
            f" label=... in Python, --label '{label}=...' on the command line."
        )
    return found[0]


def shows_colour(mask: Path, colour: str) -> bool:
    """Whether a mask has pixels of a colour #rrggbb."""
    with Image.open(mask) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return bool((pixels == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(axis=2).any())


def class_picture(result: Found) -> Image.Image:
    """The mask of a result in the colours of `labelmap`."""
    colours = np.array([voc_colour(number) for number in range(len(result.classes) + 1)], np.uint8)
    return Image.fromarray(colours[result.mask])


def object_picture(result: Found) -> Image.Image:
    """Each object of a result in a colour of its own, as Pascal VOC colours numbers; at most 255 objects.

    Raises ValueError for more.
    """
    mask = np.zeros((*result.mask.shape, 3), np.uint8)
    for number, each in enumerate(regions(result, objects=True), 1):
        if number > 255:
            raise ValueError(
                f"Expected at most 255 objects in a photo, as many as segmentation masks hold, but {result.source} has"
                " more. Take cvat, which has no such limit."
            )
        left, top, across, down = each.box
        mask[top : top + down, left : left + across][each.part] = voc_colour(number)
    return Image.fromarray(mask)


def voc_colour(number: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a number: its lowest three bits are the highest of red, green and blue, and so on."""
    red = green = blue = 0
    for place in range(8):
        bits = number >> (3 * place)
        red |= (bits & 1) << (7 - place)
        green |= (bits >> 1 & 1) << (7 - place)
        blue |= (bits >> 2 & 1) << (7 - place)
    return red, green, blue


def labelmap(classes: Sequence[str]) -> str:
    """Content of `labelmap.txt`."""
    rows = [f"{name}:{','.join(map(str, voc_colour(number)))}::" for number, name in enumerate(classes, 1)]
    return "\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *rows, ""])


def mask_list(masks: Iterable[Path]) -> str:
    """Content of `ImageSets/Segmentation/default.txt`: the name of each photo without its ending."""
    return "".join(f"{mask.stem}\n" for mask in masks)
