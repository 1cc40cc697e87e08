"""Scans a dataset once: its images, and the area in pixels of each class in each image.

An unusable file is named and left out; it does not stop the scan. A complete photo has an end marker, so the scan
decodes only photos without one. The cache is JSON. A fingerprint of the path, size and modification time of every file
keeps it from being stale. If the cache cannot be written, the next start scans again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.config import MissingExtra, needs
from rifenet.data.cache import cache_folder, read_scans, write_scans
from rifenet.data.class_names import seen_in_training
from rifenet.data.folds import Folds, base_classes, contiguous_folds, novel_classes
from rifenet.formats.pictures import binary_mask, load_image, load_mask

CACHE_FORMAT = 2
_EXIF_ORIENTATION = 0x0112


class Entry(NamedTuple):
    """One image of a list, before its files are read."""

    name: str
    image_path: Path
    mask_path: Path
    palette: tuple[int, ...] = ()
    """Class ids of the mask values 1, 2, ...; empty if mask values are class ids."""
    bright: bool = False
    """The mask shows one class, bright on dark: grey 128 or more is value 1, and no pixel is ignored."""
    unmarked: frozenset[int] = frozenset()
    """Ids of classes that the image may show although its mask does not mark them."""
    layers: tuple[tuple[int, ...], ...] = ()
    """In place of `palette`, where classes overlap: the class ids on the pixels of the mask values 1, 2, ..."""
    box: tuple[int, int, int, int] | None = None
    """The part of the photo that is the image, in pixels: left, top, right, bottom (exclusive). None: the whole."""


@dataclass(frozen=True)
class ImageRecord:
    """One usable image: its upright size, and the area of each of its classes in the mask, both in pixels.

    An area of 0 means that the image shows the class only as a crowd or fully covered, so no mask pixel has it.
    """

    name: str
    image_path: Path
    mask_path: Path
    height: int
    width: int
    areas: dict[int, int]
    palette: tuple[int, ...] = ()
    bright: bool = False
    unmarked: frozenset[int] = frozenset()
    """Ids of classes that the image may show although its mask does not mark them."""
    layers: tuple[tuple[int, ...], ...] = ()
    """In place of `palette`, where classes overlap: the class ids on the pixels of the mask values 1, 2, ..."""
    box: tuple[int, int, int, int] | None = None
    """The part of the photo that is the image (`Entry.box`)."""

    def shows(self, class_id: int) -> bool | None:
        """Whether the image shows the class; None where its mask does not tell."""
        return True if class_id in self.areas else None if class_id in self.unmarked else False

    def binary(self, labels: NDArray[np.uint8], class_id: int) -> NDArray[np.uint8]:
        """Mask of one class from (a view of) the index mask: 1 on the class, 0 off it, 255 where that is not known.

        It is known nowhere where the image may show the class unmarked: what is marked as another class may be a part
        of it, or a whole of which it is a part.
        """
        if self.shows(class_id) is None:
            return np.full(labels.shape, IGNORE, np.uint8)
        return binary_mask(labels, *self.values(class_id))

    def values(self, class_id: int) -> tuple[int, ...]:
        """Mask values of the pixels that show `class_id`; none for a class outside the palette."""
        if self.layers:
            return tuple(value for value, classes in enumerate(self.layers, start=1) if class_id in classes)
        if not self.palette:
            return (class_id,)
        return (self.palette.index(class_id) + 1,) if class_id in self.palette else ()

    def image(self) -> NDArray[np.uint8]:
        """The upright photo, or the part of it that is the image, [H, W, 3]. Raises FileNotFoundError or ValueError."""
        photo = load_image(self.image_path)
        if self.box is None:
            return photo
        left, top, right, bottom = self.box
        return photo[top:bottom, left:right]

    def mask(self) -> NDArray[np.uint8]:
        """Index mask, uint8 [H, W]; `values` gives a class's mask values. Raises FileNotFoundError or ValueError."""
        return read_mask(self.mask_path, bright=self.bright)


