"""What the model sees in a part of a photo, cell by cell, kept between strokes on the same photo.

h w cells of a view · D features · S side of the square network input
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import Placement, resize_and_pad, resized, to_float
from rifenet.engines import Engine
from rifenet.segmenting.grids import Edges, edges

CELL = 4  # pixels of the network's input
DEEP = 64  # components of the deep features
FINE_SHARE, COLOUR_SHARE, PRODUCT_SHARE, PLACE_SHARE = 0.7, 0.7, 0.5, 0.3  # of other features; the deep ones have 1
COLOUR_EDGES, DEEP_EDGES, FINE_EDGES, LEAST_EDGE = 0.5, 0.3, 0.5, 1e-3
MOST_BYTES = 64 * 10**6


class Box(NamedTuple):
    """A part of a photo in pixels: rows top to bottom, columns left to right, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def side(self) -> int:
        """The longer side."""
        return max(self.bottom - self.top, self.right - self.left)

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """This part of an array [H,W,...]."""
        return array[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class View:
    """A part of a photo on a grid of cells."""

    box: Box
    shape: tuple[int, int]
    """Cells h and w."""
    samples: NDArray[np.float32]
    """Features of each cell and a constant 1, [h*w,D]."""
    edges: Edges
    features: Any
    """What `Engine.encode_query` gave, for `Engine.decode`."""
    placement: Placement
    """Where the part lies in the network's input."""

    def memory(self) -> int:
        """Bytes of its arrays. The engine's features take about as much as the samples and count as that."""
        return 2 * self.samples.nbytes + sum(weight.nbytes for weight in self.edges.weights)


class PhotoViews:
    """Keeps the views of the last photos, up to `most` bytes."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._views: OrderedDict[tuple[str, Box], View] = OrderedDict()

    def memory(self) -> int:
        """Bytes that the views take."""
        return sum(view.memory() for view in list(self._views.values()))

    def view(self, engine: Engine, image: NDArray[np.uint8], photo: str, box: Box) -> View:
        """A part of a photo [H,W,3], computed if it is not kept. `photo` is `fingerprint(image)`."""
        key = f"{engine.hash} {photo}", box
        if key not in self._views:
            self._views[key] = view_of(engine, image, box)
        self._views.move_to_end(key)
        found = self._views[key]
        while len(self._views) > 1 and self.memory() > self.most:
            self._views.popitem(last=False)
        return found


def fingerprint(image: NDArray[np.uint8]) -> str:
    """Tells photos apart by their pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def view_of(engine: Engine, image: NDArray[np.uint8], box: Box) -> View:
    """Encodes a part of a photo [H,W,3]."""
    part = np.ascontiguousarray(box.of(image))
    pixels, valid, placement = resize_and_pad(part, engine.size)
    features = engine.encode_query(pixels[None], valid[None])
    shape = max(2, round(placement.scaled_height / CELL)), max(2, round(placement.scaled_width / CELL))
    (maps,) = engine.inner(features)
    if "high" not in maps:
        raise ValueError(
            f"Expected a model whose features strokes can use, but {engine.name} shows none. Use the bundled one."
        )
    colours = _standard(lab(to_float(np.asarray(resized(part, *shape)))))
    deep = _laid(_components(maps["high"], placement), shape, placement)
    planes = [(DEEP_EDGES, deep), (COLOUR_EDGES, colours)]
    parts = [deep, COLOUR_SHARE * colours, PRODUCT_SHARE * _products(colours)]
    if "fine" in maps:
        fine = _standard(_laid(maps["fine"], shape, placement))
        planes.append((FINE_EDGES, fine))
        parts.append(FINE_SHARE * fine)
    parts.append(PLACE_SHARE * _places(shape))
    samples = np.concatenate([*parts, np.ones((1, *shape), np.float32)]).reshape(-1, shape[0] * shape[1]).T
    return View(box, shape, np.ascontiguousarray(samples, np.float32), edges(planes, LEAST_EDGE), features, placement)


def _components(high: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """The deep features [D,n,n] as their first principal components on the photo, [d,n,n]; all variances sum to 1."""
    side = high.shape[1]
    last = (placement.size - 1) / max(side - 1, 1)
    rows, columns = (
        min(side, int(np.ceil(length / last)) + 1) for length in (placement.scaled_height, placement.scaled_width)
    )
    real = high[:, :rows, :columns].reshape(len(high), -1).astype(np.float64)
    real = real - real.mean(1, keepdims=True)
    variances, axes = np.linalg.eigh(real @ real.T / real.shape[1])
    axes = axes[:, ::-1][:, :DEEP]
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)
    found = (axes.T @ real / np.sqrt(max(variances.sum(), 1e-12))).reshape(-1, rows, columns)
    return np.pad(found, ((0, 0), (0, side - rows), (0, side - columns)), mode="edge").astype(np.float32)


def _laid(maps: NDArray[np.float32], shape: tuple[int, int], placement: Placement) -> NDArray[np.float32]:
    """Maps [D,n,m] of the network's input, corners aligned, at the middles of a view's cells: [D,h,w]."""
    lengths = placement.scaled_height, placement.scaled_width
    for axis, (cells, length) in enumerate(zip(shape, lengths, strict=True), 1):
        positions = (np.arange(cells) + 0.5) * length / cells - 0.5
        last = maps.shape[axis] - 1
        positions = (positions * last / (placement.size - 1)).clip(0, last)
        low = np.minimum(positions.astype(np.int64), max(last - 1, 0))
        share = (positions - low).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(3)])
        first, second = maps.take(low, axis), maps.take(np.minimum(low + 1, last), axis)
        maps = first + (second - first) * share
    return maps


def _places(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Where the cells are, [5,h,w]: coordinates, their squares and product, so that a sum of them can be a blob."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    return np.stack([rows, columns, rows**2, columns**2, rows * columns]).astype(np.float32)


def _products(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squares and products of colours [3,h,w], [6,h,w], so that a sum of them can be the colours around one of them."""
    return _standard(np.stack([colours[i] * colours[j] for i in range(3) for j in range(i, 3)]))


def _standard(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Planes [D,h,w] with mean 0, and variances that sum to 1."""
    planes = planes - planes.mean((1, 2), keepdims=True)
    found: NDArray[np.float32] = planes / (np.sqrt((planes**2).mean((1, 2)).sum()) + np.float32(1e-3))
    return found


def lab(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours [3,...] in sRGB, 0 to 1, as CIE L*a*b* divided by 100, where distances are as people see them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]]
    )  # white is 1, 1, 1
    xyz = np.tensordot(to_xyz, linear, 1)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([1.16 * root[1] - 0.16, 5 * (root[0] - root[1]), 2 * (root[1] - root[2])]).astype(np.float32)


def on_grid(mask: NDArray[np.bool_], view: View, least: float) -> NDArray[np.bool_]:
    """The cells [h,w] of a view of which a mask [H,W] covers more than the share `least`."""
    part = view.box.of(mask)
    if not part.any():
        return np.zeros(view.shape, bool)
    shares = Image.fromarray(part.astype(np.float32)).resize(view.shape[::-1], Image.Resampling.BOX)
    found: NDArray[np.bool_] = np.asarray(shares) > least
    return found
