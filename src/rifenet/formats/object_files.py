"""Results as lists of objects: CSV, GeoJSON, YOLO's polygons, and XML for CVAT; and their files of many photos.

Coordinates are in pixels from the photo's top left corner, to the right and down; YOLO's are shares of the photo's
width and height.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rifenet.drawing.visualize import class_colour
from rifenet.files import write_atomically
from rifenet.formats.polygons import Corners, flattened, signed_area, trace_parts

TOLERANCE = 0.5  # pixels by which an outline may differ from the mask's, to save corners
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that XML cannot hold
DECIMALS = {"share": 6, "centroid_x": 2, "centroid_y": 2, "score": 4, "confidence": 4, "quality": 4}


class Found(Protocol):
    """The parts of `segmenting.result.Result` that these writers need."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; mask value i is the i-th."""
        ...

    @property
    def confidence(self) -> dict[str, float]:
        """Confidence of each class, in [0,1]."""
        ...

    @property
    def source(self) -> str:
        """Path of the photo; may be empty."""
        ...

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Index mask, [H,W]."""
        ...

    def instances(self, name: str) -> Sequence[Any]:
        """Objects of a class, each with its `box`, `part`, `area` and `score`."""
        ...

    def table(self) -> list[dict[str, Any]]:
        """A row for each object."""
        ...


class FoundRegion(NamedTuple):
    """An object, or all pixels of a class."""

    class_id: int
    name: str
    instance: int
    """Number of the object within its class, from 1; 0 for all pixels of the class."""
    box: tuple[int, int, int, int]
    """x, y, width, height."""
    part: NDArray[np.bool_]
    """Its pixels in the box, [h,w]."""
    score: float
    """Of the object, or the class's confidence, in [0,1]."""

    def outlines(self) -> list[list[Corners]]:
        """The outlines of each of its parts in the photo, the largest part first: the outer one, then the holes."""
        corner = np.array(self.box[:2], np.float64)
        parts = [[ring + corner for ring in rings] for rings in trace_parts(self.part, tolerance=TOLERANCE)]
        return sorted(parts, key=lambda rings: -abs(signed_area(rings[0])))


def regions(result: Found, objects: bool) -> Iterator[FoundRegion]:
    """The objects of a result, class by class; without `objects`, each class with pixels as one region."""
    for class_id, name in enumerate(result.classes, 1):
        if objects:
            for number, each in enumerate(result.instances(name), 1):
                yield FoundRegion(class_id, name, number, each.box, each.part, each.score)
            continue
        inside = result.mask == class_id
        if inside.any():
            rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
            top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
            box = (left, top, right - left, bottom - top)
            yield FoundRegion(class_id, name, 0, box, inside[top:bottom, left:right], result.confidence[name])


