"""Objects of a class: its mask taken apart where objects touch, by the score map and the shape of the shots' objects.

A connected part that is, with its holes, as compact and at most about as large as the shots' objects is one object. Any
other part is cut by a watershed along its valleys. The height of a pixel is its margin (`segmenting.margins`) times the
square root of its distance to the background, so that valleys are where the model is less sure, or where the part has a
neck. Pieces grow together again while their union is as compact as the shots' objects, or a piece is too small to be
one of them. Only compact objects, such as cells, fruit or screws, can be told apart by shape: of a class whose own
objects are not compact, such as people, each connected part is one object. `python -m benchmarks.instances` measures
it; its settings were chosen on COCO and on rendered pictures.

Compactness here is solidity: the share of an object's convex hull that the object fills, in (0,1].

    K shots · S side of the square network input · H W the photo's own size · h w a part's box
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.config import needs
from rifenet.formats.polygons import signed_area, trace_polygons

EXTRA = "rifenet[instances]"
COMPACT = 0.85  # touching objects are told apart if three quarters of the shots' objects are at least this compact
MOST_COMPACT = 0.95  # that a part must be at most to stay whole; the edges of masks are never quite smooth
VALLEY = 0.95  # height of a valley, as a share of the lower of the two peaks beside it, at most
FLOOR = 0.02  # heights below it count as equal
LARGER = 1.5  # times the larger ones of the shots' objects: a part of this area is more than one object
PIECE = 0.5  # of the area of the smaller ones of the shots' objects: a cut makes no piece below it
SPECK = 0.15  # of the same area: what is smaller is no object, and a hole below it is no hole
LEAST_PART = 1e-4  # of a shot's square: smaller parts of its mask count as slips of the brush
FEWEST = 3  # objects in the shots that tell how large objects get
SIDE = 512  # pixels: longer parts are cut in a smaller copy; the network's own maps are about as coarse


class ObjectShape(NamedTuple):
    """What a class keeps of an object of its shots."""

    area: float
    """Its area as a share of the square over the photo's longer side."""
    solidity: float
    """Share of its convex hull that it fills, in (0,1]."""


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """One object of a class in a photo. Coordinates are in pixels from the photo's top left corner."""

    box: tuple[int, int, int, int]
    """x, y, width, height."""
    area: int
    """In pixels."""
    centroid: tuple[float, float]
    """x, y; the middle of the photo's first pixel is (0.5, 0.5)."""
    score: float
    """Mean score of the class on its pixels, in [0,1]."""
    part: NDArray[np.bool_]
    """Its pixels in the box, [h,w]."""
    size: tuple[int, int]
    """Height and width of the photo."""

    def __repr__(self) -> str:
        x, y = self.centroid
        return f"<Instance of {self.area} px at ({x:.0f}, {y:.0f}), score {self.score:.2f}>"

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Its pixels in the photo, [H,W]."""
        whole = np.zeros(self.size, bool)
        whole[self.place] = self.part
        return whole

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of its box."""
        x, y, width, height = self.box
        return slice(y, y + height), slice(x, x + width)


def expect_extra() -> None:
    """Raises `rifenet.config.MissingExtra`, a ValueError, if scikit-image is not installed."""
    with needs(EXTRA):
        import skimage  # noqa: F401


def shapes_of(masks: NDArray[np.uint8]) -> tuple[ObjectShape, ...]:
    """Shapes of the connected parts of shots' masks [K,S,S] (1: the class), shot by shot, the largest first.

    Without scikit-image, so that a class can be learned without it.
    """
    return tuple(shape for mask in masks for shape in _shapes(mask == 1))


def _shapes(inside: NDArray[np.bool_]) -> Iterator[ObjectShape]:
    square = inside.shape[0] * inside.shape[1]
    for number, outline in enumerate(trace_polygons(inside)):
        area = abs(signed_area(outline))
        if number and area < LEAST_PART * square:
            return
        yield ObjectShape(area / square, area / _hull_area(outline))


def compact(shapes: Sequence[ObjectShape]) -> bool:
    """Whether objects of these shapes can be told apart by shape where they touch."""
    return bool(shapes) and float(np.quantile([shape.solidity for shape in shapes], 0.25)) >= COMPACT


