"""Writes results as files for other programs: masks, overlays, cut-outs, COCO and LabelMe; one page of many photos.

The files of one photo are built in memory. `merge_coco` and `write_page` combine them into files of many photos, one
photo at a time.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.drawing import visualize
from rifenet.files import write_atomically
from rifenet.formats.polygons import flattened, trace_polygons
from rifenet.formats.run_lengths import encode_runs, pack_runs

FORMATS = ("index", "binary", "overlay", "coco", "labelme", "cutout")
DEFAULT = ("index", "overlay")
TOLERANCE = 0.5  # pixels by which a LabelMe outline may differ from the mask's, to save corners
THUMBNAIL = 360


class Segmented(Protocol):
    """The parts of `segmenting.result.Result` that the writers need."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """The photo, [H,W,3]."""
        ...

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

    def overlay(self) -> Image.Image:
        """The photo with the mask drawn over it."""
        ...


def check_formats(formats: Sequence[str], known: Sequence[str] = FORMATS) -> tuple[str, ...]:
    """The formats without repeats. Raises ValueError for an empty list and for unknown formats."""
    if isinstance(formats, str) or not formats or (wrong := [each for each in formats if each not in known]):
        got = repr(formats) if isinstance(formats, str) or not formats else ", ".join(map(repr, wrong))
        raise ValueError(f"Expected formats among {', '.join(known)}, but got {got}.")
    return tuple(dict.fromkeys(formats))


def encoded(result: Segmented, stem: str, formats: Sequence[str], folder: Path) -> dict[str, tuple[str, bytes]]:
    """Files of one result, by kind (`mask`, `binary:dog`, ...): name and content.

    `folder`: where the files will be saved. A LabelMe file gives the photo's path relative to it.
    """
    files: dict[str, tuple[str, bytes]] = {}
    for each in check_formats(formats):
        files |= _WRITERS[each](result, stem, folder)
    return files


def endings(classes: Sequence[str], formats: Sequence[str]) -> list[str]:
    """What `Result.save` adds to a stem in the names of its files, of all formats and of the record."""
    parts = _name_parts(classes).values() if "binary" in formats else ()
    fixed = (".json", "_mask.png", "_overlay.jpg", "_cutout.png", "_coco.json", "_labelme.json")
    return [*fixed, *(f"_{part}.png" for part in parts)]


def _index(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    return {"mask": (f"{stem}_mask.png", picture_bytes(visualize.mask_image(result.mask), "PNG"))}


def _overlay(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    return {"overlay": (f"{stem}_overlay.jpg", picture_bytes(result.overlay(), "JPEG", quality=90))}


def _binary(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    """A black-and-white PNG for each class; all black for an absent class."""
    return {
        f"binary:{name}": (f"{stem}_{part}.png", picture_bytes(Image.fromarray(result.mask == number), "PNG"))
        for number, (name, part) in enumerate(_name_parts(result.classes).items(), 1)
    }


def _cutout(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    """The photo with a transparent background."""
    alpha = np.where(result.mask > 0, np.uint8(255), np.uint8(0))
    picture = Image.fromarray(result.image)
    picture.putalpha(Image.fromarray(alpha))
    return {"cutout": (f"{stem}_cutout.png", picture_bytes(picture, "PNG"))}


def _coco(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    content = json.dumps(coco_of(result), indent=1)
    return {"coco": (f"{stem}_coco.json", f"{content}\n".encode())}


def _labelme(result: Segmented, stem: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    content = json.dumps(labelme_of(result, folder), indent=1)
    return {"labelme": (f"{stem}_labelme.json", f"{content}\n".encode())}


_WRITERS: dict[str, Callable[[Segmented, str, Path], dict[str, tuple[str, bytes]]]] = {
    "index": _index,
    "binary": _binary,
    "overlay": _overlay,
    "coco": _coco,
    "labelme": _labelme,
    "cutout": _cutout,
}


def coco_of(result: Segmented, image_id: int = 1) -> dict[str, Any]:
    """Content of a COCO file of one photo: run lengths of each class shown; `score` is the class's confidence."""
    height, width = result.mask.shape
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(result.classes, 1):
        inside = result.mask == number
        if not inside.any():
            continue
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": number,
                "segmentation": {"size": [height, width], "counts": pack_runs(encode_runs(inside))},
                "area": int(np.count_nonzero(inside)),
                "bbox": [int(each) for each in box],
                "iscrowd": 0,
                "score": round(result.confidence[name], 4),
            }
        )
    return {
        "images": [{"id": image_id, "file_name": Path(result.source).name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(result.classes, 1)],
    }


def labelme_of(result: Segmented, folder: Path, *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Content of a LabelMe file: a polygon for each part of a class, with holes joined to their outline."""
    shapes: list[dict[str, Any]] = [
        {"label": name, "points": flattened(corners), "group_id": None, "shape_type": "polygon", "flags": {}}
        for number, name in enumerate(result.classes, 1)
        for corners in trace_polygons(result.mask == number, tolerance=tolerance)
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


def write_page(path: Path, records: Iterable[Mapping[str, Any]], *, title: str) -> None:
    """Writes a contact sheet as one HTML file that contains its pictures. Raises OSError on a full disk.

    `records` come from `Result.to_dict` and are read one at a time. Each has an `overlay` among its `files`, in the
    folder of the page.
    """

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="backslashreplace") as out:  # of names that are not UTF-8
            out.write(visualize.page_head(title) + f"<h1>{html.escape(title)}</h1>")
            for number, record in enumerate(records):
                if number == 0:
                    out.write(_legend(record) + "<div class=sheet>")
                out.write(_card(record, path.parent))
            out.write("</div></main></body></html>\n")

    write_atomically(path, write)


def _legend(record: Mapping[str, Any]) -> str:
    spans = (f"<span>{visualize.swatch(each['id'])}{html.escape(each['name'])}</span>" for each in record["classes"])
    return f"<div class=legend>{''.join(spans)}</div>"


def _card(record: Mapping[str, Any], folder: Path) -> str:
    with Image.open(folder / record["files"]["overlay"]) as picture:
        picture.draft("RGB", (THUMBNAIL, THUMBNAIL))
        shown = picture.convert("RGB")
    found = [f"{each['name']} {each['confidence']:.2f}" for each in record["classes"] if each["present"]]
    caption = f"{Path(record['query']).name}: {', '.join(found) or 'none of the classes'}"
    return visualize.figure(visualize.Figure(shown, caption), THUMBNAIL)


def picture_bytes(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture encoded as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()
