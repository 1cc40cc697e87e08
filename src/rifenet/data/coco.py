"""COCO-style annotations as mask files: draws the mask of every picture of a json once, as a PNG in the cache folder.

A picture with a broken annotation is left out and named: without the annotation its mask would be wrong. Mask values
1, 2, ... stand for the picture's own classes, its palette, so a byte is enough for any number of categories. The
palette includes classes shown only as a crowd or fully covered. They have 0 pixels, and `exclude_novel` leaves these
pictures out, too. `drawn` keeps the masks.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from rifenet.data.drawn import MOST_VALUES, Drawn, MaskJob, Picture, draw_once
from rifenet.data.image_lists import list_path, read_list
from rifenet.data.index import Entry

_MOST_PIXELS = 2**28
_WHOLE = {"id", "image_id", "category_id", "height", "width", "obj_ann_id"}


def open_annotations(path: Path, *, progress: bool = True) -> Drawn:
    """Reads the json at `path` and draws the masks that the cache lacks. Class ids are in the order of category ids.

    Raises FileNotFoundError, ValueError for a file that is no COCO json, and OSError where masks cannot be written.
    """

    def read() -> tuple[Sequence[str], list[MaskJob], list[tuple[str, str]]]:
        content = read_json(path)
        categories = categories_of(path, content["categories"])
        return list(categories.values()), *jobs_of(path, content, list(categories))

    if not path.is_file():
        raise FileNotFoundError(f"Expected COCO annotations at {path}, but there is no such file.")
    return draw_once(path, read, progress=progress)


def annotated_entries(
    annotations: Sequence[Drawn], root: Path, list_file: str
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries of all pictures, or of those whose photo is in `list_file`; (file, reason) of each picture left out."""
    entries: dict[str, Entry] = {}
    of_photo: dict[str, list[Entry]] = {}
    bad: list[tuple[str, str]] = []
    for source in annotations:
        year = source.path.stem.removeprefix("instances_")
        folders = [root / year, root / "images" / year, root / "images", root, root / "coco"]
        folders = [folder for folder in folders if folder.is_dir()]
        bad += source.bad_files
        for picture in source.pictures:
            forms = dict.fromkeys([picture.file_name, *(normalize(form, picture.file_name) for form in ("NFC", "NFD"))])
            paths = [folder / form for folder in folders for form in forms]
            path = next((path for path in paths if path.is_file()), paths[0])
            if picture.name in entries:
                bad.append((picture.file_name, f"Expected each file name once, but it is also in {source.path.name}."))
                continue
            mask = source.mask_path(picture)
            entries[picture.name] = Entry(
                picture.name, path, mask, picture.palette, layers=picture.layers, box=picture.box
            )
            of_photo.setdefault(PurePosixPath(picture.file_name).stem, []).append(entries[picture.name])
    if not list_file:
        return list(entries.values()), bad
    names = read_list(list_path(root, list_file))
    reasons = {PurePosixPath(file).stem: reason for file, reason in bad}
    unknown = "Expected an annotated image of this name, but there is none."
    missing = [(name, reasons.get(name, unknown)) for name in names if name not in of_photo]
    return [entry for name in names for entry in of_photo.get(name, ())], missing


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO json. Raises ValueError for another file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_packed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected COCO annotations, but {path} is not JSON: {error}.") from error
    for name in ("images", "annotations", "categories"):
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                f"Expected the lists images, annotations and categories in {path}, but {name} is no list of objects."
            )
    return content


def _packed(row: dict[str, Any]) -> dict[str, Any]:
    """Packs polygons into arrays while the json is parsed: as Python floats, COCO's polygons take gigabytes.

    Ids and sizes become whole numbers.
    """
    if isinstance(polygons := row.get("segmentation"), list):
        with suppress(TypeError):  # drawing will report a broken polygon
            row["segmentation"] = [array("d", polygon) for polygon in polygons]
    for key in _WHOLE & row.keys():
        if isinstance(value := row[key], float) and value.is_integer():
            row[key] = int(value)  # programs that know no other numbers write 10.0
    return row


def categories_of(path: Path, rows: list[dict[str, Any]]) -> dict[int, str]:
    """Category id -> name, in the order of the ids. Raises ValueError for a row without its own number and name."""
    proper = all(
        type(row.get("id")) is int and isinstance(row.get("name"), str) and row["name"].strip() for row in rows
    )
    named: dict[int, str] = {row["id"]: row["name"] for row in rows} if proper else {}
    if not rows or not proper or len(set(named.values())) < len(rows):
        raise ValueError(
            f"Expected categories in {path}, each with its own number (id) and name, but got {str(rows)[:200]}."
        )
    return {key: name.strip() for key, name in sorted(named.items())}


def jobs_of(
    path: Path, content: dict[str, list[dict[str, Any]]], categories: list[int], *, overlapping: bool = False
) -> tuple[list[MaskJob], list[tuple[str, str]]]:
    """All pictures that can be drawn, in the json's order, and (file, reason) of the others.

    `categories`: the ids in the order of the class ids. `overlapping`: pixels keep all their classes (`MaskJob`).
    """
    class_ids = {category: class_id for class_id, category in enumerate(categories, start=1)}
    drawn_on: dict[Any, list[dict[str, Any]]] = {
        row["id"]: [] for row in content["images"] if type(row.get("id")) is int
    }
    lost = 0
    for annotation in content["annotations"]:
        owner = annotation.get("image_id")
        if type(owner) is int and owner in drawn_on:
            drawn_on[owner].append(annotation)
        else:
            lost += 1
    bad = [(path.name, f"Expected annotations of listed images, but {lost} have another image_id.")] if lost else []
    jobs: list[MaskJob] = []
    names: set[str | int] = set()
    for row in content["images"]:
        fault = fault_of(row)
        if not fault:
            annotations = drawn_on[row["id"]]
            category_ids = {item.get("category_id") for item in annotations if type(item.get("category_id")) is int}
            palette = sorted(class_id for category, class_id in class_ids.items() if category in category_ids)
            name = PurePosixPath(row["file_name"]).stem
            picture = Picture(row["id"], row["file_name"], name, () if overlapping else tuple(palette))
            if names & {picture.name, picture.image_id}:
                fault = f"Expected each file name and id once in {path.name}, but an earlier image has the same."
            elif len(palette) > MOST_VALUES and not overlapping:
                fault = f"Expected at most {MOST_VALUES} classes in one picture, but got {len(palette)}."
        if fault:
            bad.append((str(row.get("file_name") or f"image {row.get('id')}"), fault))
        else:
            names |= {picture.name, picture.image_id}
            values = {categories[class_id - 1]: value for value, class_id in enumerate(palette, start=1)}
            jobs.append(
                MaskJob(
                    picture, row["height"], row["width"], class_ids if overlapping else values, annotations, overlapping
                )
            )
    return jobs, bad


def fault_of(row: dict[str, Any]) -> str:
    """Why a row of `images` is unusable; empty for a usable row."""
    file: Any = row.get("file_name")
    numbers: list[Any] = [row.get(key) for key in ("id", "height", "width")]
    if not isinstance(file, str) or not PurePosixPath(file).stem or "\0" in file:
        return f"Expected a file_name, but got {file!r}."
    if not all(type(number) is int for number in numbers) or min(numbers[1:]) < 1:
        return f"Expected whole numbers as id, height and width, but got {numbers}."
    if numbers[1] * numbers[2] > _MOST_PIXELS:
        return f"Expected at most {_MOST_PIXELS:,} pixels, but got height and width {numbers[1:]}."
    return ""
