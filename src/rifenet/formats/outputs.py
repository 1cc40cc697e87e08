"""Writes results as files for other programs: masks, overlays, cut-outs, COCO, LabelMe and lists of objects.

The files of one photo are built in memory. `write_together` combines them into files of many photos, one photo at a
time.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.drawing import visualize
from rifenet.files import write_atomically
from rifenet.formats.cvat_files import CLASSES, OBJECTS, class_picture, object_picture
from rifenet.formats.object_files import TOLERANCE, Found, csv_of, cvat_of, geojson_of, regions, yolo_of
from rifenet.formats.polygons import flattened, trace_polygons
from rifenet.formats.run_lengths import encode_part, pack_runs

FORMATS = ("index", "binary", "overlay", "coco", "labelme", "cutout", "csv", "geojson", "yolo", "cvat", "cvat_masks")
DEFAULT = ("index", "overlay")
NO_GPKG = (
    "GeoPackage (gpkg) needs a scene with a place on the map: a GeoTIFF or a VRT, and rifenet[geo]. Take geojson,"
    " which is in pixel coordinates, for photos."
)


class Segmented(Found, Protocol):
    """The parts of `segmenting.result.Result` that the writers need."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """The photo, [H,W,3]."""
        ...

    def overlay(self, *, objects: bool = False) -> Image.Image:
        """The photo with the mask drawn over it."""
        ...


def check_formats(formats: Sequence[str], known: Sequence[str] = FORMATS) -> tuple[str, ...]:
    """The formats without repeats. Raises ValueError for an empty list and for unknown formats."""
    if isinstance(formats, str) or not formats or (wrong := [each for each in formats if each not in known]):
        got = repr(formats) if isinstance(formats, str) or not formats else ", ".join(map(repr, wrong))
        hint = f" {NO_GPKG}" if "gpkg" in formats else ""
        raise ValueError(f"Expected formats among {', '.join(known)}, but got {got}.{hint}")
    return tuple(dict.fromkeys(formats))


Files = dict[str, tuple[str, bytes]]
"""Files of a result by kind (`mask`, `binary:dog`, ...): name and content."""


def encoded(result: Segmented, stem: str, formats: Sequence[str], folder: Path, *, objects: bool = False) -> Files:
    """Files of one result.

    Args:
        result: what was found.
        stem: how their names begin.
        formats: which files.
        folder: where the files will be saved. A LabelMe file gives the photo's path relative to it.
        objects: tell objects apart in the overlay, COCO, LabelMe, GeoJSON, YOLO and both formats of CVAT.
    """
    files: Files = {}
    for each in check_formats(formats):
        files |= _WRITERS[each](result, stem, folder, objects)
    return files


def endings(classes: Sequence[str], formats: Sequence[str]) -> list[str]:
    """What `Result.save` adds to a stem in the names of its files, of all formats and of the record."""
    parts = _name_parts(classes).values() if "binary" in formats else ()
    json_files = (".json", "_coco.json", "_labelme.json", ".geojson")
    fixed = (*json_files, "_mask.png", "_overlay.jpg", "_cutout.png", "_table.csv", ".txt", "_cvat.xml")
    return [*fixed, *(f"_{part}.png" for part in parts)]


def _index(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    return {"mask": (f"{stem}_mask.png", picture_bytes(visualize.mask_image(result.mask), "PNG"))}


def _overlay(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    return {"overlay": (f"{stem}_overlay.jpg", picture_bytes(result.overlay(objects=objects), "JPEG", quality=90))}


def _binary(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    """A black-and-white PNG for each class; all black for an absent class."""
    return {
        f"binary:{name}": (f"{stem}_{part}.png", picture_bytes(Image.fromarray(result.mask == number), "PNG"))
        for number, (name, part) in enumerate(_name_parts(result.classes).items(), 1)
    }


def _cutout(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    """The photo with a transparent background."""
    alpha = np.where(result.mask > 0, np.uint8(255), np.uint8(0))
    picture = Image.fromarray(result.image)
    picture.putalpha(Image.fromarray(alpha))
    return {"cutout": (f"{stem}_cutout.png", picture_bytes(picture, "PNG"))}


def _coco(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    content = json.dumps(coco_of(result, objects=objects), indent=1)
    return {"coco": (f"{stem}_coco.json", f"{content}\n".encode())}


def _labelme(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    content = json.dumps(labelme_of(result, folder, objects=objects), indent=1)
    return {"labelme": (f"{stem}_labelme.json", f"{content}\n".encode())}


def _csv(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    """A row for each object, also without `objects`."""
    return {"csv": (f"{stem}_table.csv", csv_of(result).encode(errors="backslashreplace"))}


def _geojson(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    content = json.dumps(geojson_of(result, objects))
    return {"geojson": (f"{stem}.geojson", f"{content}\n".encode())}


def _yolo(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    return {"yolo": (f"labels/{stem}.txt", yolo_of(result, objects).encode())}


def _cvat(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    return {"cvat": (f"{stem}_cvat.xml", cvat_of(result, objects).encode())}


def _cvat_masks(result: Segmented, stem: str, folder: Path, objects: bool) -> Files:
    """The classes in their colours, and with `objects` each object in one of its own."""
    files = {"cvat_masks": (f"{CLASSES}/{stem}.png", picture_bytes(class_picture(result), "PNG"))}
    if objects:
        files["cvat_masks:objects"] = (f"{OBJECTS}/{stem}.png", picture_bytes(object_picture(result), "PNG"))
    return files


_WRITERS: dict[str, Callable[[Segmented, str, Path, bool], Files]] = {
    "index": _index,
    "binary": _binary,
    "overlay": _overlay,
    "coco": _coco,
    "labelme": _labelme,
    "cutout": _cutout,
    "csv": _csv,
    "geojson": _geojson,
    "yolo": _yolo,
    "cvat": _cvat,
    "cvat_masks": _cvat_masks,
}


def coco_of(result: Segmented, image_id: int = 1, *, objects: bool = False) -> dict[str, Any]:
    """Content of a COCO file of one photo: run lengths of each class shown, or of each object.

    `score` is the class's confidence, or the object's score.
    """
    height, width = result.mask.shape
    annotations: list[dict[str, Any]] = []
    for each in regions(result, objects):
        left, top, *_ = each.box
        runs = encode_part(each.part, left, top, height, width)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": each.class_id,
                "segmentation": {"size": [height, width], "counts": pack_runs(runs)},
                "area": int(np.count_nonzero(each.part)),
                "bbox": list(each.box),
                "iscrowd": 0,
                "score": round(each.score, 4),
            }
        )
    return {
        "images": [{"id": image_id, "file_name": Path(result.source).name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(result.classes, 1)],
    }


def labelme_of(
    result: Segmented, folder: Path, *, objects: bool = False, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Content of a LabelMe file: a polygon for each part of a class, with holes joined to their outline.

    With `objects`, `group_id` is the object's number within its class.
    """
    shapes: list[dict[str, Any]] = [
        {
            "label": each.name,
            "points": flattened(corners + np.array(each.box[:2])),
            "group_id": each.instance or None,
            "shape_type": "polygon",
            "flags": {},
        }
        for each in regions(result, objects)
        for corners in trace_polygons(each.part, tolerance=tolerance)
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": _way(Path(result.source), folder) if result.source else "",
        "imageData": None,
        "imageHeight": result.mask.shape[0],
        "imageWidth": result.mask.shape[1],
    }


