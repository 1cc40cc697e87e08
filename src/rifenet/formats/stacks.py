"""Stacks of scientific pictures: TIFF of any depth, bands and pages, OME-TIFF, ImageJ hyperstacks, and OME-Zarr.

Y and X are a page's rows and columns, C and S its bands; all other axes (Z, T, ...) count pages, in the file's order.
Of a pyramid the largest level is read. Pages are read from disk one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.config import needs
from rifenet.files import write_atomically
from rifenet.formats.contrast import (
    PERCENTILES,
    SAMPLED_PAGES,
    SAMPLED_VALUES,
    How,
    Window,
    as_photo,
    chosen_bands,
    full_range,
    windows_of,
)
from rifenet.formats.pages import DamagedFile, Pages
from rifenet.formats.picture_files import MOST_PIXELS
from rifenet.formats.remarks import remark

TIFF_SUFFIXES = (".tif", ".tiff")
_ALL_SERIES = ("generic", "uniform", "shaped", "imagej")  # kinds whose series are pages of different sizes


class Part(NamedTuple):
    """An array of a file."""

    array: Any
    """Anything that has a shape and gives NumPy arrays where it is indexed."""
    axes: str
    """A letter for each of its axes."""

    def shape_of(self, kind: str) -> tuple[int, ...]:
        """Its lengths along the axes of letters in `kind`; a letter apart from YXCS stands for all others."""
        return tuple(length for axis, length in zip(self.axes, self.array.shape, strict=True) if _kind(axis) in kind)

    @property
    def pages(self) -> int:
        """Number of pages."""
        return int(np.prod(self.shape_of("Z"), dtype=np.int64))

    @property
    def bands(self) -> int:
        """Number of bands of a page."""
        return int(np.prod(self.shape_of("CS"), dtype=np.int64))

    def values(self, number: int, bands: Sequence[int]) -> NDArray[Any]:
        """Bands, counted from 1, of a page: [H,W,B]."""
        page = iter(np.unravel_index(number, self.shape_of("Z")) if self.shape_of("Z") else ())
        at = [int(next(page)) if _kind(axis) == "Z" else slice(None) for axis in self.axes]
        channel, sample = self.axes.find("C"), self.axes.find("S")
        samples = self.array.shape[sample] if sample >= 0 else 1
        found = []
        read: dict[int, NDArray[Any]] = {}  # colours lie together in a file, so they are read at once
        for band in bands:
            if channel >= 0:
                at[channel] = (band - 1) // samples
            key = (band - 1) // samples
            if key not in read:
                read[key] = self._planes(tuple(at))
            found.append(read[key][..., (band - 1) % samples])
        return np.stack(found, axis=-1)

    def _planes(self, at: tuple[int | slice, ...]) -> NDArray[Any]:
        """What lies at a place of the array, [H,W,S]."""
        left = [axis for axis, where in zip(self.axes, at, strict=True) if isinstance(where, slice)]
        planes = np.asarray(self.array[at])
        order = [left.index(axis) for axis in ("Y", "X", "S") if axis in left]
        planes = planes.transpose(order)
        return planes if "S" in left else planes[..., None]


def _kind(axis: str) -> str:
    return axis if axis in "YXCS" else "Z"


@dataclass(frozen=True, eq=False)
class PageStack(Pages):
    """A TIFF or an OME-Zarr folder. `open_stack` makes one, and `settled` chooses bands and contrast."""

    file: str
    parts: tuple[Part, ...]
    """Its arrays, whose pages follow each other."""
    colours: bool
    """Whether the bands are the colours of one photo, which share their contrast."""
    bands: tuple[int, ...] = ()
    """The bands of its photos, counted from 1."""
    windows: tuple[Window, ...] = ()
    """Of each of `bands`."""
    palette: NDArray[np.uint8] | None = None
    """Colours [N,3] that its numbers stand for, unless somebody chose bands or a window."""
    white_is_zero: bool = False
    """Whether its smallest number is white."""
    opened: Any = None
    """What closes the file once nobody has the stack."""

    def __len__(self) -> int:
        """Number of pages."""
        return sum(part.pages for part in self.parts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        return np.result_type(*(part.array.dtype for part in self.parts))

    @property
    def band_count(self) -> int:
        """Number of bands."""
        return min(part.bands for part in self.parts)

    def values(self, number: int, bands: Sequence[int]) -> NDArray[Any]:
        """Bands, counted from 1, of a page: [H,W,B]. Raises ValueError where it cannot be read."""
        inside = number
        for part in self.parts:
            if inside < part.pages:
                break
            inside -= part.pages
        height, width = (part.array.shape[part.axes.index(axis)] for axis in "YX")
        if height * width > MOST_PIXELS:
            raise ValueError(
                f"Expected pages of at most {MOST_PIXELS:,} pixels, but {self.file} has {width} x {height}. Segment it"
                " as a scene, which is read in parts: Segmenter.segment_scene (rifenet[geo])."
            )
        try:
            return part.values(inside, bands)
        except Exception as error:  # codecs raise errors of their own on damaged or unknown data
            told = f"Expected to read page {number} of {self.file}, but cannot: {error}."
            raise DamagedFile(self.file, told) from error

    def photo(self, number: int) -> NDArray[np.uint8]:
        """A page as a photo, [H,W,3], by the stack's bands and windows."""
        values = self.values(number, self.bands)
        return as_photo(values, self.windows) if self.palette is None else self.palette[values[..., 0]]

    def numbers(self, number: int) -> NDArray[Any]:
        """A page's own numbers, [H,W]. Raises ValueError where it has several bands."""
        if self.band_count != 1:
            raise ValueError(f"Expected a mask with one number a pixel, but {self.file} has {self.band_count} bands.")
        return self.values(number, (1,))[..., 0]

    def sample(self) -> NDArray[Any]:
        """Numbers of its bands, [N,B], from pages and pixels at equal distances."""
        pages = np.unique(np.linspace(0, len(self) - 1, min(len(self), SAMPLED_PAGES)).round().astype(int))
        taken = []
        for number in pages.tolist():
            values = self.values(number, self.bands)
            step = max(1, int(np.ceil((values.shape[0] * values.shape[1] / SAMPLED_VALUES) ** 0.5)))
            taken.append(values[::step, ::step].reshape(-1, len(self.bands)))
        return np.concatenate(taken)


