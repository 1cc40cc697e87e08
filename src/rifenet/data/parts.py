"""PACO-Part and PASCAL-Part: the parts of an object, inside the box of the object (docs/data.md).

An image is the box of one object, and its classes are the object's parts, which may overlap. It is called
`PHOTO~OBJECT`. Supports of an episode come from other photos than the query, and from different ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rifenet.data.coco import annotated_entries, categories_of, fault_of, read_json
from rifenet.data.drawn import Drawn, MaskJob, PhotoBox, Picture, draw_once
from rifenet.data.folds import Folds
from rifenet.data.index import ImageIndex, build_index
from rifenet.data.lvis import annotations_at, dealt, photos_of

PACO_FOLDS = 4
PASCAL_GROUPS = ("animals", "indoor", "person", "vehicles")
"""Fold i of PASCAL-Part tests the parts of group i."""
PASCAL_LEFT_OUT = "aeroplane+TAIL"
"""A class that the published code leaves out."""
_LISTS = "all_obj_part_to_image.json"
_OBJECTS = "Annotations_Part_json_merged_part_classes"
_FAR = 1e9  # pixels
_Bad = list[tuple[str, str]]


def open_paco(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    """Index of PACO-LVIS, whose parts have an annotation of their own with the number of their object.

    The folds deal the parts that the training json shows. Raises FileNotFoundError or ValueError.
    """
    named = list_file if list_file.endswith(".json") else ""
    path = root / named if named else annotations_at(root, f"paco_lvis_v1_{part}.json", "paco")
    trained = annotations_at(root, "paco_lvis_v1_train.json", "paco")
    if not path.is_file():
        raise FileNotFoundError(f"Expected PACO's annotations at {path}, but there is no such file.")
    drawn = draw_once(path, lambda: _paco_jobs(path), kind="parts", progress=progress)
    shown = [name for name, photos in photos_of(trained).items() if photos]
    entries, bad = annotated_entries([drawn], root, "" if named else list_file)
    folds = dealt(shown, drawn.class_names, PACO_FOLDS)
    return _index("paco_part", root, list_file or path.name, drawn, folds, entries, bad, progress)


def _paco_jobs(path: Path) -> tuple[Sequence[str], list[MaskJob], _Bad]:
    content = read_json(path)
    names = categories_of(path, [row for row in content["categories"] if row.get("supercategory") == "PART"])
    class_ids = {category: class_id for class_id, category in enumerate(names, start=1)}
    photos = {row.get("id"): row for row in content["images"]}
    objects = {row.get("id"): row for row in content["annotations"] if row.get("id") == row.get("obj_ann_id")}
    jobs: dict[int, MaskJob] = {}
    bad: _Bad = []
    for row in (row for row in content["annotations"] if row.get("category_id") in class_ids):
        number: Any = row.get("obj_ann_id")
        photo = photos.get(row.get("image_id"), {})
        whole = objects.get(number)
        if whole is None or whole.get("image_id") != row.get("image_id"):
            file = str(photo.get("file_name") or f"image {row.get('image_id')}")
            bad.append(
                (file, f"Expected the object {number} of part {row.get('id')} in this image, but it is not there.")
            )
        elif number in jobs:
            jobs[number].annotations.append(row)
        elif fault := fault_of(photo) or _fault_of_box(whole.get("bbox")):
            bad.append((str(photo.get("file_name") or f"image {row.get('image_id')}"), fault))
        else:
            left, top, wide, high = whole["bbox"]
            box = _within((left, top, left + wide, top + high), photo["height"], photo["width"])
            name = f"{PurePosixPath(photo['file_name']).stem}~{number}"
            picture = Picture(photo["id"], photo["file_name"], name, box=box)
            jobs[number] = MaskJob(picture, photo["height"], photo["width"], class_ids, [row], overlapping=True)
    return list(names.values()), list(jobs.values()), list(dict.fromkeys(bad))


def _fault_of_box(box: Any) -> str:
    """Why a box [left, top, width, height] is unusable; empty for a usable one."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if numbers and all(abs(side) < _FAR for side in box):
        return ""
    return f"Expected the object's box as [left, top, width, height], but got {box!r}."


def _within(corners: tuple[float, float, float, float], height: int, width: int) -> PhotoBox:
    """The box in whole pixels, cut off at the photo's edge, as the published code cuts it out: rounded down."""
    left, top, right, bottom = map(int, corners)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


