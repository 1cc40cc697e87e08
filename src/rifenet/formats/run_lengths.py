"""COCO's run lengths: counts of zeros, ones, zeros, ... down the columns of a mask, as numbers or as text.

In the text, a character's code minus 48 has 6 bits: 5 bits of a number, the lowest first, and a sixth bit that is set
if the number goes on in the next character. The fifth bit of a number's last character is its sign. From the fourth run
on, the number is the difference to the run two places before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHARACTERS = 2**16  # read between two checks

Check = Callable[[], object]
"""Is called between the steps of long work, and raises to end it."""


def unchecked() -> None:
    """Lets any work go on."""


def decode_runs(counts: str | Sequence[int], height: int, width: int, check: Check = unchecked) -> NDArray[np.uint8]:
    """The mask [height, width], 0 and 1. Raises ValueError for runs that do not add up to height x width."""
    runs: Any = unpack_runs(counts, check) if isinstance(counts, str) else counts
    whole = isinstance(runs, list | tuple) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != height * width:
        raise ValueError(f"Expected run lengths that add up to {height} x {width} pixels, but they do not.")
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T


def encode_runs(mask: NDArray[Any]) -> list[int]:
    """Run lengths of a mask [H,W] (not 0: the object)."""
    inside = (mask != 0).ravel(order="F")
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    runs: list[int] = np.diff([0, *edges.tolist(), inside.size]).tolist()
    return [0, *runs] if inside.size and inside[0] else runs


def encode_part(part: NDArray[Any], left: int, top: int, height: int, width: int) -> list[int]:
    """Run lengths of a mask [height, width] that is empty but for `part` [h,w], whose corner is at `left` and `top`."""
    columns = np.zeros((height, part.shape[1]), bool)
    columns[top : top + part.shape[0]] = part
    runs = encode_runs(columns)
    runs[0] += left * height
    after = (width - left - part.shape[1]) * height
    if len(runs) % 2:
        runs[-1] += after
    elif after:
        runs.append(after)
    return runs


def pack_runs(runs: Sequence[int]) -> str:
    """Run lengths as COCO's text."""
    text = []
    for place, run in enumerate(runs):
        number = run - (runs[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def unpack_runs(text: str, check: Check = unchecked) -> list[int]:
    """Run lengths from COCO's text. Raises ValueError for invalid characters and for a text that ends too early."""
    runs: list[int] = []
    number = shift = 0
    for place, character in enumerate(text):
        if not place % _CHARACTERS:
            check()
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("Expected run lengths as COCO writes them, but they hold something else.")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) if code & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("Expected complete run lengths, but they end too early.")
    return runs