def _way(file: Path, folder: Path) -> str:
    """Path from the folder to the file, with slashes; the absolute path if the file is on another drive."""
    try:
        return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return file.resolve().as_posix()


def _name_parts(classes: Sequence[str]) -> dict[str, str]:
    """A unique part of a file name for each class, also for file systems that ignore case."""
    parts: dict[str, str] = {}
    taken = {"mask", "overlay", "cutout", "coco", "labelme"}
    for number, name in enumerate(classes, 1):
        plain = re.sub(r"[^\w.-]+", "_", name).strip("._")[:40]
        parts[name] = plain if plain and plain.casefold() not in taken else f"{plain or 'class'}_{number}"
        taken.add(parts[name].casefold())
    return parts


def merge_coco(path: Path, files: Iterable[Path]) -> None:
    """Merges COCO files of single photos with the same classes into one file. Raises OSError on a full disk."""

    def write(target: Path) -> None:
        kept = target.with_suffix(".annotations")  # images come first, so annotations wait in a second file
        try:
            with target.open("w", encoding="utf-8") as out, kept.open("w+", encoding="utf-8") as later:
                _merge(out, later, files)
        finally:
            kept.unlink(missing_ok=True)

    write_atomically(path, write)


def _merge(out: IO[str], later: IO[str], files: Iterable[Path]) -> None:
    categories: list[dict[str, Any]] = []
    total = 0
    out.write('{"images": [')
    for image_id, file in enumerate(files, 1):
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = content["categories"]
        out.write((",\n" if image_id > 1 else "\n") + json.dumps({**content["images"][0], "id": image_id}))
        for row in content["annotations"]:
            total += 1
            later.write((",\n" if total > 1 else "\n") + json.dumps({**row, "id": total, "image_id": image_id}))
    out.write('\n],\n"annotations": [')
    later.seek(0)
    while chunk := later.read(2**20):
        out.write(chunk)
    out.write(f'\n],\n"categories": {json.dumps(categories)}\n}}\n')


def picture_bytes(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture encoded as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()