@dataclass(frozen=True)
class ImageIndex:
    """All usable images of a dataset, in list order; class id i is `class_names[i - 1]`."""

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    folds: Folds
    root: Path
    dataset: str
    list_name: str
    """Name of the list of images."""
    bad_files: tuple[tuple[str, str], ...] = ()
    """(file, reason) of each file left out."""
    listed: frozenset[tuple[str, int]] = frozenset()
    """The only (image name, class id) pairs that queries and supports may come from; empty: all pairs."""
    trainable: tuple[int, ...] = ()
    """The only class ids that a fold may train on; empty: all classes that the fold does not test."""

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def hash(self) -> str:
        """Hex digest of classes, names, sizes and areas: equal for the same images and masks in any folder.

        It also covers the folds of COCO and the list of pairs, because options choose them, the folds that the user
        of a custom dataset wrote, and classes left unmarked.
        """
        content: list[Any] = [self.dataset, self.class_names]
        own_folds = self.dataset == "custom" and self.folds != contiguous_folds(len(self.class_names))
        content += [self.folds] if self.dataset == "coco" or own_folds else []
        content += [sorted(self.listed)] if self.listed else []
        content += [[item.name, item.height, item.width, sorted(item.areas.items())] for item in self.records]
        unmarked = [[item.name, sorted(item.unmarked)] for item in self.records if item.unmarked]
        content += [unmarked] if unmarked else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def class_id(self, name: str) -> int:
        """Id of the class called `name`. Raises ValueError listing the known names."""
        if name not in self.class_names:
            raise ValueError(f"Expected a known class, but got {name!r}. Known: {', '.join(self.class_names)}.")
        return self.class_names.index(name) + 1

    def class_name(self, class_id: int) -> str:
        """Name of class `class_id`."""
        return self.class_names[class_id - 1]

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that `fold` keeps for testing."""
        return novel_classes(fold, self.folds)

    def base_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that `fold` may train on: none that `held_back` has."""
        held_back = self.held_back(fold)
        base = base_classes(fold, self.folds, len(self.class_names))
        allowed = self.trainable or base
        return tuple(class_id for class_id in base if class_id in allowed and class_id not in held_back)

    def held_back(self, fold: int) -> tuple[int, ...]:
        """The novel class ids of `fold`, and those whose things may be of a novel class by another name.

        `class_names` tells the latter. A published list of training classes, `trainable`, stands as it is.
        """
        novel = self.novel_classes(fold)
        names = [self.class_name(class_id) for class_id in novel]
        others = base_classes(fold, self.folds, len(self.class_names)) if not self.trainable else ()
        return (*novel, *(one for one in others if seen_in_training(self.class_name(one), names)))

    def pairs(self, class_ids: Collection[int], min_area: int = 1) -> list[tuple[int, int]]:
        """(record index, class id) of each image with at least `min_area` pixels of that class, in list order."""
        wanted = sorted(class_ids)
        return [
            (position, class_id)
            for position, record in enumerate(self.records)
            for class_id in wanted
            if record.areas.get(class_id, 0) >= min_area
            if not self.listed or (record.name, class_id) in self.listed
        ]

    def images_of(self, class_id: int, min_area: int = 1) -> list[int]:
        """Record indices of the images that show `class_id` over at least `min_area` pixels, in list order."""
        return [position for position, _ in self.pairs((class_id,), min_area)]

    def without_classes(self, class_ids: Collection[int]) -> ImageIndex:
        """The same dataset without the images that show a class of `class_ids` (for `exclude_novel`)."""
        return self.with_records(record for record in self.records if not record.areas.keys() & set(class_ids))

    def with_records(self, records: Iterable[ImageRecord]) -> ImageIndex:
        """The same dataset with these images only."""
        return replace(self, records=tuple(records))


