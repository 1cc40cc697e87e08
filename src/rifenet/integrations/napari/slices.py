"""A stack as napari has it, slice by slice: what a slice looks like, which are painted, and the work on all of them.

Nothing here knows of Qt or napari. A stack is one or several arrays [..., H, W] of the same shape, its channels, and an
array of labels of that shape. A slice is [H,W]; its index counts along the other axes. Arrays may be lazy: one slice is
read at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.segmenting.result import Result
from rifenet.segmenting.segmenter import MAX_CLASSES, MAX_SHOTS, Segmenter

Index = tuple[int, ...]
OBJECTS = "objects"
"""Name of the class where each number is an object."""

_NUMBERED = "label "  # how the names of classes begin that are numbers


class Channel(NamedTuple):
    """An image layer."""

    data: Any
    """[..., H, W], or [..., H, W, 3 | 4] for colours."""
    limits: tuple[float, float]
    """What is shown black and white."""
    colours: Callable[[NDArray[np.float64]], NDArray[Any]]
    """Colours [H,W,3 | 4] in [0,1] that its numbers in [0,1] are shown in."""
    rgb: bool = False

    @property
    def shape(self) -> Index:
        """Without the axis of colours."""
        return tuple(self.data.shape[:-1] if self.rgb else self.data.shape)


@dataclass(eq=False)
class LayerStack:
    """Image layers with the labels that are painted over them."""

    channels: Sequence[Channel]
    labels: Any
    written: dict[Index, str] = field(default_factory=dict)
    """Digests of the slices that the program wrote: one that still has its digest teaches nothing."""

    def __post_init__(self) -> None:
        """Raises ValueError for layers that do not fit each other."""
        if not self.channels:
            raise ValueError("Expected an image layer, but none is chosen.")
        shape = tuple(self.labels.shape)
        if len(shape) < 2:
            raise ValueError(f"Expected labels of at least two axes, but they have {len(shape)}.")
        for channel in self.channels:
            if channel.shape != shape:
                raise ValueError(f"Expected image layers as large as the labels, {shape}, but got {channel.shape}.")

    def indices(self) -> list[Index]:
        """Of all slices."""
        return list(np.ndindex(*self.labels.shape[:-2]))

    def painted(self) -> list[Index]:
        """Of the slices that a person has painted or corrected."""
        found = []
        for index in self.indices():
            pixels = np.asarray(self.labels[index])
            if pixels.any() and self.written.get(index) != digest(pixels):
                found.append(index)
        return found

    def picture(self, index: Index) -> NDArray[np.uint8]:
        """A slice as napari shows it, [H,W,3]: one channel in grey, several in their colours, added."""
        if len(self.channels) == 1 and not self.channels[0].rgb:
            grey = np.rint(255 * _shares(self.channels[0], index)).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        total = np.zeros((*self.labels.shape[-2:], 3))
        for channel in self.channels:
            shares = _shares(channel, index)
            total += (shares if channel.rgb else np.asarray(channel.colours(shares)))[..., :3]
        return np.rint(255 * total.clip(0, 1)).astype(np.uint8)


def digest(pixels: NDArray[Any]) -> str:
    """Of a slice of labels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _shares(channel: Channel, index: Index) -> NDArray[np.float64]:
    """A slice of a channel, from 0 (black) to 1 (white). Colours as they are: 0 to 255, or 0 to 1."""
    pixels = np.asarray(channel.data[index])
    if channel.rgb:
        return pixels / 255 if pixels.dtype == np.uint8 else np.clip(pixels.astype(np.float64), 0, 1)
    low, high = channel.limits
    shares = (pixels.astype(np.float64) - low) / max(high - low, np.finfo(float).tiny)
    return np.nan_to_num(shares, nan=0.0).clip(0, 1)


