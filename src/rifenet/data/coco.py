"""COCO-style annotations as mask files: every picture of a json is drawn once, as a PNG in the cache folder.

Decisions: a picture with an annotation that cannot be drawn is left out and named, because its mask would be wrong
without a sign of it. Mask values are places in a palette of the picture's own classes, so that any number of categories
fits into a byte. A class that is there only as a crowd, or wholly covered, is in the palette too: it counts as shown
over 0 pixels, and `exclude_novel` leaves its pictures out. The json is parsed once. Masks are kept under its path, size
and time and carry its time, so that for the caches of scans and features they are the same files when drawn again.
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

from PIL import Image

from rifenet.config import needs
from rifenet.data.cache import cache_folder
from rifenet.data.image_lists import list_path, read_list
from rifenet.data.index import Entry, in_threads
from rifenet.files import write_atomically, write_text
from rifenet.formats.outlines import draw_mask

FORMAT = 1
_MOST_PIXELS = 2**28
_MOST_CLASSES = 253  # of one picture: 0 and 255 have meanings of their own, and 254 has one in the feature cache


class Picture(NamedTuple):
    """One picture of a json. `palette`: ids of its classes, for which its mask holds 1, 2, ..."""

    image_id: int
    file_name: str
    palette: tuple[int, ...]

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return PurePosixPath(self.file_name).stem


class _Job(NamedTuple):
    """A picture to draw: its size in pixels, the mask value of each category that it shows, and its annotations."""

    picture: Picture
    height: int
    width: int
    values: dict[int, int]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class Annotations:
    """What a json holds, drawn. Class id i is `class_names[i - 1]`: the categories in the order of their own ids."""

    path: Path
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    bad_files: tuple[tuple[str, str], ...]
    """(file, reason) of each picture that was left out."""
    folder: Path

    def mask_path(self, picture: Picture) -> Path:
        """The picture's mask: 0 background, a place in its palette, 255 ignored."""
        return self.folder / f"{picture.name}.png"


def open_annotations(path: Path, *, progress: bool = True) -> Annotations:
    """What the json at `path` holds; draws the masks that are not drawn yet.

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
        with FileLock(folder / "lock"):  # of ranks that start together, one draws
            return _stored(path, folder) or _draw_all(path, folder, stat.st_mtime_ns, progress)
    except OSError as error:
        raise OSError(
            f"Expected to keep the masks of {path} in {folder}, but got: {error}. Set RIFENET_CACHE to another folder."
        ) from error


def annotated_entries(
    annotations: Sequence[Annotations], root: Path, list_file: str
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries of the pictures that the files (and the list, where one is given) name, and what is left out."""
    entries: dict[str, Entry] = {}
    bad: list[tuple[str, str]] = []
    for source in annotations:
        year = source.path.stem.removeprefix("instances_")
        folders = [root / year, root / "images" / year, root / "images", root]
        folders = [folder for folder in folders if folder.is_dir()]
        bad += source.bad_files
        for picture in source.pictures:
            paths = [folder / picture.file_name for folder in folders]
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
    """What was drawn before; None where that is not all there."""
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
        import pycocotools.mask  # noqa: F401  (drawing needs it; a large file takes a minute to read before)
    content = _read(path)
    categories = _categories(path, content["categories"])
    jobs, bad = _jobs(path, content, list(categories))

    def draw(job: _Job) -> str:
        out = folder / f"{job.picture.name}.png"
        if out.is_file():  # from a run that was stopped
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
        raise ValueError(f"Expected COCO annotations, but {path} is no JSON: {error}.") from error
    for name in ("images", "annotations", "categories"):
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"Expected the lists images, annotations and categories in {path}, but {name} is none.")
    return content


def _packed(row: dict[str, Any]) -> dict[str, Any]:
    """Polygons as packed numbers while the file is read: as Python's own, COCO's take gigabytes."""
    if isinstance(polygons := row.get("segmentation"), list):
        with suppress(TypeError):  # what is no polygon is named when it is drawn
            row["segmentation"] = [array("d", polygon) for polygon in polygons]
    return row


def _categories(path: Path, rows: list[dict[str, Any]]) -> dict[int, str]:
    """Category id -> name, in the order of the ids."""
    named: dict[Any, Any] = {row.get("id"): row.get("name") for row in rows}
    proper = all(type(key) is int and isinstance(name, str) and name.strip() for key, name in named.items())
    if not rows or not proper or len(set(named.values())) < len(rows):
        raise ValueError(
            f"Expected categories in {path}, each with a number (id) and a name of its own, but got {str(rows)[:200]}."
        )
    return {key: name.strip() for key, name in sorted(named.items())}


def _jobs(
    path: Path, content: dict[str, list[dict[str, Any]]], categories: list[int]
) -> tuple[list[_Job], list[tuple[str, str]]]:
    """All pictures that can be drawn, in the file's order, and (file, reason) of the others."""
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
                fault = f"Expected each file name and id once in {path.name}, but this one is there before."
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
    """Why a row of `images` cannot be used; empty where it can."""
    file: Any = row.get("file_name")
    numbers: list[Any] = [row.get(key) for key in ("id", "height", "width")]
    if not isinstance(file, str) or not PurePosixPath(file).stem or "\0" in file:
        return f"Expected a file_name, but got {file!r}."
    if not all(type(number) is int for number in numbers) or min(numbers[1:]) < 1:
        return f"Expected whole numbers as id, height and width, but got {numbers}."
    if numbers[1] * numbers[2] > _MOST_PIXELS:
        return f"Expected at most {_MOST_PIXELS:,} pixels, but got height and width {numbers[1:]}."
    return ""
