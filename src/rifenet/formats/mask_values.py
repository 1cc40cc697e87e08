"""Tells what the numbers of a mask mean where nobody chose a label: class numbers, a soft edge, a trimap, or no mask.

A file of 0 and other numbers is an index mask: each number but 0 and 255 is the class, and 255 is ignored. Pictures
from editors and networks look alike, but their numbers are grey levels. `object_of` tells them apart by their
neighbours: numbers of classes come in areas, grey levels change from pixel to pixel. Each guess gets a remark.

    H W the mask's own size
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.formats.remarks import remark

HALF = 128
"""From this grey level on, a pixel of a soft mask is the object."""

_GREY = range(96, IGNORE)  # beside more white, a lone number from here on is no class but grey
_MIDDLE = range(126, 131)  # how trimaps write "unknown"
_FEW = 3  # different numbers between 0 and 255, up to which no gradient is expected
_FLAT = 0.3  # share of pixels like their left and upper neighbours, below which numbers change too often for classes
_MANY = 64  # different numbers, from which on flat areas may be a smooth map, too
_STEP = 4  # median step between unlike neighbours of a smooth map, at most
_MOSTLY = 20  # times as many ignored pixels as marked ones get a remark
_DARK, _LIGHT = 8, 247  # what counts as nearly black and nearly white
_LISTED = 12
_INVERTED_AREA, _INVERTED_EDGE = 0.5, 0.8  # shares of the picture and of its edge: no real object of 4,700 has both


class _Greys(NamedTuple):
    """The numbers of a mask."""

    counts: NDArray[np.int64]
    """How often each occurs, [256]."""

    @property
    def between(self) -> list[int]:
        """The numbers between 0 and 255 that occur."""
        return [value for value in range(1, IGNORE) if self.counts[value]]

    def share(self, start: int, stop: int) -> float:
        """Share of the pixels with numbers from `start` to before `stop`."""
        return float(self.counts[start:stop].sum() / self.counts.sum())


def object_of(index: NDArray[np.uint8], file: str, *, white_is_object: bool, grey: bool) -> NDArray[np.uint8]:
    """The object of a mask [H,W] whose label nobody chose: 1 object, 0 not, 255 ignored.

    Args:
        index: its numbers.
        file: what to call it in messages.
        white_is_object: 255 marks the class, too.
        grey: the numbers may be grey levels; those of a coloured palette cannot.

    Raises ValueError for what looks like a photo.
    """
    found = _Greys(np.bincount(index.ravel(), minlength=256))
    between = found.between
    if grey and between and (meant := _of_greys(index, found, file)) is not None:
        return meant
    mask = (index > 0).astype(np.uint8)
    if len(between) > 1:
        remark(
            file,
            f"It holds several numbers, {listed(between)}, and nobody chose one. All of them together were taken for"
            f" the class. To choose: label={between[0]} in Python, --label 'CLASS={between[0]}' on the command line.",
        )
    if not white_is_object and (between or not found.counts[0]):  # 255 beside 0 alone is white
        mask[index == IGNORE] = IGNORE
        if between and found.counts[IGNORE] > _MOSTLY * found.counts[between].sum():
            remark(
                file,
                f"Nearly all that it marks is 255, which is ignored; {listed(between)} was taken for the class. If"
                " white is the object: white_is_object=True in Python, --white-is-object on the command line.",
            )
    return mask


def _of_greys(index: NDArray[np.uint8], found: _Greys, file: str) -> NDArray[np.uint8] | None:
    """The object where the numbers are grey levels; None where they are numbers of classes."""
    between = found.between
    few = len(between) <= _FEW
    if few and not _may_be_grey(index, found):
        return None
    if few and set(between) <= set(_MIDDLE):
        remark(
            file,
            f"It holds 0, {listed(between)} and 255, as a trimap does: 255 was taken for the object, and"
            f" {listed(between)} for pixels to ignore. If {between[0]} is the class, choose it as the label.",
        )
        return np.where(np.isin(index, between), np.uint8(IGNORE), (index == IGNORE).astype(np.uint8))
    if not few and not _is_gradual(index, found):
        return None
    if found.share(_DARK + 1, _LIGHT) > 0.5:
        raise ValueError(
            f"Expected a mask, but {file} holds {len(between)} grey levels, and most of it is between black and white,"
            " like a photo. Check that photo and mask are not swapped. If it is a map of probabilities, make a mask of"
            " what is above the one that you choose."
        )
    if not few and found.counts[HALF:].sum() * 5 < found.counts[1:].sum():
        return None  # no white to speak of: a soft mask has white inside
    what = f"a grey level, {between[0]}," if len(between) == 1 else f"{len(between)} grey levels"
    remark(
        file,
        f"It holds {what} between black and white, as a soft edge does. What is {HALF} or lighter was taken for the"
        " object, and nothing is ignored. If the numbers are classes, choose one as the label.",
    )
    return (index >= HALF).astype(np.uint8)


def _may_be_grey(index: NDArray[np.uint8], found: _Greys) -> bool:
    """Whether one to three numbers beside 255 may be grey levels: there is more white, and they are not small."""
    between = found.between
    if found.counts[IGNORE] <= found.counts[between].sum() or between[-1] not in _GREY:
        return False
    return between[0] in _GREY or _is_gradual(index, found)


def _is_gradual(index: NDArray[np.uint8], found: _Greys) -> bool:
    """Whether the numbers between 0 and 255 change from pixel to pixel, not from area to area."""
    here, left, above = index[1:, 1:], index[1:, :-1], index[:-1, 1:]
    inner = (here > 0) & (here < IGNORE)
    if not inner.any():
        return False
    flat = float((inner & (here == left) & (here == above)).sum() / inner.sum())
    if flat < _FLAT:
        return True
    unlike = here != left
    steps = np.abs(here[unlike].astype(np.int16) - left[unlike])
    extremes = found.share(0, _DARK + 1) + found.share(_LIGHT, 256)
    return len(found.between) >= _MANY and extremes >= 0.5 and bool(np.median(steps) <= _STEP)


def say_what_is_odd(mask: NDArray[np.uint8], file: str, *, chosen: bool) -> None:
    """Remarks on a mask (1 object, 0 not, 255 ignored) without background, and on one that looks inverted.

    `chosen`: somebody chose the label, which may well be what lies around an object.
    """
    objects, background = mask == 1, mask == 0
    if not objects.any():
        return
    if not background.any():
        rest = "" if objects.all() else ", and the rest is ignored (255)"
        remark(
            file,
            f"Nothing in it is background: all of it is the object{rest}. The class may then be found everywhere. Give"
            " 0 to what is not the object.",
        )
        return
    edge = np.concatenate([objects[0], objects[-1], objects[:, 0], objects[:, -1]])
    area = float(objects.mean())
    if not chosen and area > _INVERTED_AREA and edge.mean() > _INVERTED_EDGE:
        remark(
            file,
            f"It marks {100 * area:.0f}% of the photo and {100 * float(edge.mean()):.0f}% of its edge. If the object is"
            " what it leaves out, the mask is inverted: choose its 0 as the label (label=0 in Python, --label 'CLASS=0'"
            " on the command line), or invert it.",
        )


def listed(held: list[int] | list[str]) -> str:
    """Values in a message, at most a dozen of them."""
    more = f" and {len(held) - _LISTED} more" if len(held) > _LISTED else ""
    return (", ".join(map(str, held[:_LISTED])) or "none") + more