class _PascalPart(NamedTuple):
    """A class of PASCAL-Part."""

    group: int
    thing: str
    part: str
    photos: Mapping[str, Sequence[str]]
    """By "train" and "val"."""

    @property
    def name(self) -> str:
        return f"{self.thing}+{self.part}"


def open_pascal_part(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    """Index of PASCAL-Part, from a list of photos for each part and a json of objects for each photo.

    Raises FileNotFoundError or ValueError.
    """
    below = [root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"]
    folder = next((place for place in below if (place / _LISTS).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"Expected {_LISTS} in {root} or in VOCdevkit/VOC2010 below it, but there is none.")
    path = folder / _LISTS
    classes = _pascal_classes(path)
    folds = tuple(
        tuple(class_id for class_id, each in enumerate(classes, start=1) if each.group == group)
        for group in range(len(PASCAL_GROUPS))
    )
    files = {photo: folder / _OBJECTS / f"{photo}.json" for each in classes for photo in each.photos[part]}
    there = [file for _, file in sorted(files.items()) if file.is_file()]
    drawn = draw_once(path, lambda: _pascal_jobs(classes, files, part), further=there, kind=part, progress=progress)
    entries, bad = annotated_entries([drawn], folder, list_file)
    return _index("pascal_part", folder, list_file or f"{path.name} [{part}]", drawn, folds, entries, bad, progress)


def _pascal_classes(path: Path) -> list[_PascalPart]:
    """The parts that photos of both lists show, group by group."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        parts = [
            _PascalPart(number, thing, part, {split: list(map(str, lists[split])) for split in ("train", "val")})
            for number, group in enumerate(PASCAL_GROUPS)
            for thing, about in content[group]["object"].items()
            for part, lists in about["part"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} to hold GROUP: object: NAME: part: NAME: lists train and val, for the groups"
            f" {', '.join(PASCAL_GROUPS)}, but it does not ({type(error).__name__}: {error})."
        ) from error
    return [each for each in parts if all(each.photos.values()) and each.name != PASCAL_LEFT_OUT]


def _pascal_jobs(
    classes: Sequence[_PascalPart], files: Mapping[str, Path], part: str
) -> tuple[Sequence[str], list[MaskJob], _Bad]:
    wanted: dict[str, dict[tuple[str, str], int]] = {photo: {} for photo in sorted(files)}
    for class_id, each in enumerate(classes, start=1):
        for photo in each.photos[part]:
            wanted[photo][each.thing, each.part] = class_id
    jobs: list[MaskJob] = []
    bad: _Bad = []
    for photo, class_ids in wanted.items():
        try:
            found = list(_pascal_objects(photo, files[photo], class_ids))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
            bad.append((photo, f"Expected objects with name, bndbox and parts in {files[photo]}, but {reason}."))
            continue
        jobs += found
        shown = {row["category_id"] for job in found for row in job.annotations}
        lacking = [f"{thing}+{name}" for (thing, name), class_id in class_ids.items() if class_id not in shown]
        if lacking:
            bad.append((photo, f"Expected {', '.join(lacking)}, as its list says, but no object has one."))
    return [each.name for each in classes], jobs, bad


def _pascal_objects(photo: str, file: Path, class_ids: Mapping[tuple[str, str], int]) -> Iterator[MaskJob]:
    """A job for each object with a listed part. Raises KeyError, TypeError or ValueError for another file."""
    own = {class_id: class_id for class_id in class_ids.values()}
    for number, thing in enumerate(json.loads(file.read_text(encoding="utf-8-sig"))["object"]):
        rows = [
            {"id": f"{each['name']} of object {number}", "category_id": class_id, "segmentation": outline}
            for each in thing["parts"]
            if (class_id := class_ids.get((thing["name"], each["name"]))) is not None
            for outline in each["mask"]
        ]
        if rows:
            height, width = rows[0]["segmentation"]["size"]
            left, top, right, bottom = (float(thing["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            box = _within((left, top, right, bottom), height, width)
            picture = Picture(number, f"JPEGImages/{photo}.jpg", f"{photo}~{number}", box=box)
            yield MaskJob(picture, height, width, own, rows, overlapping=True)


def _index(
    dataset: str, root: Path, list_name: str, drawn: Drawn, folds: Folds, entries: Any, bad: _Bad, progress: bool
) -> ImageIndex:
    return build_index(
        entries,
        drawn.class_names,
        folds,
        root=root,
        dataset=dataset,
        list_name=list_name,
        bad_files=bad,
        progress=progress,
    )
