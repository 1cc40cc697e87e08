"""Opens picture files with Pillow, and mends what Pillow leaves open: size limits, turns, pages, 16-bit colours."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from rifenet.formats.remarks import remark

MOST_PIXELS = 2**30
"""Of a photo. It takes about 9 bytes a pixel of memory."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes a picture of that EXIF orientation upright
_XMP = ("XML:com.adobe.xmp", "xmp")
_XMP_TURN = re.compile(r"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([2-8])")
_SUBFILE = 254  # TIFF's tag of what a page is
_COPY_OR_CLIPPING = 0b101  # a smaller copy of another page, or its transparency
_DEEP = re.compile(r"(RGB[AaX]?;16)([BLN])")
_DARK = 64  # upper bytes below this leave bits of a camera in the lower ones
_OTHERS = "`Segmenter.segment` and `rifenet segment --query` read all, a TIFF's with rifenet[tiff]."
_unlimited = threading.Lock()


class Frame(NamedTuple):
    """The size and the turn of a photo, which its labels have to fit."""

    height: int
    """Of the upright photo, in pixels."""
    width: int
    orientation: int = 1
    """By its EXIF entry, 1 to 8; 1 is upright."""


def open_picture(file: str | PathLike[str] | IO[bytes], formats: tuple[str, ...] | None = None) -> Image.Image:
    """Opens a picture of any size without reading its pixels. Raises as Pillow does."""
    try:
        picture = Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        with _no_limit():
            picture = Image.open(file, formats=formats)
    return picture


def check_size(picture: Image.Image) -> None:
    """Raises ValueError for a picture of more than `MOST_PIXELS`."""
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(
            f"it has {picture.width} x {picture.height} pixels, more than {MOST_PIXELS:,}. Cut it into parts, or scale"
            " it down"
        )


def load_pixels(picture: Image.Image) -> None:
    """Reads the pixels of an opened picture, also of a large one."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        with _no_limit():
            picture.load()
    else:
        picture.load()


@contextmanager
def _no_limit() -> Iterator[None]:
    """Lifts Pillow's limit on pixels, which is one for the whole process, while one large picture is opened or read."""
    with _unlimited:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def orientation_of(picture: Image.Image, name: str) -> int:
    """The orientation, 1 to 8, by the EXIF entry of a picture; of a TIFF, ask before its pixels are read.

    Browsers and annotation tools turn a photo by EXIF alone. An XMP entry that turns it too is left out, with a remark;
    of a TIFF, Pillow itself undoes the orientation when it reads the pixels.
    """
    found = picture.getexif().get(ExifTags.Base.Orientation)
    stated = str(next((picture.info[key] for key in _XMP if picture.info.get(key)), ""))
    turn = _XMP_TURN.search(stated)
    if turn and not _has_exif_orientation(picture):
        remark(
            name,
            f"Its XMP entry turns it (orientation {turn[1]}), but its EXIF entry does not. It was taken as stored, as"
            " browsers show it.",
        )
        if picture.format == "TIFF":
            picture.getexif()[ExifTags.Base.Orientation] = 1
        return 1
    return found if found in _TURNS else 1


def _has_exif_orientation(picture: Image.Image) -> bool:
    if picture.format == "TIFF":
        return ExifTags.Base.Orientation in getattr(picture, "tag_v2", {})
    if not (stored := picture.info.get("exif")):
        return "Raw profile type exif" in picture.info
    exif = Image.Exif()
    exif.load(stored)
    return ExifTags.Base.Orientation in exif


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture of this EXIF orientation, upright."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def turned_array(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """As `turned`, of an array [H,W,...]."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def say_other_pages(picture: Image.Image, name: str) -> None:
    """Remarks that a file has further pages or frames, which are not read; smaller copies of a page are none."""
    try:
        pages = count_pages(picture)
    except Exception:  # a damaged page behind the first, which alone is read
        return
    if pages > 1:
        what = "pages" if picture.format == "TIFF" else "frames"
        remark(name, f"It has {pages} {what}, and only the first was read. {_OTHERS}")


def count_pages(picture: Image.Image) -> int:
    """Number of pages or frames of an opened picture, without smaller copies; 1 where a caller has gone to one."""
    if picture.format not in ("TIFF", "GIF", "WEBP", "PNG") or not getattr(picture, "is_animated", False):
        return 1
    frames = int(getattr(picture, "n_frames", 1))
    if picture.format != "TIFF" or picture.tell() > 0:
        return frames if picture.tell() == 0 else 1  # a caller who has gone to a frame wants that one
    kinds = []
    for frame in range(frames):
        picture.seek(frame)
        kinds.append(int(getattr(picture, "tag_v2", {}).get(_SUBFILE, 0)))
    picture.seek(0)
    return sum(not kind & _COPY_OR_CLIPPING for kind in kinds)


def second_reader(picture: Image.Image) -> Callable[[], Image.Image] | None:
    """Opens a picture of 16 bits a colour once more; None for others. Ask first: even asking for EXIF reads a PNG."""
    tiles = getattr(picture, "tile", None)
    if picture.format not in ("PNG", "TIFF") or not tiles or not _DEEP.fullmatch(_raw_mode(tiles[0])):
        return None
    formats, file = (picture.format,), getattr(picture, "filename", "") or getattr(picture, "fp", None)
    if not file:
        return None
    return lambda: open_picture(file, formats)


def all_bits(picture: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.uint16] | None:
    """All 16 bits of a dark picture, [H,W,3 | 4], as stored; None for a bright one, of which the upper 8 will do.

    Pillow reads the upper byte of each number. Told the other order of bytes, it reads the lower.
    """
    upper = np.asarray(picture)
    if upper[:, :, :3].max() >= _DARK:
        return None
    with again() as other:
        other.tile = [tile._replace(args=_other_byte(tile.args)) for tile in other.tile]  # type: ignore[attr-defined]
        load_pixels(other)
        lower = np.asarray(other)
    return (upper.astype(np.uint16) << 8) | lower


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _other_byte(args: Any) -> Any:
    mode = args if isinstance(args, str) else args[0]
    found = _DEEP.fullmatch(mode)
    assert found is not None
    native = "L" if sys.byteorder == "little" else "B"
    order = {"L": "B", "B": "L"}[native if found[2] == "N" else found[2]]
    return found[1] + order if isinstance(args, str) else (found[1] + order, *args[1:])
