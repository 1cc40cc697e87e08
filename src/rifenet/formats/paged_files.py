"""Tells which paths are files of several pictures, or of scientific numbers, and opens them as pages.

A plain photo, which `pictures.load_image` reads, is none of them: it stays what it was with and without the extras.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rifenet.config import MissingExtra
from rifenet.formats.contrast import How
from rifenet.formats.pages import Page, Pages, is_zarr, readable, split_number
from rifenet.formats.picture_files import check_size, count_pages, load_pixels, open_picture
from rifenet.formats.stacks import TIFF_SUFFIXES, PageStack, open_stack, settled
from rifenet.formats.video import VIDEO_SUFFIXES, open_gif, open_video

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF


class Opened(NamedTuple):
    """A file of pages, and the page of it that a path such as `scan.tif#3` names."""

    pages: Pages
    number: int | None

    @property
    def several(self) -> bool:
        """Whether it stands for several pictures."""
        return self.number is None and len(self.pages) > 1

    def chosen(self) -> list[Page]:
        """The pages that it stands for. Raises ValueError for a number that the file lacks."""
        return list(self.pages) if self.number is None else [self.pages.page(self.number)]


def opened(
    sources: Sequence[Any],
    how: How,
    *,
    first_will_do: bool = False,
    on_error: Callable[[Any, Exception], None] | None = None,
) -> list[Opened | None]:
    """Opens those of some pictures that are files of pages; None for plain photos, and for what is no path.

    Args:
        sources: paths, with or without the number of a page, and other pictures.
        how: contrast and bands. Percentiles are those of all files together.
        first_will_do: a file of pages whose extra is missing is a plain photo, if Pillow reads its first page.
        on_error: called with a source that cannot be opened, and the error; None raises it.

    Raises FileNotFoundError, ValueError for files that cannot be opened, and `rifenet.config.MissingExtra`.
    """
    found: list[Opened | None] = []
    known: dict[str, Pages | None] = {}
    for source in sources:
        try:
            found.append(_opened(source, how, first_will_do, known))
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            on_error(source, error)
            found.append(None)
    stacks = {path: pages for path, pages in known.items() if isinstance(pages, PageStack)}

    def failed(path: str, error: Exception) -> None:
        if on_error is None:
            raise error
        for place, each in enumerate(found):
            if each is not None and each.pages.file == path:
                on_error(sources[place], error)
                found[place] = None

    ready = readable(stacks, partial(settled, how=how), failed)
    return [each and Opened(ready.get(each.pages.file, each.pages), each.number) for each in found]


def _opened(source: Any, how: How, first_will_do: bool, known: dict[str, Pages | None]) -> Opened | None:
    """One of `opened`, without contrast; `known` gets the pages of its file."""
    if not isinstance(source, str | PathLike):
        return None
    path, number = split_number(fspath(source))
    needed = number is not None or how != How()
    if path not in known:
        try:
            known[path] = pages_of(path, always=needed)
        except MissingExtra:
            if needed or not first_will_do or not _opens(path):
                raise
            known[path] = None
    pages = known[path]
    if pages is not None:
        return Opened(pages, number)
    if number is not None:
        raise ValueError(
            f"Expected a file of several pages, such as a TIFF or a video, but got {path} and the page {number}."
        )
    return None


def pages_of(path: str, *, always: bool = False) -> Pages | None:
    """The pages of a file; None for a plain photo. `always`: for a TIFF that is one, too. Raises as `opened`."""
    if not os.path.exists(path):  # unlike Path.exists, it raises nothing for a name too long
        return None  # whoever reads it says so
    if os.path.isdir(path) and is_zarr(path):
        return open_stack(path)
    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        return open_video(path)
    if Path(path).suffix.lower() == ".gif":
        return open_gif(path)
    if Path(path).suffix.lower() not in TIFF_SUFFIXES or not _is_tiff(path):
        return None
    return open_stack(path) if always or not _is_plain(path) else None


def _opens(path: str) -> bool:
    """Whether Pillow opens a file."""
    try:
        with open_picture(path):
            return True
    except Exception:  # its readers raise errors of many kinds on what they do not know
        return False


def _is_tiff(path: str) -> bool:
    """Whether a file begins as a TIFF or a BigTIFF does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False


def _is_plain(path: str) -> bool:
    """Whether a TIFF is one picture that Pillow reads, of numbers that photos have: bytes, 16 bits, shares to 1."""
    try:
        with open_picture(path) as picture:
            if count_pages(picture) != 1:
                return False
            tags = getattr(picture, "tag_v2", {})
            bits, white_is_zero = set(tags.get(_BITS, (1,))), tags.get(_PHOTOMETRIC) == 0
            if bits <= {1, 8} and picture.mode not in ("I", "F", "LA"):
                return 2 not in tags.get(_SAMPLE_FORMAT, ())  # Pillow takes signed bytes for unsigned ones
            check_size(picture)
            load_pixels(picture)
            if picture.mode not in ("I", "F"):
                return not white_is_zero
            numbers = np.asarray(picture)
    except Exception:  # Pillow's readers raise errors of many kinds on what they do not know
        return False
    return bool(numbers.min() >= 0 and numbers.max() <= (1 if picture.mode == "F" else 65535))