class _Closing:
    """Closes a file once nobody has this any more."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()


def settled(stacks: Sequence[PageStack], how: How) -> list[PageStack]:
    """Stacks with bands and contrast. Percentiles are those of all stacks together that have as many bands."""
    chosen = [
        replace(stack, bands=chosen_bands(stack.band_count, how.bands, stack.file, stack.colours)) for stack in stacks
    ]
    groups: dict[tuple[int, bool], list[PageStack]] = {}
    for stack in chosen:
        if _known_window(stack, how) is None:
            groups.setdefault((len(stack.bands), stack.colours), []).append(stack)
    found = {kind: windows_of([stack.sample() for stack in group], kind[1]) for kind, group in groups.items()}
    ready = []
    for stack in chosen:
        known = _known_window(stack, how)
        windows = found[len(stack.bands), stack.colours] if known is None else (known,) * len(stack.bands)
        if stack.white_is_zero:
            windows = tuple((high, low) for low, high in windows)
        ready.append(replace(stack, windows=windows, palette=stack.palette if how == How() else None))
        if known is None and how.window is None and len(stack) == 1:
            _say_window(ready[-1])
    return ready


def _known_window(stack: PageStack, how: How) -> Window | None:
    """The window of all bands; None where percentiles have to tell."""
    if isinstance(how.window, tuple):
        return how.window
    return None if how.window == "auto" else full_range(stack.dtype)


def _say_window(stack: PageStack) -> None:
    taken = "; ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(stack.windows))
    remark(
        f"image file {stack.file}",
        f"Its numbers ({stack.dtype}) are not those of a photo, so {taken} was taken for black to white, from"
        f" percentiles {PERCENTILES[0]} and {PERCENTILES[1]}. Choose with --window low,high (window=).",
    )


def open_stack(path: str) -> PageStack:
    """Opens a TIFF or a Zarr folder, without reading pixels.

    Raises FileNotFoundError, ValueError for what is neither, and `config.MissingExtra` (`rifenet[tiff]`).
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"Expected image file {path}, but there is no such file.")
    return _open_zarr(path) if Path(path).is_dir() else _open_tiff(path)