def rows_of(result: Found, quality: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of `Result.table`; `quality`: expected IoU of each class's mask, where it is known."""
    return [
        {
            "class": name,
            "instance": number,
            "area": each.area,
            "share": each.area / result.mask.size,
            "centroid_x": each.centroid[0],
            "centroid_y": each.centroid[1],
            **dict(zip(("x", "y", "width", "height"), each.box, strict=True)),
            "score": each.score,
            "confidence": result.confidence[name],
            "quality": quality.get(name),
        }
        for name in result.classes
        for number, each in enumerate(result.instances(name), 1)
    ]


def csv_of(result: Found) -> str:
    """The rows of `Result.table`, with the photo's name first, and a row of headings."""
    text = io.StringIO()
    columns = ["photo", "class", "instance", "area", "share", "centroid_x", "centroid_y"]
    columns += ["x", "y", "width", "height", "score", "confidence", "quality"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in result.table():
        rounded = {key: round(row[key], digits) for key, digits in DECIMALS.items() if row[key] is not None}
        writer.writerow({"photo": Path(result.source).name, **row, **rounded})
    return text.getvalue()


def geojson_of(result: Found, objects: bool) -> dict[str, Any]:
    """A feature for each region, in pixel coordinates; `classification` is what QuPath reads."""
    features = []
    for each in regions(result, objects):
        parts = [[_closed(ring) for ring in rings] for rings in each.outlines()]
        one = len(parts) == 1
        properties: dict[str, Any] = {"class": each.name, "area": int(np.count_nonzero(each.part))}
        properties |= {"instance": each.instance} if objects else {}
        properties |= {"score": round(each.score, 4), "objectType": "annotation"}
        properties["classification"] = {"name": each.name, "color": list(class_colour(each.class_id))}
        geometry = (
            {"type": "Polygon", "coordinates": parts[0]} if one else {"type": "MultiPolygon", "coordinates": parts}
        )
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _closed(ring: Corners) -> list[list[float]]:
    return flattened(np.concatenate([ring, ring[:1]]))


def yolo_of(result: Found, objects: bool) -> str:
    """A line for each object: its class, counted from 0, and its polygon. YOLO's lines have no holes.

    Without `objects`, a line for each connected part of a class.
    """
    height, width = result.mask.shape
    lines = []
    for each in regions(result, objects):
        parts = each.outlines()
        for outline, *_ in parts[:1] if objects else parts:
            shares = " ".join(f"{share:.6f}" for share in (outline / (width, height)).ravel())
            lines.append(f"{each.class_id - 1} {shares}\n")
    return "".join(lines)


def yolo_names(classes: Sequence[str]) -> str:
    """`data.yaml` of a YOLO dataset: the classes' names. JSON is YAML."""
    names = json.dumps(dict(enumerate(classes)), ensure_ascii=False)
    return f"path: .\ntrain: images\nval: images\nnames: {names}\n"


def cvat_of(result: Found, objects: bool) -> str:
    """XML of CVAT for images 1.1: a mask for each region."""
    return "".join(_cvat_pieces([_cvat_image(result, objects)], result.classes))


def _cvat_image(result: Found, objects: bool) -> ET.Element:
    height, width = result.mask.shape
    name = _NOT_XML.sub("\ufffd", Path(result.source).name)
    image = ET.Element("image", id="0", name=name, width=str(width), height=str(height))
    for each in regions(result, objects):
        runs = [(bool(value), sum(1 for _ in same)) for value, same in groupby(each.part.ravel().tolist())]
        counts = [length for _, length in runs]
        left, top, across, down = map(str, each.box)
        rle = ", ".join(map(str, [0, *counts] if runs[0][0] else counts))
        ET.SubElement(
            image,
            "mask",
            label=_NOT_XML.sub("\ufffd", each.name),
            source="auto",
            occluded="0",
            rle=rle,
            z_order="0",
            left=left,
            top=top,
            width=across,
            height=down,
        )
    return image


def _cvat_pieces(images: Iterable[ET.Element], classes: Sequence[str]) -> Iterator[str]:
    meta = ET.Element("meta")
    labels = ET.SubElement(ET.SubElement(meta, "task"), "labels")
    for class_id, name in enumerate(classes, 1):
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = _NOT_XML.sub("\ufffd", name)
        ET.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*class_colour(class_id))
        ET.SubElement(label, "type").text = "mask"
    yield f"<?xml version='1.0' encoding='utf-8'?>\n<annotations>\n<version>1.1</version>\n{_text(meta)}\n"
    for number, image in enumerate(images):
        image.set("id", str(number))
        yield f"{_text(image)}\n"
    yield "</annotations>\n"


def _text(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")


def merge_cvat(path: Path, files: Iterable[Path], classes: Sequence[str]) -> None:
    """Merges CVAT files of single photos into one that CVAT takes for a whole task. Raises OSError on a full disk."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8") as out:
            images = (image for file in files for image in ET.parse(file).getroot().iter("image"))
            out.writelines(_cvat_pieces(images, classes))

    write_atomically(path, write)


def merge_csv(path: Path, files: Iterable[Path]) -> None:
    """Merges CSV files of single photos, one row of headings first. Raises OSError on a full disk."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8") as out:
            for number, file in enumerate(files):
                heading, rows = file.read_text(encoding="utf-8").split("\n", 1)
                out.write(rows if number else f"{heading}\n{rows}")

    write_atomically(path, write)
