"""Scientific numbers as the bytes of a photo: which bands are its colours, and which numbers are black and white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.formats.remarks import remark

PERCENTILES = 0.1, 99.9
"""Of the numbers of all pages, those that become black and white."""
SAMPLED_PAGES, SAMPLED_VALUES = 32, 2**16
"""Of a file, and of each page and band, for the percentiles."""
_STRIP = 2**20  # pixels that are turned into bytes at a time

Window = tuple[float, float]
"""The number that becomes black, and the one that becomes white."""


class How(NamedTuple):
    """How the numbers of scientific files become photos. Check it with `checked`."""

    window: Window | str | None = None
    """Low and high; "auto" for percentiles of all files together; None for percentiles of all but bytes."""
    bands: tuple[int, ...] = ()
    """One band for grey, or three for red, green and blue, counted from 1; none for the first three, or the first."""


def checked(window: Any, bands: Any) -> How:
    """`How` of what a user gave. Raises ValueError."""
    if window is not None and window != "auto":
        fits = isinstance(window, Sequence) and not isinstance(window, str) and len(window) == 2
        if not fits or not all(np.isfinite(window)) or not window[0] < window[1]:
            raise ValueError(f"Expected window to be 'auto' or (low, high) with low below high, but got {window!r}.")
        window = (float(window[0]), float(window[1]))
    chosen = () if bands is None else tuple(bands)
    if len(chosen) not in (0, 1, 3) or any(not isinstance(band, int) or band < 1 for band in chosen):
        raise ValueError(f"Expected one or three bands, counted from 1, such as (4, 3, 2), but got {bands!r}.")
    return How(window, chosen)


def chosen_bands(count: int, wanted: tuple[int, ...], file: str, colours: bool) -> tuple[int, ...]:
    """The bands of a photo, counted from 1, of a file with `count`; one where a remark says so, if nobody chose.

    `colours`: the file says that its bands are those of a colour photo. Raises ValueError for bands that it lacks.
    """
    if wanted:
        if max(wanted) > count:
            raise ValueError(f"Expected bands from 1 to {count}, which {file} has, but got {max(wanted)}.")
        return wanted
    found = (1,) if count < 3 else (1, 2, 3)
    if count not in (1, 3) and not (colours and count in (2, 4)):  # with transparency, which is left out
        taken = "band 1 was taken, as grey" if found == (1,) else "bands 1, 2 and 3 were taken as red, green and blue"
        remark(file, f"It has {count} bands, and {taken}. Choose with --bands (bands=).")
    return found


def windows_of(samples: Sequence[NDArray[Any]], together: bool) -> tuple[Window, ...]:
    """A window for each band by `PERCENTILES` of samples [N,B] of several pages; one for all bands if `together`."""
    values = np.concatenate([sample.reshape(-1, sample.shape[-1]) for sample in samples]).astype(np.float64)
    count = values.shape[1]
    columns = [values.ravel()] * count if together else list(values.T)
    return tuple(_window(column[np.isfinite(column)]) for column in columns)


def _window(values: NDArray[np.float64]) -> Window:
    low, high = (float(each) for each in np.percentile(values, PERCENTILES)) if values.size else (0.0, 1.0)
    if low == high and values.size:
        low, high = float(values.min()), float(values.max())  # a few bright pixels on one level
    return (low, high) if low < high else (low, low + 1)


def full_range(dtype: np.dtype[Any]) -> Window | None:
    """The window of numbers that need none: bytes and booleans. None for others."""
    return {"bool": (0.0, 1.0), "uint8": (0.0, 255.0)}.get(dtype.name)


def as_photo(values: NDArray[Any], windows: Sequence[Window]) -> NDArray[np.uint8]:
    """Numbers [H,W,B] of one or three bands as a photo uint8 [H,W,3]; what is no number becomes black."""
    height, width, count = values.shape
    photo = np.empty((height, width, 3), np.uint8)
    low = np.array([window[0] for window in windows], np.float64)
    span = np.array([window[1] - window[0] for window in windows], np.float64)
    step = max(1, _STRIP // max(1, width))
    for start in range(0, height, step):
        part = np.nan_to_num((values[start : start + step] - low) / span, nan=0.0)
        part *= 255  # in place: a strip of float64 is the largest array here
        photo[start : start + step] = np.rint(part.clip(0, 255)).astype(np.uint8) if count == 3 else _grey(part)
    return photo


def _grey(part: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(part.clip(0, 255)).astype(np.uint8).repeat(3, axis=2)