class Told(NamedTuple):
    """How far the work is."""

    text: str
    done: int = 0
    total: int = 0
    """0 where nobody knows."""
    index: Index | None = None
    """A slice that is done."""
    labels: NDArray[np.int64] | None = None
    """Its labels, [H,W]."""


def learn(segmenter: Segmenter, stack: LayerStack, numbers_are_objects: bool) -> Iterator[Told]:
    """Learns a class for each number, or one of all numbers, from the painted slices; earlier classes are forgotten.

    A painted slice counts as painted to the end: what is not painted is not the class. At most 20 slices teach a class,
    evenly taken. Raises ValueError where nothing is painted.
    """
    painted = stack.painted()
    if not painted:
        raise ValueError("Expected a painted slice to learn from, but there is none. Paint all objects of one or two.")
    shown: dict[str, list[Index]] = {}
    for index in painted:
        numbers = np.unique(np.asarray(stack.labels[index]))
        for name in [OBJECTS] if numbers_are_objects else [f"{_NUMBERED}{number}" for number in numbers if number]:
            shown.setdefault(name, []).append(index)
    if len(shown) > MAX_CLASSES:
        raise ValueError(
            f"Expected at most {MAX_CLASSES} numbers as classes, but {len(shown)} are painted. Are they objects?"
        )
    for name in [name for name in segmenter.classes if name not in shown]:
        segmenter.forget(name)
    for done, (name, slices) in enumerate(shown.items()):
        places = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), MAX_SHOTS)).round().astype(int)).tolist()
        taken = [slices[place] for place in places]
        yield Told(f"Learning {name} from {len(taken)} of {len(slices)} painted slices", done, len(shown))
        drawn = [np.asarray(stack.labels[index]) for index in taken]
        masks = [(pixels > 0 if name == OBJECTS else pixels == _number(name)).astype(np.uint8) for pixels in drawn]
        segmenter.learn(name, [stack.picture(index) for index in taken], masks, replace=True)


def segment(segmenter: Segmenter, stack: LayerStack, *, objects: bool, keep_absent: bool) -> Iterator[Told]:
    """Segments the slices that nobody has painted, one by one.

    Args:
        segmenter: has learned classes.
        stack: what to segment.
        objects: give each object a number of its own, none of which is painted.
        keep_absent: also classes judged absent in a slice.

    Raises ValueError for more objects than numbers of the labels' type, and as `Result.instances`.
    """
    painted = set(stack.painted())
    rest = [index for index in stack.indices() if index not in painted]
    highest = max((int(np.asarray(stack.labels[index]).max()) for index in painted), default=0)
    most = np.iinfo(stack.labels.dtype).max
    for done, index in enumerate(rest):
        result = segmenter.segment(stack.picture(index), keep_absent=keep_absent)
        labels = _objects_of(result, highest) if objects else _classes_of(result)
        highest = max(highest, int(labels.max())) if objects else highest
        if labels.max() > most:
            raise ValueError(
                f"Expected numbers up to {most}, as the labels hold ({stack.labels.dtype}), but there are more objects."
                " Convert the labels to int32."
            )
        yield Told(f"Segmenting slice {done + 1} of {len(rest)}", done + 1, len(rest), index, labels)


def _objects_of(result: Result, highest: int) -> NDArray[np.int64]:
    """Each object by a number above `highest`."""
    labels = np.zeros(result.mask.shape, np.int64)
    for number, each in enumerate((each for name in result.classes for each in result.instances(name)), highest + 1):
        labels[each.place][each.part] = number
    return labels


def _classes_of(result: Result) -> NDArray[np.int64]:
    """Each class by its number, which its name tells if it was learned from labels."""
    numbers = [0, *(_number(name) or place for place, name in enumerate(result.classes, 1))]
    return np.array(numbers, np.int64)[result.mask]


def _number(name: str) -> int:
    """The number that a class's name tells; 0 for none."""
    rest = name.removeprefix(_NUMBERED)
    return int(rest) if rest != name and rest.isdecimal() else 0