def _open_tiff(path: str) -> PageStack:
    with needs("rifenet[tiff]"):
        import imagecodecs  # noqa: F401 - without it, tifffile reads few kinds of compression
        import tifffile
        import zarr
    try:
        file = tifffile.TiffFile(path)
        opened = _Closing(file)
        images = _images_of(file)
        parts = tuple(Part(zarr.open(_store(each), mode="r"), each.axes) for each in images)
        if not parts:
            raise ValueError("it holds no picture")
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"Expected a readable TIFF, but cannot read {path}: {error}.") from error
    if file.series[0].kind not in _ALL_SERIES and len(file.series) > 1:
        remark(f"image file {path}", f"It holds {len(file.series)} images of their own, and only the first was read.")
    stack = PageStack(path, parts, "S" in parts[0].axes, white_is_zero=_photometric(images[0]) == "MINISWHITE")
    _check_numbers(stack)
    return replace(stack, palette=_palette(images[0]), opened=opened)


def _check_numbers(stack: PageStack) -> None:
    """Raises ValueError for numbers that are no levels; a remark tells of pages that differ."""
    kinds = list(dict.fromkeys(str(part.array.dtype) for part in stack.parts))
    if stack.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected integers or floats, but {stack.file} holds {kinds[0]}. Save what should be seen, such as"
            " magnitudes, as floats."
        )
    if len(kinds) > 1 or len({part.bands for part in stack.parts}) > 1:
        remark(
            f"image file {stack.file}",
            f"Its pages differ in numbers or bands ({', '.join(kinds)}), and share one contrast and"
            f" {stack.band_count} band(s). Choose with --window and --bands, or save them as files of their own.",
        )


def _photometric(image: Any) -> str:
    return str(getattr(image.keyframe.photometric, "name", ""))


def _palette(image: Any) -> NDArray[np.uint8] | None:
    """The colours of a TIFF's palette, [N,3]."""
    table = getattr(image.keyframe, "colormap", None)
    if _photometric(image) != "PALETTE" or table is None:
        return None
    return (np.asarray(table, np.uint16).T >> 8).astype(np.uint8)


def _images_of(file: Any) -> list[Any]:
    """Series of a TIFF, or pages of one whose pages differ, in their order: both have axes and give a Zarr store."""
    series = [each for each in file.series if {"Y", "X"} <= {*each.axes}]
    if not series or series[0].kind not in _ALL_SERIES:
        return series[:1]
    if series[0].kind != "generic" or len(series) == 1:
        return series
    smaller = {page.offset for each in series for level in each.levels[1:] for page in level.pages}
    return [page for page in file.pages if not page.is_reduced and page.offset not in smaller]


def _store(image: Any) -> Any:
    """A Zarr store of an image's largest level, whose chunks are tiles, or pages where there are none."""
    return image.aszarr(level=0, chunkmode=None if image.keyframe.is_tiled else "page")


def _open_zarr(path: str) -> PageStack:
    with needs("rifenet[tiff]"):
        import zarr
    try:
        group: Any = zarr.open(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        multiscales = (attributes.get("ome") or attributes).get("multiscales")
        if not multiscales or not hasattr(group, "group_keys"):
            raise ValueError("it has no multiscales, which say what its axes are")
        first = multiscales[0]
        array: Any = group[first["datasets"][0]["path"]]
        axes = [each if isinstance(each, str) else each["name"] for each in first.get("axes", "tczyx")]
        letters = "".join(str(axis)[0] for axis in axes).upper()
        if len(letters) != array.ndim or not letters.endswith("YX"):
            raise ValueError(f"its axes are {axes}, and its array has {array.ndim}")
    except Exception as error:
        raise ValueError(f"Expected an OME-Zarr image, but cannot read {path}: {error}.") from error
    return PageStack(path, (Part(array, letters),), colours=False)


def write_masks(path: Path, masks: Iterable[NDArray[np.uint8]]) -> None:
    """Writes masks [H,W] as the pages of a TIFF, one at a time. Raises OSError on a full disk, and `MissingExtra`."""
    with needs("rifenet[tiff]"):
        import tifffile

    def write(target: Path) -> None:
        with tifffile.TiffWriter(target) as out:
            for mask in masks:
                out.write(mask, photometric="minisblack", compression="zlib", contiguous=False, metadata=None)

    write_atomically(path, write)