def read_mask(path: Path, *, bright: bool = False) -> NDArray[np.uint8]:
    """Index mask, uint8 [H, W], from a picture or SBD's `.mat`; with `bright`, 1 from grey 128 on and 0 below.

    Raises FileNotFoundError or ValueError.
    """
    if bright:
        return (load_image(path).max(axis=2) >= 128).astype(np.uint8)
    if path.suffix != ".mat":
        return load_mask(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected mask file {path}, but there is no such file.")
    with needs("rifenet[sbd]"):
        from scipy.io import loadmat
    try:
        return load_mask(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises many kinds of errors on damaged files
        raise ValueError(f"Expected SBD's GTcls.Segmentation in {path}, but cannot read it: {error}.") from error


def build_index(
    entries: Sequence[Entry],
    class_names: Sequence[str],
    folds: Folds,
    *,
    root: Path,
    dataset: str,
    list_name: str,
    bad_files: Sequence[tuple[str, str]] = (),
    trainable: Sequence[int] = (),
    progress: bool = True,
) -> ImageIndex:
    """Scans every entry, or takes the cached scan. `bad_files`: files that the reader already left out.

    Raises ValueError if no image is usable.
    """
    fingerprint = _fingerprint(entries, class_names)
    cache = _cache_file(root, dataset, list_name)
    scans = read_scans(cache, fingerprint)
    if scans is None or len(scans) != len(entries):
        label = f"Indexing {len(entries):,} images"
        scans = list(in_threads(lambda entry: _scan(entry, len(class_names)), entries, label, progress))
        write_scans(cache, fingerprint, scans)
    records, bad = [], list(bad_files)
    for entry, scan in zip(entries, scans, strict=True):
        if isinstance(scan, str):
            bad.append((entry.name, scan))
        else:
            height, width, counts = scan
            areas = {int(label): area for label, area in counts.items()}
            record = ImageRecord(*entry[:3], height, width, areas, entry.palette, entry.bright, entry.unmarked)
            records.append(replace(record, layers=entry.layers, box=entry.box))
    if not records:
        reason = f"none of {len(bad)} could be used. The first, {bad[0][0]}: {bad[0][1]}" if bad else "there are none."
        raise ValueError(f"Expected images with masks in {root}, but {reason}")
    kept = (tuple(records), tuple(class_names), folds, root, dataset, list_name, tuple(bad))
    return ImageIndex(*kept, trainable=tuple(trainable))


def in_threads(work: Callable[[Any], Any], items: Sequence[Any], label: str, progress: bool) -> Iterator[Any]:
    """Yields `work(item)` in the order of `items`, computed in threads; stderr shows a bar if it is a terminal."""
    from rich.console import Console
    from rich.progress import track

    with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
        done = pool.map(work, items)
        console = Console(stderr=True)
        hidden = not (progress and console.is_terminal)
        yield from track(done, label, total=len(items), console=console, transient=True, disable=hidden)


def _scan(entry: Entry, n_classes: int) -> Any:
    """JSON values: [height, width, {class id as text: area}] of a usable entry, or the reason why it is unusable."""
    try:
        height, width = _check_image(entry.image_path)
        if entry.box is not None:
            height, width = _size_of(entry.box, height, width)
        mask = read_mask(entry.mask_path, bright=entry.bright)
    except MissingExtra:
        raise  # not the file's fault, so the cache must not store it
    except (ValueError, OSError) as error:
        return str(error)
    if mask.shape != (height, width):
        return (
            f"Expected image and mask of one size, but the (upright) image is {width} x {height} and the mask"
            f" {mask.shape[1]} x {mask.shape[0]}."
        )
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[[0, IGNORE]] = 0
    labels, highest = np.flatnonzero(counts), len(entry.layers) or len(entry.palette) or n_classes
    if len(labels) and labels[-1] > highest:
        return f"Expected labels 0..{highest} and 255 in {entry.mask_path}, but it holds {labels[-1]}."
    if entry.bright and not len(labels):
        return f"Expected an object in {entry.mask_path}, at grey 128 or more, but it is dark everywhere."
    if entry.layers:
        shown = sorted({label for classes in entry.layers for label in classes})
        record = ImageRecord(*entry[:3], height, width, {}, layers=entry.layers)
        return [height, width, {str(label): int(counts[list(record.values(label))].sum()) for label in shown}]
    if entry.palette:
        return [height, width, {str(label): int(counts[i]) for i, label in enumerate(entry.palette, start=1)}]
    return [height, width, {str(label): int(counts[label]) for label in labels}]


def _check_image(path: Path) -> tuple[int, int]:
    """Upright (height, width) from the header of a complete file. Raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected image file {path}, but there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a picture, but {path} is empty (0 bytes).")
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise ValueError(f"Expected a readable picture, but cannot read {path}: {error}.") from error
    if not _has_end_marker(path):
        load_image(path)  # another format, or bytes after the marker: decoding shows whether it is complete
    return (width, height) if turned else (height, width)


def _size_of(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int]:
    """(height, width) of a part of a photo. Raises ValueError where it is not inside the photo."""
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"Expected a box inside the photo of {width} x {height} pixels, but got {list(box)}.")
    return bottom - top, right - left


def _has_end_marker(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        tail = file.read().rstrip(b"\0\n\r")
    return tail.endswith((b"\xff\xd9", b"IEND\xaeB`\x82"))


def _fingerprint(entries: Sequence[Entry], class_names: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([CACHE_FORMAT, list(class_names)]).encode())
    for entry in entries:
        for path in (entry.image_path, entry.mask_path):
            try:
                stat = path.stat()
                state = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError:
                state = "missing"
            digest.update(f"{entry.name}\0{path}\0{state}\0".encode(errors="surrogateescape"))
        digest.update(f"{entry.palette}{entry.bright}".encode())
        digest.update(f"{entry.layers}{entry.box}".encode() if entry.layers or entry.box else b"")
    return digest.hexdigest()


def _cache_file(root: Path, dataset: str, list_name: str) -> Path:
    key = hashlib.sha256(f"{dataset}\0{root.resolve()}\0{list_name}".encode(errors="surrogateescape")).hexdigest()[:24]
    return cache_folder() / f"index-{key}.json"
