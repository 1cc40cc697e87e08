"""Reads and writes Label Studio's brush masks (`format: rle`): run lengths packed bit by bit.

The stream holds the bytes of an RGBA picture, row by row; the mask is alpha. Its fields, with their number of bits and
the highest bit of a byte first:

    count of values (32) · word size - 1 (5) · four sizes - 1 (4 each) · blocks until all values are there
    block: 1 if one word is repeated, 0 if each value has its own (1) · index of a size (2) · values - 1 (that size)
           · the word, or the words
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rifenet.formats.run_lengths import Check, unchecked

_SIZES = (3, 4, 8, 16)
_CHANNELS = 4


def decode_brush(rle: Sequence[int], height: int, width: int, check: Check = unchecked) -> NDArray[np.uint8]:
    """The mask [height, width], 0 and 1: 1 where alpha is more than half of its largest value.

    Calls `check` between the blocks; it may raise. Raises ValueError for numbers outside 0..255, for an incomplete
    stream, and for another number of values than height x width x 4.
    """
    count = height * width * _CHANNELS
    if min(height, width) < 1:
        raise ValueError(f"Expected a picture of at least 1 px, but got {width} x {height} (width x height).")
    data = _bytes(rle)
    if len(data) < 7:
        raise ValueError(f"Expected a brush mask's head of 7 bytes, but got {len(data)}. Export the annotation again.")
    if (said := int.from_bytes(data[:4])) != count:
        raise ValueError(
            f"Expected a brush mask of {count} values, 4 for each of {width} x {height} pixels (width x height), but"
            f" got {said}. It belongs to a picture of another size."
        )
    stream = np.empty(count, np.uint8)
    for start, values in _blocks(data, count):
        check()
        stream[start : start + len(values)] = values
    alpha = stream[_CHANNELS - 1 :: _CHANNELS].reshape(height, width)
    return (alpha > int(alpha.max()) // 2).astype(np.uint8)


def encode_brush(mask: NDArray[np.generic]) -> list[int]:
    """The brush mask of a mask [H,W] (not 0: the object), as numbers 0..255. Its picture shows the object in white.

    Raises ValueError for an array of another shape.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"Expected a mask [H, W], but got {list(mask.shape)}.")
    inside = (mask != 0).ravel()
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    bounds = _CHANNELS * np.array([0, *edges, inside.size], np.int64)
    bits = [f"{_CHANNELS * inside.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        word = "1" * 8 if inside[start // _CHANNELS] else "0" * 8
        for left in range(stop - start, 0, -(2 ** _SIZES[-1])):
            values = min(left, 2 ** _SIZES[-1])
            index = next(index for index, size in enumerate(_SIZES) if values <= 2**size)
            bits.append(f"1{index:02b}{values - 1:0{_SIZES[index]}b}{word}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def _bytes(rle: Sequence[int]) -> bytes:
    try:
        return bytes(list(rle))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"Expected a brush mask as a list of numbers 0..255, but got: {error}.") from error


def _blocks(data: bytes, count: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields (index of the first value, values) of each block."""
    position = 32

    def take(bits: int) -> int:
        nonlocal position
        first, position = position, position + bits
        if position > 8 * len(data):
            raise ValueError("Expected a complete brush mask, but it ends too early. Export the annotation again.")
        chunk = int.from_bytes(data[first // 8 : (position + 7) // 8])
        return chunk >> (-position % 8) & (1 << bits) - 1

    word = take(5) + 1
    if word > 8:
        raise ValueError(f"Expected a brush mask of words of at most 8 bits, but got {word}.")
    sizes = [take(4) + 1 for _ in range(4)]
    done = 0
    while done < count:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        if done + length > count:
            raise ValueError(f"Expected a brush mask of {count} values, but its blocks hold more.")
        words = [take(word) for _ in range(1 if repeated else length)]
        values = np.array(words, np.uint8)
        yield done, np.broadcast_to(values, length)
        done += length
