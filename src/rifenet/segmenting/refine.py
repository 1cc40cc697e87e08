"""Edges at full resolution: a guided filter makes a coarse map follow the photo's own edges.

The filter takes the map to be linear in the photo's colours in each window, `q = a . I + b` (K. He and J. Sun, "Fast
Guided Filter", 2015). It finds `a` and `b` on a small copy of the photo. It applies them to the full photo strip by
strip, which keeps its working memory small. Its input is `tanh(m / 2)` of a margin m (`segmenting.margins`), shrunk
first: `a` and `b` are means over windows anyway, so that they are as good at half the size, for a quarter of the time.

    H W the photo's own size · h w the map's
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.segmenting.boxes import box_mean

SHRUNK = 2  # how much larger the margins are than the map that the filter sees, on each axis
RADIUS = 4  # of the window, in pixels of that map
EPSILON = 1e-4  # smaller variances of the colours, in 0..1, count as flat and not as edges
STRIP = 2**21  # pixels of a strip of the photo

_BILINEAR = Image.Resampling.BILINEAR
_NEARLY_1 = np.float32(1 - 1e-6)


def refined(
    image: NDArray[np.uint8], coarse: NDArray[np.float32], *, radius: int = RADIUS, epsilon: float = EPSILON
) -> NDArray[np.float32]:
    """Enlarges a map [h,w] in [-1,1] to the size of the photo [H,W,3]; the map's edges move to the photo's edges."""
    out = np.empty(image.shape[:2], np.float32)
    for rows, part in refined_rows(image, coarse, radius=radius, epsilon=epsilon):
        out[rows] = part
    return out


def refined_rows(
    image: NDArray[np.uint8], coarse: NDArray[np.float32], *, radius: int = RADIUS, epsilon: float = EPSILON
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """`refined`, some rows [n,W] at a time."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(coarse.shape[::-1], _BILINEAR, reducing_gap=2.0)
    planes = _coefficients(np.asarray(small, np.float32) / np.float32(255), coarse, radius, epsilon)
    for rows in strips_of(height, width):
        box = (0, rows.start * coarse.shape[0] / height, coarse.shape[1], rows.stop * coarse.shape[0] / height)
        size = (width, rows.stop - rows.start)
        part = np.zeros(size[::-1], np.float32)
        for channel, plane in enumerate(planes):
            laid = np.asarray(Image.fromarray(plane).resize(size, _BILINEAR, box=box))
            part += laid * (image[rows, :, channel] / np.float32(255)) if channel < 3 else laid
        yield rows, part.clip(-1, 1)


def refined_margins(
    image: NDArray[np.uint8], margins: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Margins [h,w] at the size of the photo [H,W,3], with edges on the photo's, some rows [n,W] at a time."""
    size = tuple(-(-side // SHRUNK) for side in margins.shape[::-1])
    shrunk = np.asarray(Image.fromarray(np.tanh(margins / 2)).resize(size, _BILINEAR))
    for rows, signed in refined_rows(image, shrunk):
        yield rows, 2 * np.arctanh(signed.clip(-_NEARLY_1, _NEARLY_1))


def strips_of(height: int, width: int) -> Iterator[slice]:
    """Rows of a photo that are refined at a time."""
    step = max(1, STRIP // width)
    return (slice(start, min(height, start + step)) for start in range(0, height, step))


def _coefficients(
    guide: NDArray[np.float32], coarse: NDArray[np.float32], radius: int, epsilon: float
) -> list[NDArray[np.float32]]:
    """`a` of each colour and then `b`, [h,w] each, averaged over all windows that contain the pixel."""
    height, width = (max(1, min(radius, (length - 1) // 2)) for length in coarse.shape)
    window = height, width
    colours = [guide[..., channel].astype(np.float64) for channel in range(3)]
    means = [box_mean(colour, window) for colour in colours]
    mean = box_mean(coarse.astype(np.float64), window)
    covariance = np.empty((*coarse.shape, 3, 3))
    with_map = np.empty((*coarse.shape, 3))
    for first in range(3):
        with_map[..., first] = box_mean(colours[first] * coarse, window) - means[first] * mean
        for second in range(first, 3):
            product = box_mean(colours[first] * colours[second], window) - means[first] * means[second]
            covariance[..., first, second] = covariance[..., second, first] = product
    covariance += epsilon * np.eye(3)
    slopes = np.linalg.solve(covariance, with_map[..., None])[..., 0]
    offset = mean - sum(slopes[..., channel] * means[channel] for channel in range(3))
    planes = [*(slopes[..., channel] for channel in range(3)), offset]
    return [box_mean(plane, window).astype(np.float32) for plane in planes]