class _Prior(NamedTuple):
    """What objects in one photo look like, by the shots; areas in pixels."""

    solidity: float
    small: float
    large: float
    cuts: bool

    @classmethod
    def of(cls, shapes: Sequence[ObjectShape], longer_side: int) -> _Prior:
        """`longer_side` is the photo's, in pixels."""
        if not shapes:
            return cls(0.0, 0.0, math.inf, False)
        areas = np.array([shape.area for shape in shapes]) * longer_side**2
        large = LARGER * float(np.quantile(areas, 0.9)) if len(shapes) >= FEWEST else math.inf
        solidity = min(float(np.median([shape.solidity for shape in shapes])), MOST_COMPACT)
        return cls(solidity, float(np.quantile(areas, 0.1)), large, compact(shapes))

    def scaled(self, step: int) -> _Prior:
        """The same for a copy of the photo with every `step`-th row and column."""
        return self._replace(small=self.small / step**2, large=self.large / step**2)


def instances(
    inside: NDArray[np.bool_],
    scores: NDArray[np.float32],
    shapes: Sequence[ObjectShape],
    margins: NDArray[np.float32] | None = None,
) -> tuple[Instance, ...]:
    """Objects in a class's mask `inside` [H,W], the largest first.

    Args:
        inside: the class's pixels.
        scores: its scores [H,W] in [0,1].
        shapes: of the shots' objects (`shapes_of`); empty keeps each connected part as one object.
        margins: its margins [H,W]; None takes touching objects apart by the mask alone.

    Raises:
        rifenet.config.MissingExtra: a ValueError; scikit-image is not installed.
    """
    found = []
    for (top, left), part in _parts(inside, margins, _Prior.of(shapes, max(inside.shape))):
        rows, columns = np.nonzero(part)
        height, width = part.shape
        centre = (float(left + columns.mean() + 0.5), float(top + rows.mean() + 0.5))
        score = float(scores[top : top + height, left : left + width][part].mean(dtype=np.float64))
        found.append(Instance((left, top, width, height), len(rows), centre, score, part, inside.shape))
    return tuple(sorted(found, key=lambda each: (-each.area, each.box)))


def specks(inside: NDArray[np.bool_], shapes: Sequence[ObjectShape]) -> NDArray[np.bool_]:
    """Pixels of a mask [H,W] in parts too small to be objects like the shots'.

    Raises:
        rifenet.config.MissingExtra: a ValueError; scikit-image is not installed.
    """
    with needs(EXTRA):
        from skimage.measure import label
    parts = label(inside, connectivity=1)
    small = np.bincount(parts.ravel()) < SPECK * _Prior.of(shapes, max(inside.shape)).small
    small[0] = False
    return small[parts]


def holes(inside: NDArray[np.bool_], shapes: Sequence[ObjectShape]) -> NDArray[np.bool_]:
    """Pixels in small holes of a mask [H,W]: smaller than the shots' objects, and not at the photo's edge.

    Raises:
        rifenet.config.MissingExtra: a ValueError; scikit-image is not installed.
    """
    with needs(EXTRA):
        from skimage.measure import label
    outside = label(~inside, connectivity=2)
    small = np.bincount(outside.ravel()) < SPECK * _Prior.of(shapes, max(inside.shape)).small
    edges = (outside[0], outside[-1], outside[:, 0], outside[:, -1])
    small[[0, *np.unique(np.concatenate(edges)).tolist()]] = False
    return small[outside]


def _parts(
    inside: NDArray[np.bool_], margins: NDArray[np.float32] | None, prior: _Prior
) -> Iterator[tuple[tuple[int, int], NDArray[np.bool_]]]:
    """Top left corner and pixels [h,w] of each object."""
    with needs(EXTRA):
        from skimage.measure import label, regionprops
    for region in regionprops(label(inside, connectivity=1)):
        if region.area < SPECK * prior.small:
            continue
        top, left = region.bbox[:2]
        own = None if margins is None else margins[region.slice]
        for (down, right), piece in _pieces(region.image, own, prior):
            yield (int(top + down), int(left + right)), piece


