"""COCO-style annotations as mask files: draws the mask of every picture of a json once, as a PNG in the cache folder.

A picture with a broken annotation is left out and named: without the annotation its mask would be wrong. Mask values
1, 2, ... stand for the picture's own classes, its palette, so a byte is enough for any number of categories. The
palette includes classes shown only as a crowd or fully covered. They have 0 pixels, and `exclude_novel` leaves these
pictures out, too. The cache finds masks by the json's path, size and modification time. The PNGs get the json's
modification time, so masks that are drawn again still match the caches of scans and features.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from unicodedata import normalize

from PIL import Image

from rifenet.config import needs
from rifenet.data.cache import cache_folder
from rifenet.data.image_lists import list_path, read_list
from rifenet.data.index import Entry, in_threads
from rifenet.files import write_atomically, write_text
from rifenet.formats.outlines import draw_mask

FORMAT = 1
_MOST_PIXELS = 2**28
_WHOLE = {"id", "image_id", "category_id", "height", "width"}
_MOST_CLASSES = 253  # of a picture: 0, 255 and (in the feature cache) 254 have other meanings


class Picture(NamedTuple):
    """One picture of a json. Mask value i stands for class id `palette[i - 1]`."""

    image_id: int
    file_name: str
    palette: tuple[int, ...]

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return PurePosixPath(self.file_name).stem


class _Job(NamedTuple):
    """A mask to draw: its picture, size in pixels, mask values by category id, and annotations."""

    picture: Picture
    height: int
    width: int
    values: dict[int, int]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class Annotations:
    """A json's pictures with their drawn masks. Class id i is `class_names[i - 1]`, in the order of category ids."""

    path: Path
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    bad_files: tuple[tuple[str, str], ...]
    """(file, reason) of each picture that was left out."""
    folder: Path

    def mask_path(self, picture: Picture) -> Path:
        """File of the picture's mask: 0 background, i the i-th class of its palette, 255 ignored."""
        return self.folder / f"{picture.name}.png"


def open_annotations(path: Path, *, progress: bool = True) -> Annotations:
    """Reads the json at `path` and draws the masks that the cache lacks.

    Raises FileNotFoundError, ValueError for a file that is no COCO json, and OSError where masks cannot be written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected COCO annotations at {path}, but there is no such file.")
    with needs("rifenet[coco]"):
        from filelock import FileLock
    stat = path.stat()
    key = f"{FORMAT}\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape")
    folder = cache_folder() / f"masks-{hashlib.sha256(key).hexdigest()[:24]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # if ranks start together, only one draws
            return _stored(path, folder) or _draw_all(path, folder, stat.st_mtime_ns, progress)
    except OSError as error:
        raise OSError(
            f"Expected to write the masks of {path} to {folder}, but got: {error}. Set RIFENET_CACHE to another folder."
        ) from error


def annotated_entries(
    annotations: Sequence[Annotations], root: Path, list_file: str
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries of all pictures, or of those in `list_file`, and (file, reason) of each picture left out."""
    entries: dict[str, Entry] = {}
    bad: list[tuple[str, str]] = []
    for source in annotations:
        year = source.path.stem.removeprefix("instances_")
        folders = [root / year, root / "images" / year, root / "images", root]
        folders = [folder for folder in folders if folder.is_dir()]
        bad += source.bad_files
        for picture in source.pictures:
            forms = dict.fromkeys([picture.file_name, *(normalize(form, picture.file_name) for form in ("NFC", "NFD"))])
            paths = [folder / form for folder in folders for form in forms]
            path = next((path for path in paths if path.is_file()), paths[0])
            if picture.name in entries:
                bad.append((picture.file_name, f"Expected each file name once, but it is also in {source.path.name}."))
            entries.setdefault(picture.name, Entry(picture.name, path, source.mask_path(picture), picture.palette))
    if not list_file:
        return list(entries.values()), bad
    names = read_list(list_path(root, list_file))
    reasons = {PurePosixPath(file).stem: reason for file, reason in bad}
    unknown = "Expected an annotated image of this name, but there is none."
    missing = [(name, reasons.get(name, unknown)) for name in names if name not in entries]
    return [entries[name] for name in names if name in entries], missing


