"""The folder that `rifenet segment` writes. The same command resumes there; a different command is refused.

`manifest.json` records the model, the classes and the options. A photo's JSON is its last file: if it exists, the photo
is done.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.cli.console import note
from rifenet.cli.paged import Whole
from rifenet.formats.pages import Page, number_in_names, split_number
from rifenet.formats.pictures import load_image, load_mask

if TYPE_CHECKING:
    from rifenet.formats.geotiff import Scene

    Query = Path | Page | Scene
    """What a command segments: a photo, a page of a file, or a scene."""

MANIFEST = "manifest.json"
LONGEST_NAME = 255  # bytes of a file name on all common disks
TOGETHER = ("coco", "csv", "cvat")
"""Formats whose files of single photos are put together into one."""
CLASSES = "classes.safetensors"
"""The learned classes of a run with `--adapt`; a resumed run loads them."""


def output_names(photos: Sequence[Query], endings: Collection[str] = (".json",)) -> dict[Any, str]:
    """A name for each photo's results, such that no two files have the same, even where case makes no difference.

    `endings`: what is added to the name in the names of a photo's files. A name that is not UTF-8, or too long with the
    longest of them, is shortened and gets a digest.
    """
    names: dict[Any, str] = {}
    taken = {MANIFEST, "coco.json", "index.html"}
    longest = max(len(ending.encode()) for ending in endings)
    for photo in photos:
        choices = (_fitting(choice, LONGEST_NAME - longest) for choice in _choices(photo))
        files = ((choice, {f"{choice}{ending}".casefold() for ending in endings}) for choice in choices)
        names[photo], own = next((choice, own) for choice, own in files if not own & taken)
        taken |= own
    return names


def _choices(photo: Query) -> Iterator[str]:
    file, page = file_of(photo), number_in_names(photo.number) if isinstance(photo, Page) else ""
    stem, suffix = file.stem, file.suffix.lstrip(".")
    beginnings = (stem, f"{stem}_{suffix}", f"{file.resolve().parent.name}_{stem}")
    yield from (f"{beginning}{page}" for beginning in beginnings)
    yield from (f"{stem}_{number}{page}" for number in itertools.count(2))


def file_of(photo: Query) -> Path:
    """The file that a photo is, or lies in."""
    return photo if isinstance(photo, Path) else Path(photo.file)


def _fitting(name: str, most: int) -> str:
    plain = re.sub("[\ud800-\udfff]", "_", name)  # how Python shows bytes that are not UTF-8
    if plain == name and len(name.encode()) <= most:
        return name
    mark = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{plain.encode()[: most - 9].decode(errors='ignore')}-{mark}"


def digest(path: str) -> str:
    """SHA-256 of a file's content, or of the contents and names in a folder; that of the file for a page of one."""
    file, number = split_number(path)
    found = hashlib.sha256() if number is None else hashlib.sha256(str(number).encode())
    for part in sorted(Path(file).rglob("*")) if Path(file).is_dir() else [Path(file)]:
        if part.is_file():
            found.update(part.relative_to(file).as_posix().encode() if part != Path(file) else b"")
            with part.open("rb") as opened:
                while chunk := opened.read(2**20):
                    found.update(chunk)
    return found.hexdigest()


