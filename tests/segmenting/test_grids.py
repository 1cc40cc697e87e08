"""Sums over grids, against slow references."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.segmenting.grids import Edges, distance, edges, logistic, neighbours, reached, walk


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (11, 8)])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_distances_are_those_to_the_nearest_cell(shape: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(count)
    cells = np.zeros(shape, bool)
    cells[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = True
    slow = np.array(
        [[min(np.hypot(*(np.array((y, x)) - cell)) for cell in np.argwhere(cells)) for x in range(shape[1])]
         for y in range(shape[0])]
    )  # fmt: skip
    np.testing.assert_allclose(distance(cells), slow, atol=1e-5)  # float32 of numbers up to 14


def test_without_cells_all_is_infinitely_far() -> None:
    assert np.isinf(distance(np.zeros((4, 5), bool))).all()


def flooded(mask: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found = mask & seeds
    todo = deque(map(tuple, np.argwhere(found)))
    while todo:
        y, x = todo.popleft()
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]
            if inside and mask[v, u] and not found[v, u]:
                found[v, u] = True
                todo.append((v, u))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_reached_is_a_flood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < 0.62
    seeds = rng.random(mask.shape) < 0.02
    np.testing.assert_array_equal(reached(mask, seeds), flooded(mask, seeds))


def test_a_spiral_is_reached_to_its_end() -> None:
    spiral = np.zeros((9, 9), bool)
    spiral[0, :], spiral[:, 8], spiral[8, :], spiral[2:, 0], spiral[2, :7], spiral[2:7, 6] = (True,) * 6
    seeds = np.zeros_like(spiral)
    seeds[0, 0] = True
    assert reached(spiral, seeds)[6, 6]
    spiral[8, 4] = False
    assert not reached(spiral, seeds)[6, 6]


def test_every_pair_of_neighbours_has_one_edge() -> None:
    number = np.arange(12).reshape(3, 4)
    pairs = {
        frozenset((int(a), int(b)))
        for first, second in neighbours(3, 4)
        for a, b in zip(number[first].ravel(), number[second].ravel(), strict=True)
    }
    cells = [(y, x) for y in range(3) for x in range(4)]
    near = {
        frozenset((4 * y + x, 4 * v + u))
        for y, x in cells
        for v, u in cells
        if max(abs(y - v), abs(x - u)) == 1
    }  # fmt: skip
    assert pairs == near
    assert sum(number[first].size for first, _ in neighbours(3, 4)) == len(near)


def test_edges_are_light_where_planes_change() -> None:
    plane = np.zeros((1, 4, 6), np.float32)
    plane[:, :, 3:] = 1
    found = edges([(0.5, plane)], 0.001)
    along = found.weights[0]  # to the right
    change = (plane[:, :, 1:] - plane[:, :, :-1]) ** 2
    np.testing.assert_allclose(along, np.exp(-0.5 * change[0] / (change.mean() + 1e-5)) + 0.001, rtol=1e-5)
    np.testing.assert_allclose(found.weights[1], 1.001, rtol=1e-5)
    assert found.weights[2][0, 0] == pytest.approx(1.001 / 2**0.5, rel=1e-5)


def test_the_walk_solves_its_equations() -> None:
    rng = np.random.default_rng(3)
    shape, count = (6, 7), 42
    pairs = neighbours(*shape)
    weights = tuple(rng.uniform(0.01, 1, np.empty(shape)[first].shape).astype(np.float32) for first, _ in pairs)
    guess = rng.random(shape).astype(np.float32)
    trust = rng.uniform(0.01, 0.2, shape).astype(np.float32)
    fixed = rng.random(shape) < 0.15
    given = (rng.random(shape) < 0.5).astype(np.float32)
    number = np.arange(count).reshape(shape)
    laplacian = np.diag(trust.ravel().astype(np.float64))
    for (first, second), weight in zip(pairs, weights, strict=True):
        for a, b, w in zip(number[first].ravel(), number[second].ravel(), weight.ravel(), strict=True):
            laplacian[[a, b], [a, b]] += w
            laplacian[[a, b], [b, a]] -= w
    free, held = ~fixed.ravel(), fixed.ravel()
    right = (trust * guess).ravel()[free] - laplacian[np.ix_(free, held)] @ given.ravel()[held]
    exact = given.ravel().astype(np.float64)
    exact[free] = np.linalg.solve(laplacian[np.ix_(free, free)], right)
    start = np.where(fixed, given, 0.5).astype(np.float32)
    found = walk(Edges(pairs, weights), guess, trust, fixed, start)
    np.testing.assert_allclose(found.ravel(), exact, atol=2e-3)  # the search ends at a thousandth of its first error
    np.testing.assert_array_equal(found[fixed], given[fixed])


def test_the_regression_is_at_its_minimum() -> None:
    rng = np.random.default_rng(5)
    samples = np.concatenate([rng.normal(size=(60, 3)), np.ones((60, 1))], 1).astype(np.float32)
    targets, weights = rng.random(60).astype(np.float32), rng.uniform(0, 2, 60).astype(np.float32)
    weights[::7] = 0
    ridge = 0.7

    def loss(beta: NDArray[np.float64]) -> float:
        value = samples.astype(np.float64) @ beta
        likelihood = targets * value - np.logaddexp(0, value)
        return float(-(weights * likelihood).sum() + ridge / 2 * (beta[:-1] ** 2).sum())

    found = logistic(samples, targets, weights, ridge)
    slopes = [(loss(found + step) - loss(found - step)) / 2e-4 for step in 1e-4 * np.eye(4)]
    np.testing.assert_allclose(slopes, 0, atol=0.02)  # it ends at a change of a hundredth
    assert np.abs([(loss(step) - loss(-step)) / 2e-4 for step in 1e-4 * np.eye(4)]).max() > 1, "0 is no minimum"
