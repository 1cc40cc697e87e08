"""Sums over small grids: distances, reachable cells, a random walker, a logistic regression. Only numpy.

h w size of a grid · N cells or samples · D features
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.metrics import sigmoid

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to four of a cell's eight neighbours; the others see the cell

Pair = tuple[tuple[slice, slice], tuple[slice, slice]]


class Edges(NamedTuple):
    """Weights of the edges between neighbouring cells, one array for each of four directions."""

    pairs: tuple[Pair, ...]
    """The cells at both ends of the edges."""
    weights: tuple[NDArray[np.float32], ...]


def neighbours(height: int, width: int) -> tuple[Pair, ...]:
    """The two ends of all edges of a grid, as slices, for each of four directions."""
    found = []
    for down, right in _STEPS:
        rows = slice(0, height - down), slice(down, height)
        columns = slice(max(0, -right), width - max(0, right)), slice(max(0, right), width + min(0, right))
        found.append(((rows[0], columns[0]), (rows[1], columns[1])))
    return tuple(found)


def edges(planes: list[tuple[float, NDArray[np.float32]]], least: float) -> Edges:
    """Edges of a grid, heavy where its planes [D,h,w] change little.

    Args:
        planes: each with the strength of its say. Differences count in units of their mean over the grid.
        least: smallest weight.
    """
    pairs = neighbours(*planes[0][1].shape[1:])
    weights = []
    for (first, second), (down, right) in zip(pairs, _STEPS, strict=True):
        exponent = np.zeros((), np.float32)
        for strength, plane in planes:
            change = ((plane[:, *first] - plane[:, *second]) ** 2).sum(0)
            exponent = exponent + np.float32(strength) * change / (change.mean() + np.float32(1e-5))
        weights.append((np.exp(-exponent) + np.float32(least)) / np.float32(np.hypot(down, right)))
    return Edges(pairs, tuple(weights))


def walk(
    edges: Edges,
    guess: NDArray[np.float32],
    trust: NDArray[np.float32],
    fixed: NDArray[np.bool_],
    start: NDArray[np.float32],
    steps: int = 120,
) -> NDArray[np.float32]:
    """Random walker with a guess (L. Grady, "Random Walks for Image Segmentation", 2006): probabilities [h,w].

    Minimises `sum w (x_i - x_j)² + sum trust (x_i - guess_i)²` by conjugate gradients, with x given in some cells.

    Args:
        edges: of the grid.
        guess: probabilities [h,w].
        trust: weight of the guess in each cell, [h,w].
        fixed: cells whose values in `start` stay, [h,w].
        start: where the search begins, [h,w].
        steps: most steps of the search.
    """

    def weighted(values: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = degree * values
        for (first, second), weight in zip(*edges, strict=True):
            out[first] -= weight * values[second]
            out[second] -= weight * values[first]
        return out

    degree = trust.copy()
    for (first, second), weight in zip(*edges, strict=True):
        degree[first] += weight
        degree[second] += weight
    free = (~fixed).astype(np.float32)
    x = start.astype(np.float32)
    rest = (trust * guess - weighted(x)) * free
    scaled = rest / degree
    direction, power = scaled, float((rest * scaled).sum())
    enough = max(1e-6 * power, 1e-10)
    for _ in range(steps):
        if power <= enough:
            break
        image = weighted(direction) * free
        step = np.float32(power / float((direction * image).sum()))
        x = x + step * direction
        rest = rest - step * image
        scaled = rest / degree
        power, before = float((rest * scaled).sum()), power
        direction = scaled + np.float32(power / before) * direction
    return x.clip(0, 1)


def logistic(
    samples: NDArray[np.float32],
    targets: NDArray[np.float32],
    weights: NDArray[np.float32],
    ridge: float,
    start: NDArray[np.float64] | None = None,
    steps: int = 6,
) -> NDArray[np.float64]:
    """Coefficients [D] of a weighted logistic regression, by Newton's method.

    Args:
        samples: [N,D]; the last feature is the constant 1, whose coefficient `ridge` leaves free.
        targets: probabilities [N].
        weights: of the samples, [N]; those of weight 0 cost nothing.
        ridge: pulls the coefficients towards 0.
        start: coefficients to begin with; None begins with 0.
        steps: most steps.
    """
    used = weights > 0
    samples, targets, weights = samples[used], targets[used], weights[used]
    penalty = np.full(samples.shape[1], ridge)
    penalty[-1] = 1e-6
    found = np.zeros(samples.shape[1]) if start is None else start
    for _ in range(steps):
        chance = sigmoid((samples @ found.astype(np.float32)).clip(-30, 30))
        curve = weights * chance * (1 - chance) + 1e-9
        hessian = (samples.T @ (samples * curve[:, None])).astype(np.float64) + np.diag(penalty)
        change = np.linalg.solve(hessian, samples.T @ (weights * (targets - chance)) - penalty * found)
        found = found + change
        if np.abs(change).max() < 1e-2:
            break
    return found


def distance(cells: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance in cells from each cell of a grid [h,w] to the nearest of `cells`; infinite if there is none."""
    height, width = cells.shape
    far = 1e6
    rows = np.arange(height, dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(cells, rows, -far), 0)
    below = np.minimum.accumulate(np.where(cells, rows, far)[::-1], 0)[::-1]
    within = np.minimum(rows - above, below - rows)  # in the same column
    columns = np.arange(width, dtype=np.float64)
    across = (columns[:, None] - columns) ** 2
    squared = np.stack([(line**2 + across).min(1) for line in within])
    found: NDArray[np.float32] = np.where(squared < far, np.sqrt(squared), np.inf).astype(np.float32)
    return found


def reached(mask: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells of a mask [h,w] that are joined to a seed, side by side, within the mask."""
    found = mask & seeds
    while True:
        before = found.sum()
        found = _along_rows(mask, _along_rows(mask, found).T.copy(), turned=True)
        if found.sum() == before:
            return found


def _along_rows(mask: NDArray[np.bool_], found: NDArray[np.bool_], turned: bool = False) -> NDArray[np.bool_]:
    """`found` spread over each run of a row that holds one; over runs of columns if it is `turned`, and turned back."""
    mask = mask.T if turned else mask
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    runs = np.cumsum(starts).reshape(mask.shape)
    full = np.zeros(int(runs[-1, -1]) + 1, bool)
    full[runs[found]] = True
    spread: NDArray[np.bool_] = full[runs] & mask
    return spread.T if turned else spread