def claim(out: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Begins the manifest in `out`, and returns the record of adopted photos from an earlier run ({} if there is none).

    Raises ValueError if `out` holds other files or results of other settings, unless `overwrite` is set.
    """
    adopted: dict[str, Any] = {}
    from rifenet.files import contents

    if not overwrite and out.exists() and contents(out):
        known = _read_json(out / MANIFEST)
        if known is None:
            raise ValueError(
                f"Expected an empty or new folder, but {out} holds other files. Choose another --out, or add"
                " --overwrite."
            )
        if _of_the_weights_alone(known.get("settings"), settings):
            note(
                f"An older version wrote {out} and did not record the model's threshold and calibration. Its photos are"
                " segmented again."
            )
        elif known.get("settings") != settings:
            raise ValueError(
                f"Expected {out} to hold results of these classes, model and options, but it holds others."
                " Choose another --out, or add --overwrite."
            )
        else:
            adopted = known.get("adopted", {})
    begin(out, settings, adopted)
    return adopted


def _of_the_weights_alone(known: Any, settings: dict[str, Any]) -> bool:
    """Whether `known` is `settings` as older versions wrote them: the model named by the hash of its weights."""
    model = settings["model"]
    return bool(known == {**settings, "model": {"name": model["name"], "hash": model["weights_hash"]}})


def begin(out: Path, settings: dict[str, Any], adopted: dict[str, Any]) -> None:
    """Writes the manifest of an unfinished run; it lists adopted photos only if there are any."""
    write_manifest(out, {"settings": settings, "finished": False} | ({"adopted": adopted} if adopted else {}))


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest. Raises OSError if the disk is full; the older manifest then stays."""
    from rifenet.files import write_bytes

    write_bytes(out / MANIFEST, json.dumps(manifest, indent=1).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_together(out: Path, records: list[dict[str, Any]], formats: list[str], whole: Sequence[Whole] = ()) -> None:
    """Writes the files that cover all photos, if `formats` asks for them.

    `whole`: files of pages whose masks or overlays become one file again.
    """
    if not records:
        return
    from rifenet.files import write_text
    from rifenet.formats.contact_page import write_page
    from rifenet.formats.cvat_files import LABELMAP, LIST, labelmap, mask_list
    from rifenet.formats.object_files import merge_csv, merge_cvat, yolo_names
    from rifenet.formats.outputs import merge_coco

    classes = [entry["name"] for entry in records[0]["classes"]]
    single = {each: [out / record["files"][each] for record in records] for each in formats if each in TOGETHER}
    if "coco" in single:
        merge_coco(out / "coco.json", single["coco"])
    if "csv" in single:
        merge_csv(out / "table.csv", single["csv"])
    if "cvat" in single:
        merge_cvat(out / "annotations.xml", single["cvat"], classes)
    if "cvat_masks" in formats:
        write_text(out / LABELMAP, labelmap(classes))
        write_text(out / LIST, mask_list(Path(record["files"]["cvat_masks"]) for record in records))
    if "yolo" in formats:
        write_text(out / "data.yaml", yolo_names(classes))
    named = {record["json"].removesuffix(".json") for record in records} if whole else set()
    for each in whole:
        if named & {*each.parts}:
            _write_whole(out, each, formats)
    if "html" in formats:
        write_page(out / "index.html", records, title=f"{len(records)} photos segmented")


def _write_whole(out: Path, whole: Whole, formats: Sequence[str]) -> None:
    """Writes the masks of a stack's pages as `NAME_masks.tif`, and the overlays of a video as `NAME_overlay.mp4`."""
    from rifenet.config import MissingExtra
    from rifenet.formats.stacks import PageStack, write_masks
    from rifenet.formats.video import Frames, write_video

    if "index" in formats and isinstance(whole.pages, PageStack):
        write_masks(out / f"{whole.name}_masks.tif", _masks(out, whole))
    if "overlay" in formats and isinstance(whole.pages, Frames):
        files = (out / f"{part}_overlay.jpg" for part in whole.parts)
        try:
            overlays = (load_image(file) for file in files if file.is_file())
            write_video(out / f"{whole.name}_overlay.mp4", overlays, whole.pages.rate)
        except MissingExtra as error:  # a GIF is read without it
            note(f"rifenet segment: no video of the overlays of {whole.pages.file}: {error}")


def _masks(out: Path, whole: Whole) -> Iterator[NDArray[np.uint8]]:
    """The masks of all pages; one that could not be segmented is 255, ignored, all over."""
    files = [out / f"{part}_mask.png" for part in whole.parts]
    there = next(file for file in files if file.is_file())
    nothing = np.full_like(load_mask(there), IGNORE)
    return (load_mask(file) if file.is_file() else nothing for file in files)


def stamp(photo: Query) -> dict[str, int]:
    """Size and modification time of a photo's file. A photo that keeps both counts as unchanged."""
    status = file_of(photo).stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def done(out: Path, name: str, photo: Query, run: str) -> dict[str, Any] | None:
    """The record of a photo that `run` has segmented; None if the photo has changed or a file is missing."""
    record = _read_json(out / f"{name}.json")
    if record is None or record.get("run") != run or not file_of(photo).exists() or record.get("file") != stamp(photo):
        return None
    return record if all((out / file).is_file() for file in record["files"].values()) else None