def _stored(path: Path, folder: Path) -> Annotations | None:
    """The annotations drawn before; None if the manifest or a mask is missing."""
    try:
        stored = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        pictures = tuple(Picture(image_id, file, tuple(palette)) for image_id, file, palette in stored["pictures"])
        bad = tuple((file, reason) for file, reason in stored["bad_files"])
        found = Annotations(path, tuple(stored["class_names"]), pictures, bad, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = set(os.listdir(folder))
    return found if all(found.mask_path(picture).name in here for picture in pictures) else None


def _draw_all(path: Path, folder: Path, time_ns: int, progress: bool) -> Annotations:
    with needs("rifenet[coco]"):
        import pycocotools.mask  # noqa: F401  (drawing needs it: fail before the minute that a large json takes)
    content = _read(path)
    categories = _categories(path, content["categories"])
    jobs, bad = _jobs(path, content, list(categories))

    def draw(job: _Job) -> str:
        out = folder / f"{job.picture.name}.png"
        if out.is_file():  # drawn by a run that was stopped
            return ""
        try:
            mask = Image.fromarray(draw_mask(job.annotations, job.height, job.width, job.values))
        except ValueError as error:
            return str(error)

        def write(file: Path) -> None:
            mask.save(file, "PNG")
            os.utime(file, ns=(time_ns, time_ns))

        write_atomically(out, write)
        return ""

    reasons = list(in_threads(draw, jobs, f"Drawing {len(jobs):,} masks", progress))
    pictures = [job.picture for job, reason in zip(jobs, reasons, strict=True) if not reason]
    bad += [(job.picture.file_name, reason) for job, reason in zip(jobs, reasons, strict=True) if reason]
    manifest = {"class_names": list(categories.values()), "pictures": pictures, "bad_files": bad}
    write_text(folder / "manifest.json", json.dumps(manifest))
    return Annotations(path, tuple(categories.values()), tuple(pictures), tuple(bad), folder)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
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


def _categories(path: Path, rows: list[dict[str, Any]]) -> dict[int, str]:
    """Category id -> name, in the order of the ids."""
    proper = all(
        type(row.get("id")) is int and isinstance(row.get("name"), str) and row["name"].strip() for row in rows
    )
    named: dict[int, str] = {row["id"]: row["name"] for row in rows} if proper else {}
    if not rows or not proper or len(set(named.values())) < len(rows):
        raise ValueError(
            f"Expected categories in {path}, each with its own number (id) and name, but got {str(rows)[:200]}."
        )
    return {key: name.strip() for key, name in sorted(named.items())}


def _jobs(
    path: Path, content: dict[str, list[dict[str, Any]]], categories: list[int]
) -> tuple[list[_Job], list[tuple[str, str]]]:
    """All pictures that can be drawn, in the json's order, and (file, reason) of the others."""
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
    jobs: list[_Job] = []
    names: set[str | int] = set()
    for row in content["images"]:
        fault = _fault(row)
        if not fault:
            annotations = drawn_on[row["id"]]
            category_ids = {item.get("category_id") for item in annotations if type(item.get("category_id")) is int}
            palette = sorted(class_id for category, class_id in class_ids.items() if category in category_ids)
            picture = Picture(row["id"], row["file_name"], tuple(palette))
            if names & {picture.name, picture.image_id}:
                fault = f"Expected each file name and id once in {path.name}, but an earlier image has the same."
            elif len(palette) > _MOST_CLASSES:
                fault = f"Expected at most {_MOST_CLASSES} classes in one picture, but got {len(palette)}."
        if fault:
            bad.append((str(row.get("file_name") or f"image {row.get('id')}"), fault))
        else:
            names |= {picture.name, picture.image_id}
            values = {categories[class_id - 1]: value for value, class_id in enumerate(palette, start=1)}
            jobs.append(_Job(picture, row["height"], row["width"], values, annotations))
    return jobs, bad


def _fault(row: dict[str, Any]) -> str:
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
