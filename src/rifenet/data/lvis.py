"""LVIS-92i: LVIS v1's own json over COCO 2017's photos, in ten folds (docs/data.md).

A class is a union of its objects, and classes overlap: a person in a jersey is a person there, too. So a pixel keeps
all its classes. Folds deal the classes that two photos of the test part show, as the published code does for one shot:
fold i has the (i+1)-th, (i+11)-th, ... of them in the order of the category ids, and all folds have the same number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rifenet.data.cache import cache_folder, read_scans, write_scans
from rifenet.data.coco import annotated_entries, categories_of, jobs_of, read_json
from rifenet.data.drawn import Drawn, MaskJob, draw_once
from rifenet.data.folds import Folds
from rifenet.data.index import ImageIndex, build_index

FOLDS = 10
_FEWEST = 2  # photos of a class in the test part: a query and a shot


def open_lvis(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    """Index of LVIS v1. Raises FileNotFoundError or ValueError, naming what is missing."""
    named = list_file if list_file.endswith(".json") else ""
    path = root / named if named else annotations_at(root, f"lvis_v1_{part}.json")
    tested = annotations_at(root, "lvis_v1_val.json")
    drawn = open_overlapping(path, progress)
    entries, bad = annotated_entries([drawn], root, "" if named else list_file)
    return build_index(
        entries,
        drawn.class_names,
        dealt([name for name, photos in photos_of(tested).items() if photos >= _FEWEST], drawn.class_names, FOLDS),
        root=root,
        dataset="lvis",
        list_name=list_file or path.name,
        bad_files=bad,
        progress=progress,
    )


def annotations_at(root: Path, name: str, *folders: str) -> Path:
    """The file of annotations below `root`. Raises FileNotFoundError naming the places."""
    places = [root / "annotations" / name, *(root / folder / name for folder in folders), root / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"Expected {name} in {places[0].parent} or {root}, but there is none.")
    return found


def open_overlapping(path: Path, progress: bool) -> Drawn:
    """The pictures of a json whose classes overlap. Class ids are in the order of category ids."""

    def read() -> tuple[Sequence[str], list[MaskJob], list[tuple[str, str]]]:
        content = read_json(path)
        for row in content["images"]:
            _with_file(row)
        categories = categories_of(path, content["categories"])
        return list(categories.values()), *jobs_of(path, content, list(categories), overlapping=True)

    if not path.is_file():
        raise FileNotFoundError(f"Expected LVIS's annotations at {path}, but there is no such file.")
    return draw_once(path, read, kind="overlapping", progress=progress)


def _with_file(row: dict[str, Any]) -> None:
    """LVIS names a photo by its address, which tells the part of COCO that has it: often not the part of LVIS."""
    if "file_name" not in row and isinstance(row.get("coco_url"), str):
        row["file_name"] = "/".join(PurePosixPath(row["coco_url"]).parts[-2:])


def photos_of(path: Path) -> dict[str, int]:
    """Class name -> number of photos with an annotation of it, for each category of a json in the order of the ids.

    Raises ValueError for a file that is no such json.
    """
    stat = path.stat()
    state = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    cache = cache_folder() / f"photos-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    rows = read_scans(cache, state)
    if rows is None:
        content = read_json(path)
        categories = categories_of(path, content["categories"])
        shown = {(row.get("category_id"), row.get("image_id")) for row in content["annotations"]}
        photos = Counter(category for category, _ in shown)
        rows = [[name, photos[category]] for category, name in categories.items()]
        write_scans(cache, state, rows)
    return {name: count for name, count in rows}


def dealt(dealt_names: Sequence[str], class_names: Sequence[str], folds: int) -> Folds:
    """Deals classes to folds in turn, the same number to each; the last few may be left over.

    Raises ValueError where they are fewer than the folds.
    """
    ids = {name: class_id for class_id, name in enumerate(class_names, start=1)}
    known = [ids[name] for name in dealt_names if name in ids]
    each = len(known) // folds
    if not each:
        raise ValueError(
            f"Expected at least {folds} classes that enough photos show, one for each fold, but got {len(known)}."
        )
    return tuple(tuple(known[fold + folds * turn] for turn in range(each)) for fold in range(folds))