def _pieces(
    part: NDArray[np.bool_], margins: NDArray[np.float32] | None, prior: _Prior
) -> Iterator[tuple[tuple[int, int], NDArray[np.bool_]]]:
    """A connected part [h,w] as objects, each with its place in the part."""
    from scipy.ndimage import binary_fill_holes

    step = -(-max(part.shape) // SIDE)
    small = part[::step, ::step]
    own = prior.scaled(step)
    area = np.count_nonzero(small)
    filled = binary_fill_holes(small)  # a hole in an object is no reason to cut it, nor is a gap among several
    whole = np.count_nonzero(filled) <= own.large and _solidity(filled) >= own.solidity
    if not own.cuts or whole or area < 2 * PIECE * own.small:
        yield (0, 0), part
        return
    from skimage.measure import regionprops

    labels = _cut(small, None if margins is None else margins[::step, ::step], own)
    if step > 1:
        labels = _enlarged(labels, part, step)
    for piece in regionprops(labels):
        yield piece.bbox[:2], piece.image


def _cut(part: NDArray[np.bool_], margins: NDArray[np.float32] | None, prior: _Prior) -> NDArray[np.integer[Any]]:
    """Labels of the objects in a connected part [h,w]: 0 outside, each object a number of its own."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    inside = np.pad(part, 1)  # what lies at the part's box, or the photo's edge, ends there
    heights = distance_transform_edt(inside)
    if margins is not None:
        heights = np.sqrt(heights) * np.pad(margins, 1).clip(min=0)
    heights = gaussian_filter(heights, 0.5) * inside
    # A peak of the logarithm that stands out by -log(VALLEY) is one that a low enough valley parts from higher ones.
    logarithms = np.where(inside, np.log(np.maximum(heights, FLOOR)), 2 * math.log(FLOOR))
    peaks = h_maxima(logarithms, -math.log(VALLEY)).astype(bool) & inside
    labels = watershed(-heights, label(peaks, connectivity=2), mask=inside)[1:-1, 1:-1]
    return _grown_together(labels, prior)


def _grown_together(labels: NDArray[np.integer[Any]], prior: _Prior) -> NDArray[np.integer[Any]]:
    """Joins neighbouring pieces: those that are too small first, then those whose union is most compact."""
    from skimage.graph import RAG, merge_hierarchical

    graph = RAG(labels, connectivity=1)
    if graph.has_node(0):
        graph.remove_node(0)
    for number in graph:
        graph.nodes[number]["labels"] = [number]

    def cost(a: int, b: int) -> float:
        one, other = (np.isin(labels, graph.nodes[each]["labels"]) for each in (a, b))
        areas = np.count_nonzero(one), np.count_nonzero(other)
        solidity = _solidity(one | other)
        if min(areas) < PIECE * prior.small:
            return -solidity
        return 1 - solidity if sum(areas) <= prior.large else math.inf

    for a, b in graph.edges:
        graph.edges[a, b]["weight"] = cost(a, b)
    merge_hierarchical(
        labels,
        graph,
        thresh=1 - prior.solidity,
        rag_copy=False,
        in_place_merge=True,
        merge_func=lambda graph, source, target: graph.nodes[target]["labels"].extend(graph.nodes[source]["labels"]),
        weight_func=lambda graph, source, target, neighbour: {"weight": cost(target, neighbour)},
    )
    joined = np.zeros(labels.max() + 1, labels.dtype)
    for number, node in enumerate(graph.nodes.values(), 1):
        joined[node["labels"]] = number
    return joined[labels]


def _enlarged(labels: NDArray[np.integer[Any]], part: NDArray[np.bool_], step: int) -> NDArray[np.integer[Any]]:
    """Labels of a copy with every `step`-th row and column at the part's own size; each pixel takes the nearest."""
    from scipy.ndimage import distance_transform_edt

    large = np.repeat(np.repeat(labels, step, 0), step, 1)[: part.shape[0], : part.shape[1]]
    rows, columns = distance_transform_edt(large == 0, return_distances=False, return_indices=True)
    return np.where(part, large[rows, columns], 0)


def _solidity(part: NDArray[np.bool_]) -> float:
    """Share of its convex hull that a part [h,w] fills."""
    rows = np.flatnonzero(part.any(1))
    first = part[rows].argmax(1)
    last = part.shape[1] - part[rows][:, ::-1].argmax(1)
    corners = [np.stack([x, y], 1) for x in (first, last) for y in (rows, rows + 1)]
    return float(np.count_nonzero(part) / _hull_area(np.concatenate(corners)))


def _hull_area(points: NDArray[Any]) -> float:
    """Area of the convex hull of points [N,2], by A. M. Andrew's monotone chain (1979)."""
    ordered = np.unique(points, axis=0).tolist()  # by x, then y
    outline: list[list[float]] = []
    for chain in (ordered, ordered[::-1]):
        half: list[list[float]] = []
        for x, y in chain:
            while len(half) > 1 and _turn(half[-2], half[-1], x, y) <= 0:
                half.pop()
            half.append([x, y])
        outline += half[:-1]
    return abs(signed_area(np.array(outline, np.float64)))


def _turn(a: Sequence[float], b: Sequence[float], x: float, y: float) -> float:
    """Positive where the way from a over b to (x, y) turns left."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
