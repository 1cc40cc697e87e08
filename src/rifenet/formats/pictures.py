"""Reads photos and masks of every kind as uint8 arrays, from files, PIL pictures and arrays. Only numpy and Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.formats.bands import array_of, as_bytes, channels_last, is_transparency, over_white, scales_of
from rifenet.formats.pages import Page
from rifenet.formats.picture_files import (
    all_bits,
    check_size,
    load_pixels,
    open_picture,
    orientation_of,
    say_other_pages,
    second_reader,
    turned,
    turned_array,
)

Source = str | PathLike[str] | Image.Image | NDArray[Any] | Page
"""A picture: its path, a PIL picture, an array, or a page of a file that holds several."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Suffixes, in lower case, of the files in a folder that count as photos."""

_STRIP = 2**20  # pixels
_EXTRA_SAMPLES = 338  # TIFF's tag of what the bands after the colours are
_LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "WEBP": "a WebP", "jpeg": "a TIFF of JPEG", "webp": "a TIFF of WebP"}


def load_image(source: Source) -> NDArray[np.uint8]:
    """RGB photo, uint8 [H, W, 3], from a path, a PIL image or an array. Raises FileNotFoundError or ValueError.

    EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white.
    Arrays are read as `bands.rgb_of` says. What could mean two things gets a remark (`formats.remarks`).
    """
    return load_photo(source)[0]


def load_photo(source: Source) -> tuple[NDArray[np.uint8], int]:
    """As `load_image`, and the EXIF orientation that was undone, 1 to 8; 1 for none."""
    if isinstance(source, Page):
        return source.read(), 1
    if not isinstance(source, str | PathLike | Image.Image):
        return _array_to_rgb(array_of(source, "image"), "the given image"), 1
    read = _read(source, "image")
    if read.deep is not None:
        return _array_to_rgb(read.deep, read.name), read.orientation
    picture = read.picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _array_to_rgb(np.asarray(picture), read.name), read.orientation
    mode = "RGBA" if picture.has_transparency_data and _shows_through(picture, read.name) else "RGB"
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for rows in strips(picture.height, picture.width):
        part = np.asarray(picture.crop((0, rows.start, picture.width, rows.stop)).convert(mode))
        rgb[rows] = over_white(part[:, :, :3], part[:, :, 3:]) if mode == "RGBA" else part
    return rgb, read.orientation


def load_mask(source: Source) -> NDArray[np.uint8]:
    """Index mask, uint8 [H, W] (0 background, class id, 255 ignore), from a palette or grey picture or an array.

    Booleans give 0 and 1. Raises FileNotFoundError, or ValueError for a coloured, lossy or unreadable mask.
    """
    if not isinstance(source, str | PathLike | Image.Image):
        return index_of(array_of(source, "mask"), "the given mask")
    picture, name = read_picture(source, "mask")
    if kind := lossy_kind(picture):
        raise ValueError(f"Expected a lossless mask, but {name} is {kind}, which may change labels. Save it as PNG.")
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I"):
        return index_of(np.asarray(picture), name)
    colours = np.asarray(picture.convert("RGBA"))
    if (colours[..., 3] < 255).any() or (colours[..., :3] != colours[..., :1]).any():
        raise ValueError(
            f"Expected an index mask (one number a pixel: 0 background, class id, 255 ignore), but {name} is coloured"
            f" or transparent ({picture.mode}). Save it as a palette or grey PNG whose values are class ids."
        )
    return np.array(colours[..., 0])


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture, about a million pixels at a time: what is made of each takes little memory."""
    step = max(1, _STRIP // max(1, width))
    return (slice(start, min(height, start + step)) for start in range(0, height, step))


def binary_mask(mask: NDArray[np.uint8], *values: int) -> NDArray[np.uint8]:
    """1 where the mask is one of `values`, 255 where it is 255 (ignored), else 0."""
    binary = np.isin(mask, values).astype(np.uint8) if len(values) != 1 else (mask == values[0]).astype(np.uint8)
    binary[mask == IGNORE] = IGNORE
    return binary


def lossy_kind(picture: Image.Image) -> str | None:
    """Name of a lossy format, which may change labels, else None. All WebP counts: Pillow hides if it is lossless."""
    inside = str(picture.info.get("compression")).removeprefix("tiff_")
    return _LOSSY.get(inside if picture.format == "TIFF" else picture.format or "")


def read_picture(source: str | PathLike[str] | Image.Image, what: str) -> tuple[Image.Image, str]:
    """The upright picture, and its name for messages, such as "`what` file PATH". Raises as `load_image`."""
    read = _read(source, what)
    return read.picture, read.name


class _Read(NamedTuple):
    picture: Image.Image
    """Upright."""
    name: str
    orientation: int
    """The EXIF orientation that was undone."""
    deep: NDArray[np.uint16] | None
    """All 16 bits of a dark picture of 16 bits a colour, [H,W,3 | 4]. Pillow keeps the upper 8 alone."""


def _read(source: str | PathLike[str] | Image.Image, what: str) -> _Read:
    name = named(source, what)
    if not isinstance(source, Image.Image):
        path = Path(source)
        if path.is_dir():
            raise FileNotFoundError(f"Expected {name}, but it is a folder. Give its files one by one.")
        if not path.is_file():
            raise FileNotFoundError(f"Expected {name}, but there is no such file.")
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else open_picture(source) as picture:
            check_size(picture)
            say_other_pages(picture, name)
            again = second_reader(picture)
            orientation = orientation_of(picture, name)
            load_pixels(picture)
            deep = None if again is None else all_bits(picture, again)
            if orientation == 1 or picture.format == "TIFF":  # which Pillow has turned
                return _Read(picture, name, orientation, deep)
            upright = turned(picture, orientation)
            upright.format = picture.format
            deep = None if deep is None else turned_array(deep, orientation)
            return _Read(upright, name, orientation, deep)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise ValueError(f"Expected a readable picture, but cannot read {name}: {error}.") from error


def named(source: str | PathLike[str] | Image.Image, what: str) -> str:
    """What to call a picture in messages."""
    return f"the given {what}" if isinstance(source, Image.Image) else f"{what} file {fspath(source)}"


def _array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    array = channels_last(array, name)
    scales = scales_of(array, name)
    rgb = np.empty((*array.shape[:2], 3), np.uint8)
    for rows in strips(*array.shape[:2]):
        rgb[rows] = as_bytes(array[rows], scales)
    return rgb


def _shows_through(picture: Image.Image, name: str) -> bool:
    """Whether the transparency of a picture with transparency is one."""
    if picture.mode not in ("RGBA", "LA", "PA"):
        return True  # one colour, or some of a palette
    counts = picture.getchannel("A").histogram()
    by_format = not (picture.format == "TIFF" and _EXTRA_SAMPLES not in getattr(picture, "tag_v2", {}))
    total = max(1, sum(counts))
    return is_transparency(sum(counts[1:255]) / total, counts[0] < total, name, by_format)


def index_of(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """An array [H,W], [H,W,1] or [1,H,W] of whole numbers from 0 to 255 as uint8 [H,W]. Raises ValueError."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[:, :, 0] if array.shape[2] == 1 else array[0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Expected a mask [H, W] with one number a pixel, but {name} is {list(array.shape)}.")
    if array.dtype not in (np.bool_, np.uint8) and not np.isin(array, np.arange(256)).all():
        raise ValueError(f"Expected whole numbers 0..255, but {name} holds {array.min()} to {array.max()}.")
    return array.astype(np.uint8)
