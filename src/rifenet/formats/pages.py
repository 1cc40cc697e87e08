"""A file that holds several pictures, such as a stack or a video, as a sequence of pages that are read one by one."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

ROWS = "_rows"
"""What is added to a scene's name in that of the folder that keeps its rows of windows until all are done."""
_NUMBERED = re.compile(r"(.+)#(\d+)")
_METADATA = ("zarr.json", ".zattrs", ".zgroup")  # a file that makes a folder a Zarr group, in either version
_DIGITS = 5  # of a page's number in file names, so that they sort as the pages do


@dataclass(frozen=True, eq=False)
class Page:
    """A picture of a file that holds several: a page of a stack, a frame of a video."""

    pages: Pages
    """All pages of the file."""
    number: int
    """Counted from 0."""

    @property
    def file(self) -> str:
        """Path of the file."""
        return self.pages.file

    def read(self) -> NDArray[np.uint8]:
        """The page as a photo, [H,W,3]. Raises ValueError where it cannot be read."""
        return self.pages.photo(self.number)

    def __str__(self) -> str:
        """How a user names it: `scan.tif#3`."""
        return f"{self.file}#{self.number}"

    @property
    def stem(self) -> str:
        """How the names of its results begin: `scan_00003`."""
        return f"{Path(self.file).stem}{number_in_names(self.number)}"


class Pages(Sequence[Page]):
    """The pages of a file."""

    file: str
    """Its path."""
    moving = False
    """Whether neighbouring pages show the same things a moment apart, as the frames of a video do."""
    called = "pages"
    """What to call them in messages."""

    @abstractmethod
    def photo(self, number: int) -> NDArray[np.uint8]:
        """A page as a photo, [H,W,3]. Raises ValueError where it cannot be read."""

    def numbers(self, number: int) -> NDArray[Any]:
        """A page's own numbers, [H,W], as a mask has them."""
        raise ValueError(f"Expected a mask or a stack of masks, but {self.file} cannot hold one.")

    @overload
    def __getitem__(self, index: int) -> Page: ...
    @overload
    def __getitem__(self, index: slice) -> list[Page]: ...
    def __getitem__(self, index: int | slice) -> Page | list[Page]:
        """A page by its number, or several."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # raises IndexError, and counts negative numbers from the end
        return Page(self, number)

    def page(self, number: int) -> Page:
        """The page of a number that a user gave. Raises ValueError if there is none."""
        if number >= len(self):
            raise ValueError(
                f"Expected a page of {self.file}, 0 to {len(self) - 1}, but got {number}. The first page is 0."
            )
        return self[number]


OpenedFile = TypeVar("OpenedFile", bound=Pages)


class DamagedFile(ValueError):
    """A page that cannot be read."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message)
        self.file = file


def readable(
    files: dict[str, OpenedFile],
    settle: Callable[[list[OpenedFile]], list[OpenedFile]],
    on_error: Callable[[str, Exception], None],
) -> dict[str, OpenedFile]:
    """Files by their paths, settled together, without those of which `settle` finds that they cannot be read.

    `on_error` is called with the path of each such file, and the error; it may raise.
    """
    left = dict(files)
    while True:
        try:
            return dict(zip(left, settle(list(left.values())), strict=True))
        except DamagedFile as error:
            (path,) = [path for path, each in left.items() if each.file == error.file]
            on_error(path, error)
            del left[path]


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a Zarr folder."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _METADATA)


def is_folder_of_photos(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder, and no picture that is one, as a Zarr is."""
    return os.path.isdir(path) and not is_zarr(path)


def number_in_names(number: int) -> str:
    """How the number of a page is written in the names of its results."""
    return f"_{number:0{_DIGITS}d}"


def split_number(path: str) -> tuple[str, int | None]:
    """The file and the number of `scan.tif#3`; None for a path without a number, or if a file has just that name."""
    found = _NUMBERED.fullmatch(path)
    return (path, None) if found is None or os.path.exists(path) else (found[1], int(found[2]))


def stem_of(source: str) -> str:
    """How the names of a photo's results begin, by the photo's path or the name of a page."""
    file, number = split_number(source)
    return Path(source).stem if number is None else f"{Path(file).stem}{number_in_names(number)}"
