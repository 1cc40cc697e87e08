"""Tells what the numbers of a photo's array mean: the order of the axes, the full scale, and the fourth band.

Arrays come from files, cameras, NumPy and torch. Where an array can be read in two ways, a remark says which was taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.formats.remarks import remark

_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and scanners
_CLEAR = 0.5  # a fourth band with more values than this between its ends is no transparency


def array_of(source: Any, what: str) -> NDArray[Any]:
    """An array, a tensor or nested lists of numbers as an array; `what` is "image" or "mask".

    Raises ValueError for anything else, such as a list of paths.
    """
    wanted = f"Expected the given {what} as a path, a PIL picture or an array"
    if isinstance(source, list | tuple) and any(
        isinstance(each, str | bytes) or hasattr(each, "size") for each in source
    ):
        raise ValueError(f"{wanted}, but got a {type(source).__name__} of {len(source)}. Give them one by one.")
    if not (isinstance(source, list | tuple) or hasattr(source, "__array__")):
        raise ValueError(f"{wanted}, but got {_briefly(source)}.")
    try:
        array = np.asarray(source)
    except (
        Exception
    ) as error:  # ragged lists raise ValueError, tensors of a GPU TypeError, tensors with a gradient more
        raise ValueError(f"{wanted}, but cannot make an array of a {type(source).__name__}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{wanted} of numbers, but got {_briefly(source)} of {array.dtype}.")
    return array


def _briefly(source: Any) -> str:
    return "None" if source is None else f"a {type(source).__name__}"


class Scales(NamedTuple):
    """What the numbers of a photo [H,W,C] mean."""

    full: int
    """The value that stands for full brightness."""
    opaque: int
    """The value of the fourth band that stands for opaque; 0 if there is no band of transparency."""


def scales_of(array: NDArray[Any], name: str) -> Scales:
    """Scales of a photo [H,W,1 | 3 | 4]. `name`: what to call it in messages.

    Integers up to 65535 have the scale of the fewest bits of a camera that hold them; floats in [0,1] have 1. A fourth
    band is transparency unless its values say otherwise. Raises ValueError for other numbers.
    """
    full, band = _full_scale(array[:, :, :3], name), array[:, :, 3:]
    return Scales(full, _opaque(band, name) if band.size else 0)


def as_bytes(array: NDArray[Any], scales: Scales) -> NDArray[np.uint8]:
    """Numbers [H,W,1 | 3 | 4] as uint8 [H,W,1 | 3], laid over white where they are transparent."""
    colours = _bytes(array[:, :, :3], scales.full)
    return over_white(colours, _bytes(array[:, :, 3:], scales.opaque)) if scales.opaque else colours


def over_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours [H,W,C] laid over white by their opacity [H,W,1]."""
    opacity = alpha.astype(np.uint32)
    return ((colours * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def channels_last(array: NDArray[Any], name: str) -> NDArray[Any]:
    """A photo's array as [H,W,1 | 3 | 4]; [C,H,W] counts as such only where it cannot be [H,W,C]. Raises ValueError."""
    given = list(array.shape)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]  # a batch of one
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2) if array.shape[0] < min(array.shape[1:]) else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"Expected an image [H, W], [H, W, 3] or [H, W, 4], but {name} is {given}.")
    return array


def _full_scale(array: NDArray[Any], name: str, quiet: bool = False) -> int:
    """The value that stands for full brightness."""
    if array.dtype == np.uint8:
        return 255
    if array.dtype == np.bool_:
        return 1
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and 0 < high <= 1:
        return 1
    if array.dtype.kind not in "ui" or low < 0 or high > 65535:
        raise ValueError(
            f"Expected image values 0..255 (uint8), 0..65535 (uint16) or 0..1 (float), but {name} holds {array.dtype}"
            f" from {low} to {high}. Scale to 0..255 and convert to uint8."
        )
    bits = next(depth for depth in _DEPTHS if high < 2**depth)
    usual = 8 if array.dtype != np.uint16 and bits == 8 else 16  # NumPy's own integers hold bytes, too
    if high and bits != usual and not quiet:
        remark(
            name,
            f"Its largest value is {high}, so its numbers were taken for {bits} bits (0 to {2**bits - 1}), not for 16."
            " If that makes it too bright, scale it to 0..65535.",
        )
    return 2**bits - 1


def _bytes(array: NDArray[Any], full: int) -> NDArray[np.uint8]:
    """Numbers from 0 to `full` as 0..255."""
    if array.dtype == np.uint8 and full == 255:
        return array
    if array.dtype.kind == "f":
        return np.rint(array * 255).astype(np.uint8)
    return ((array.astype(np.int64) * 255 + full // 2) // full).astype(np.uint8)


def _opaque(band: NDArray[Any], name: str) -> int:
    """The value of the fourth band that stands for opaque; 0 if the band is no transparency."""
    anything = bool(band.any())
    top = _full_scale(band, name, quiet=True) if anything else 1
    between = sum(int(((row > 0) & (row < top)).sum()) for row in band)
    return top if is_transparency(between / band.size, anything, name) else 0


def is_transparency(between: float, anything: bool, name: str, by_format: bool = False) -> bool:
    """Whether a fourth band is transparency; if not, a remark says that it is left out.

    Args:
        between: share of its values that are neither all nor nothing.
        anything: whether any value is above 0.
        name: what to call the picture.
        by_format: the format of the file says that the band is transparency.
    """
    if not anything:
        remark(name, "It is transparent everywhere, so its colours were taken without the transparency.")
        return False
    if between > _CLEAR and not by_format:
        remark(
            name,
            f"{100 * between:.0f}% of the values of its fourth band are neither all nor nothing, so the band was not"
            " taken for transparency, and left out. If it is, save it as PNG.",
        )
        return False
    return True
