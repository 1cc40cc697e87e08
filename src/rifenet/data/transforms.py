"""Photos to network-sized arrays, and scores back to the original size. Only numpy and Pillow.

Every resize maps pixel centres to pixel centres ("half-pixel"), so `restore` undoes `resize_and_pad` without an offset.
Published code is up to 7 px off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.formats.pictures import strips

MEAN = (0.485, 0.456, 0.406)
"""ImageNet's mean colour, in [0,1]: the padding of network inputs."""

_NEAREST, _BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Placement:
    """A height x width picture at scaled_height x scaled_width, in the top left corner of a size x size square."""

    height: int
    width: int
    size: int
    scaled_height: int
    scaled_width: int


def place(height: int, width: int, size: int) -> Placement:
    """Placement with the longer side scaled to `size` and the same aspect ratio; each side keeps at least 1 px.

    Raises ValueError for a picture or a size below 1 px.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"Expected a picture and a size of at least 1 px, but got {width} x {height} and {size}.")
    scale = size / max(height, width)
    return Placement(height, width, size, max(1, round(height * scale)), max(1, round(width * scale)))


def resize_and_pad(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], Placement]:
    """Network input of a uint8 [H, W, 3] photo, its valid mask, and the placement for `resize_mask` and `restore`.

    The input is float32 [3, size, size] in [0,1], padded right and below with MEAN; valid is [size, size], True on the
    real pixels.
    """
    placement = place(image.shape[0], image.shape[1], size)
    height, width = placement.scaled_height, placement.scaled_width
    pixels = np.empty((3, size, size), np.float32)
    pixels[:] = np.array(MEAN, np.float32)[:, None, None]
    pixels[:, :height, :width] = to_float(np.asarray(resized(image, height, width)))
    valid = np.zeros((size, size), bool)
    valid[:height, :width] = True
    return pixels, valid, placement


def squash(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], Placement]:
    """Like `resize_and_pad`, but stretches the photo to the whole square, without padding (protocol `hsnet`)."""
    place(image.shape[0], image.shape[1], size)  # raises for empty pictures and sizes
    pixels = to_float(np.asarray(resized(image, size, size)))
    return pixels, np.ones((size, size), bool), Placement(image.shape[0], image.shape[1], size, size, size)


def resize_mask(mask: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Mask scaled and padded like its image, uint8 [size, size]: nearest neighbour, padding 255.

    The result has the same labels as the mask: a class that falls between the sampled pixels keeps one pixel. Raises
    ValueError if mask and image differ in size.
    """
    if mask.shape != (placement.height, placement.width):
        raise ValueError(
            f"Expected a mask of the image's size, {placement.width} x {placement.height}, but got"
            f" {mask.shape[1]} x {mask.shape[0]} (width x height)."
        )
    height, width = placement.scaled_height, placement.scaled_width
    labels = np.array(Image.fromarray(mask).resize((width, height), _NEAREST))
    before, after = (np.array(Image.fromarray(array).histogram()) > 0 for array in (mask, labels))
    before[[0, IGNORE]] = False
    for label in np.flatnonzero(before & ~after):
        rows, columns = np.nonzero(mask == label)
        middle = len(rows) // 2
        labels[rows[middle] * height // placement.height, columns[middle] * width // placement.width] = label
    padded = np.full((placement.size, placement.size), IGNORE, np.uint8)
    padded[:height, :width] = labels
    return padded


def restore(maps: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Scores [..., size, size] at the picture's size, [..., height, width]: without padding, resized bilinearly."""
    if maps.shape[-2:] != (placement.size, placement.size):
        raise ValueError(f"Expected maps of {placement.size} x {placement.size}, but got {list(maps.shape)}.")
    cut = maps[..., : placement.scaled_height, : placement.scaled_width].astype(np.float32)
    out = np.empty((*maps.shape[:-2], placement.height, placement.width), np.float32)
    for position in np.ndindex(*maps.shape[:-2]):
        for columns, part in restored_columns(cut[position], placement):
            out[position][:, columns] = part
    return out


def restored_columns(cut: NDArray[np.float32], placement: Placement) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """`restore` of one map [scaled_height, scaled_width], some columns [height, n] at a time.

    Pillow resizes rows first and then each column by itself, so the numbers are those of the whole.
    """
    height, width = placement.height, placement.width
    wide = Image.fromarray(np.ascontiguousarray(cut)).resize((width, len(cut)), _BILINEAR)
    for columns in strips(width, height):
        part = wide.crop((columns.start, 0, columns.stop, len(cut)))
        yield columns, np.asarray(part.resize((columns.stop - columns.start, height), _BILINEAR))


def to_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [0,1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def resized(image: NDArray[np.uint8], height: int, width: int) -> Image.Image:
    """The photo [H,W,3] at another size, bilinear."""
    # Pillow resizes rows first, each by itself; a strip of them at a time, it needs no copy of a large photo.
    narrow = np.empty((len(image), width, 3), np.uint8)
    for rows in strips(*image.shape[:2]):
        part = Image.fromarray(image[rows]).resize((width, rows.stop - rows.start), _BILINEAR)
        narrow[rows] = np.asarray(part)
    return Image.fromarray(narrow).resize((width, height), _BILINEAR)


def enlarged(maps: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resizes maps [...,h,w] to [...,*shape], bilinear with aligned corners, as networks enlarge their maps.

    It avoids matrix products: after one, numpy's threads spin for tens of milliseconds on the cores that the next graph
    needs.
    """
    for axis, side in zip((-2, -1), shape, strict=True):
        low, share = interpolation(maps.shape[axis], side)
        high = np.minimum(low + 1, maps.shape[axis] - 1)
        share = share[:, None] if axis == -2 else share
        first, second = np.take(maps, low, axis), np.take(maps, high, axis)
        maps = first + (second - first) * share
    return maps


@cache
def interpolation(side: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`count` evenly spaced positions from the first to the last of `side` values.

    Returns the index of the value before each position, [count], and the distance beyond that value, [count] in [0,1).
    """
    position = np.linspace(0, side - 1, count)
    low = np.floor(position).astype(np.int64)
    return low, (position - low).astype(np.float32)
