"""Masks drawn from annotations once, as PNGs in the cache folder, beside a manifest that tells what was drawn.

The PNGs get the modification time of the annotations, so masks that are drawn again still match the caches of scans and
features. A picture that cannot be drawn is left out and named: its mask would be wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rifenet.config import needs
from rifenet.data.cache import cache_folder
from rifenet.data.index import in_threads
from rifenet.files import write_atomically, write_text
from rifenet.formats.outlines import draw_layers, draw_mask

FORMAT = 2
MOST_VALUES = 253  # of a mask: 0, 255 and (in the feature cache) 254 have other meanings
_LAYERS = "layers"  # in a PNG: the class ids of its mask values, where classes overlap
PhotoBox = tuple[int, int, int, int]


class Picture(NamedTuple):
    """A photo, or a part of one, with a drawn mask."""

    image_id: int
    file_name: str
    """Of the photo, as the annotations have it."""
    name: str
    """Also that of the mask's file."""
    palette: tuple[int, ...] = ()
    """Class ids of the mask values 1, 2, ..."""
    layers: tuple[tuple[int, ...], ...] = ()
    """In place of `palette`, where classes overlap: the class ids on the pixels of the mask values 1, 2, ..."""
    box: PhotoBox | None = None
    """The part of the photo, in pixels: left, top, right, bottom (exclusive); None: the whole."""


class MaskJob(NamedTuple):
    """A mask to draw: its picture, the size of the photo in pixels, and the annotations on it."""

    picture: Picture
    height: int
    width: int
    values: dict[int, int]
    """Mask values by category id; class ids where classes overlap."""
    annotations: list[dict[str, Any]]
    overlapping: bool = False
    """True: a pixel keeps all its classes (`Picture.layers`). False: it has that of the smallest object."""


Read = Callable[[], tuple[Sequence[str], list[MaskJob], list[tuple[str, str]]]]
"""Parses annotations: the class names, a job for each picture, and (file, reason) of what cannot be drawn."""


@dataclass(frozen=True)
class Drawn:
    """Pictures with their drawn masks. Class id i is `class_names[i - 1]`."""

    path: Path
    """The annotations."""
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    bad_files: tuple[tuple[str, str], ...]
    """(file, reason) of each picture that was left out."""
    folder: Path

    def mask_path(self, picture: Picture) -> Path:
        """File of the picture's mask: 0 background, 1, 2, ... as its palette or layers tell, 255 ignored."""
        return self.folder / f"{picture.name}.png"


def draw_once(path: Path, read: Read, *, further: Sequence[Path] = (), kind: str = "", progress: bool = True) -> Drawn:
    """The pictures of the annotations at `path`; draws the masks that the cache lacks.

    Args:
        path: the file of annotations. Its path, size and modification time find what was drawn before.
        read: parses the annotations, if that is needed.
        further: other files that the masks depend on.
        kind: tells apart what is drawn from one file in several ways.
        progress: show a bar.

    Raises OSError where masks cannot be written, and what `read` raises.
    """
    with needs("rifenet[coco]"):
        from filelock import FileLock
    key = f"{FORMAT}\0{path.resolve()}\0{kind}"
    for file in (path, *further):
        stat = file.stat()
        key += f"\0{stat.st_size}\0{stat.st_mtime_ns}"
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:24]
    folder = cache_folder() / f"masks-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # if ranks start together, only one draws
            return _stored(path, folder) or _draw_all(path, read, folder, progress)
    except OSError as error:
        raise OSError(
            f"Expected to write the masks of {path} to {folder}, but got: {error}. Set RIFENET_CACHE to another folder."
        ) from error


def _stored(path: Path, folder: Path) -> Drawn | None:
    """What was drawn before; None if the manifest or a mask is missing."""
    try:
        stored = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        pictures = tuple(_picture(*row) for row in stored["pictures"])
        bad = tuple((file, reason) for file, reason in stored["bad_files"])
        found = Drawn(path, tuple(stored["class_names"]), pictures, bad, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = set(os.listdir(folder))
    return found if all(found.mask_path(picture).name in here for picture in pictures) else None


def _picture(image_id: int, file: str, name: str, palette: list[int], layers: list[list[int]], box: Any) -> Picture:
    kept: Any = None if box is None else tuple(box)
    return Picture(image_id, file, name, tuple(palette), tuple(map(tuple, layers)), kept)


def _draw_all(path: Path, read: Read, folder: Path, progress: bool) -> Drawn:
    with needs("rifenet[coco]"):
        import pycocotools.mask  # noqa: F401  (drawing needs it: fail before the minute that a large json takes)
    class_names, jobs, bad = read()
    time_ns = path.stat().st_mtime_ns
    drawn = list(in_threads(lambda job: _draw(job, folder, time_ns), jobs, f"Drawing {len(jobs):,} masks", progress))
    pictures = [found for found in drawn if isinstance(found, Picture)]
    bad = bad + [
        (job.picture.name if job.picture.box else job.picture.file_name, found)
        for job, found in zip(jobs, drawn, strict=True)
        if isinstance(found, str)
    ]
    manifest = {"class_names": list(class_names), "pictures": pictures, "bad_files": bad}
    write_text(folder / "manifest.json", json.dumps(manifest))
    return Drawn(path, tuple(class_names), tuple(pictures), tuple(bad), folder)


def _draw(job: MaskJob, folder: Path, time_ns: int) -> Picture | str:
    """The job's picture once its mask is drawn, or why it cannot be."""
    picture, out, text = job.picture, folder / f"{job.picture.name}.png", PngInfo()
    if picture.box is not None and (picture.box[0] >= picture.box[2] or picture.box[1] >= picture.box[3]):
        return f"Expected a box with pixels of the photo, but got {list(picture.box)}."
    if out.is_file():  # drawn by a run that was stopped
        with Image.open(out) as png:
            return picture._replace(layers=_layers(png.info[_LAYERS])) if job.overlapping else picture
    try:
        if job.overlapping:
            mask, layers = draw_layers(job.annotations, job.height, job.width, job.values, picture.box)
            if len(layers) > MOST_VALUES:
                return f"Expected at most {MOST_VALUES} combinations of classes in one picture, but got {len(layers)}."
            picture = picture._replace(layers=layers)
            text.add_text(_LAYERS, json.dumps(layers))
        else:
            mask = draw_mask(job.annotations, job.height, job.width, job.values)
    except ValueError as error:
        return str(error)

    def write(file: Path) -> None:
        Image.fromarray(mask).save(file, "PNG", pnginfo=text)
        os.utime(file, ns=(time_ns, time_ns))

    write_atomically(out, write)
    return picture


def _layers(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, json.loads(text)))
