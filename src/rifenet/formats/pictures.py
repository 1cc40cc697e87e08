"""Reads photos and masks of every kind as uint8 arrays, from files, PIL pictures and arrays. Only numpy and Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from rifenet import IGNORE

Source = str | PathLike[str] | Image.Image | NDArray[Any]
"""A picture: its path, a PIL picture or an array."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Suffixes, in lower case, of the files in a folder that count as photos."""

_STRIP = 2**20  # pixels
_LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "WEBP": "a WebP", "jpeg": "a TIFF of JPEG", "webp": "a TIFF of WebP"}


def load_image(source: Source) -> NDArray[np.uint8]:
    """RGB photo, uint8 [H, W, 3], from a path, a PIL image or an array.

    EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white.
    Arrays: [H, W] or [H, W, 1 | 3 | 4], uint8 or uint16. Raises FileNotFoundError, or ValueError naming the file.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, "the given image")
    picture, name = read_picture(source, "image")
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _array_to_rgb(np.asarray(picture), name)
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for rows in strips(picture.height, picture.width):
        part = picture.crop((0, rows.start, picture.width, rows.stop)).convert(mode)
        rgb[rows] = _rgb(np.asarray(part))
    return rgb


def load_mask(source: Source) -> NDArray[np.uint8]:
    """Index mask, uint8 [H, W] (0 background, class id, 255 ignore), from a palette or grey picture or an array.

    Booleans give 0 and 1. Raises FileNotFoundError, or ValueError for a coloured, lossy or unreadable mask.
    """
    if isinstance(source, np.ndarray):
        return _array_to_mask(source, "the given mask")
    picture, name = read_picture(source, "mask")
    if kind := lossy_kind(picture):
        raise ValueError(f"Expected a lossless mask, but {name} is {kind}, which may change labels. Save it as PNG.")
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I"):
        return _array_to_mask(np.asarray(picture), name)
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


def binary_mask(mask: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
    """1 where the mask is `value`, 255 where it is 255 (ignored), else 0."""
    binary = (mask == value).astype(np.uint8)
    binary[mask == IGNORE] = IGNORE
    return binary


def lossy_kind(picture: Image.Image) -> str | None:
    """Name of a lossy format, which may change labels, else None. All WebP counts: Pillow hides if it is lossless."""
    inside = str(picture.info.get("compression")).removeprefix("tiff_")
    return _LOSSY.get(inside if picture.format == "TIFF" else picture.format or "")


def read_picture(source: str | PathLike[str] | Image.Image, what: str) -> tuple[Image.Image, str]:
    """The upright picture, and its name for messages, such as "`what` file PATH". Raises as `load_image`."""
    name = f"the given {what}" if isinstance(source, Image.Image) else f"{what} file {fspath(source)}"
    if not isinstance(source, Image.Image) and not Path(source).is_file():
        raise FileNotFoundError(f"Expected {name}, but there is no such file.")
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as picture:
            picture.load()
            if picture.getexif().get(ExifTags.Base.Orientation) not in range(2, 9):
                return picture, name  # not through exif_transpose, which would copy it
            upright = ImageOps.exif_transpose(picture)
            upright.format = picture.format
            return upright, name
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise ValueError(f"Expected a readable picture, but cannot read {name}: {error}.") from error


def _array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"Expected an image [H, W], [H, W, 3] or [H, W, 4], but {name} is {list(array.shape)}.")
    if array.dtype.kind not in "ui" or array.min() < 0 or array.max() > 65535:
        raise ValueError(
            f"Expected image values 0..255 (uint8) or 0..65535 (uint16), but {name} holds {array.dtype} from"
            f" {array.min()} to {array.max()}. Scale to 0..255 and convert to uint8."
        )
    rgb = np.empty((*array.shape[:2], 3), np.uint8)
    for rows in strips(*array.shape[:2]):
        rgb[rows] = _rgb(array[rows])
    return rgb


def _rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """[H, W, 1 | 3 | 4] as uint8 [H, W, 1 | 3]."""
    if array.dtype != np.uint8:
        array = ((array.astype(np.int64) + 128) // 257).astype(np.uint8)
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint32)
        array = ((array[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return array


def _array_to_mask(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Expected a mask [H, W] with one number a pixel, but {name} is {list(array.shape)}.")
    if array.dtype not in (np.bool_, np.uint8) and not np.isin(array, np.arange(256)).all():
        raise ValueError(f"Expected whole numbers 0..255, but {name} holds {array.min()} to {array.max()}.")
    return array.astype(np.uint8)
