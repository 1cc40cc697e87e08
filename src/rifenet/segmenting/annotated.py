"""Annotated pages of stacks, as shots: pairs of a page and its mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.formats.contrast import How
from rifenet.formats.geotiff import contrasted, is_vector, labelled, open_scene
from rifenet.formats.label_files import Label, Marked
from rifenet.formats.paged_files import Opened, opened, pages_of
from rifenet.formats.pages import Pages, is_folder_of_photos, split_number
from rifenet.formats.pictures import Source
from rifenet.formats.remarks import remark

_NUMBER = re.compile(r"(\d+)(?:_mask)?$")
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
Pair = tuple[Source, Source | Marked]


def annotated(
    images: Sequence[Source], masks: Sequence[Source | Marked], how: How, name: str, label: Label | None = None
) -> list[Pair]:
    """The pairs with the pages of stacks in place of the stacks.

    The mask of a stack is a stack of as many pages, or an array [N,H,W]; pages whose mask marks nothing are not shots.
    A folder of masks, whose names end in the number of their page or frame, will do. The mask of one page
    (`scan.tif#3`) is a picture, or the same page of such a stack. The mask of a scene may be a vector file: windows
    around the polygons of class `name` are shots.

    Raises FileNotFoundError, ValueError for a stack without fitting masks, and `rifenet.config.MissingExtra`.
    """
    pairs: list[Pair] = []
    photos = [None if is_vector(mask) else image for image, mask in zip(images, masks, strict=True)]
    files = opened(photos, how, first_will_do=True)
    if how != How() and not any(files) and not any(map(is_vector, masks)):
        raise ValueError("Expected TIFF files or OME-Zarr folders for window and bands, but got none.")
    for image, mask, found in zip(images, masks, files, strict=True):
        if is_vector(mask):
            pairs += of_scene(image, mask, how, name, label)
        else:
            pairs += [(image, mask)] if found is None else of_pages(found, mask, label)
    return pairs


def of_scene(image: Any, labels: Any, how: How, name: str, label: Label | None) -> list[Pair]:
    """The shots of a scene with a vector file of labels; raises as `annotated`."""
    (scene,) = contrasted([open_scene(image)], how)
    return list(labelled(scene, labels, name, None if label is None else str(label)))


def of_pages(found: Opened, mask: Source | Marked, label: Label | None = None) -> list[Pair]:
    """The shots of an opened file; raises as `annotated`."""
    if found.several and isinstance(mask, str | PathLike) and is_folder_of_photos(mask):
        return _of_folder(found.pages, Path(mask))
    layers = _layers(mask, found, label)
    if layers is None:
        if found.several:
            remark(
                f"image file {found.pages.file}",
                f"It has {len(found.pages)} {found.pages.called}, and the mask was taken for that of the first. Name"
                f" another so: {Path(found.pages.file).name}#1.",
            )
            found = found._replace(number=0)
        return [(page, _mask_of_page(mask, label)) for page in found.chosen()]
    if len(layers) != len(found.pages):
        raise ValueError(
            f"Expected as many masks as {found.pages.file} has pages, {len(found.pages)}, but got {len(layers)}."
        )
    marked = [(page, layers[page.number]) for page in found.chosen()]
    pairs: list[Pair] = [(page, layer) for page, layer in marked if layer.any()]
    if not pairs:
        raise ValueError(f"Expected masks of {found.pages.file} that mark a pixel, but they mark none.")
    if len(pairs) < len(marked):
        remark(
            f"image file {found.pages.file}",
            f"{len(pairs)} of its {len(marked)} {found.pages.called} have marks and are shots; the others are not.",
        )
    return pairs


def _of_folder(pages: Pages, folder: Path) -> list[Pair]:
    """Pages with the masks of a folder whose names end in the number of the page, as `clip_00012_mask.png` does."""
    numbered = [(_NUMBER.search(file.stem), file) for file in sorted(folder.iterdir()) if file.is_file()]
    masks = [(int(found[1]), file) for found, file in numbered if found and file.suffix.lower() in _MASK_SUFFIXES]
    if not masks:
        raise ValueError(f"Expected masks in {folder} whose names end in a number of {pages.called}, but it has none.")
    return [(pages.page(number), file) for number, file in masks]


class _Masks:
    """The masks of a stack's pages, read one by one."""

    def __init__(self, pages: Pages, label: Label | None) -> None:
        self.pages, self.label = pages, label

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, number: int) -> NDArray[Any]:
        return labels_of(self.pages.numbers(number), self.label, self.pages.file)


def labels_of(numbers: NDArray[Any], label: Label | None, file: str) -> NDArray[Any]:
    """Numbers of a mask, as bytes. Numbers above 255 count objects, so that all but 0 is the class, also 255."""
    if label is None and numbers.size and numbers.dtype.kind in "ui" and int(numbers.max()) > 255:
        remark(file, "Its numbers go beyond 255, so they were taken for numbers of objects: all but 0 is the class.")
        return (numbers != 0).astype(np.uint8)
    return numbers


def _layers(mask: Source | Marked, found: Opened, label: Label | None) -> _Masks | NDArray[Any] | None:
    """The masks of several pages, if `mask` holds several."""
    if isinstance(mask, str | PathLike):
        path, number = split_number(fspath(mask))
        pages = pages_of(path) if number is None else None
        return _Masks(pages, label) if pages is not None and len(pages) > 1 else None
    stacked = found.several and not isinstance(mask, Marked) and getattr(mask, "ndim", 0) == 3
    return np.asarray(mask) if stacked else None


def _mask_of_page(mask: Source | Marked, label: Label | None) -> Source | Marked:
    """A mask as `learn` takes it: that of `labels.tif#3` as its numbers."""
    path, number = split_number(fspath(mask)) if isinstance(mask, str | PathLike) else ("", None)
    if number is None or (pages := pages_of(path, always=True)) is None:
        return mask
    pages.page(number)
    return labels_of(pages.numbers(number), label, path)
