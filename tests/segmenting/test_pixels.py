"""The pixel classifier against a discriminant computed the slow way, and on pictures whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.data.transforms import enlarged
from rifenet.segmenting.boxes import box_mean
from rifenet.segmenting.pixels import (
    BOUND,
    Described,
    contrasts,
    describe,
    discriminant,
    enlarged_at,
    pixel_sums,
    shares,
    total,
)

SIDE, GRID = 33, 9  # of the input, and of the fine grid at stride 4


def described(seed: int) -> Described:
    rng = np.random.default_rng(seed)
    high, fine = rng.normal(size=(4, 5, 5)), rng.normal(size=(3, GRID, GRID))
    return Described(high.astype(np.float32), fine.astype(np.float32))


def mask(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    made = (rng.random((SIDE, SIDE)) < 0.3).astype(np.uint8)
    made[:4] = 0
    made[-6:] = 255
    return made


def slow_rows(seen: Described, labels: NDArray[np.uint8]) -> list[tuple[NDArray[np.float64], float, float]]:
    """Features, share of the class and weight of each position that counts."""
    rows = []
    wide = enlarged(seen.high, (GRID, GRID)).astype(np.float64)
    for row in range(GRID):
        for column in range(GRID):
            window = labels[max(0, 4 * row - 2) : 4 * row + 3, max(0, 4 * column - 2) : 4 * column + 3]
            counted = (window != 255).mean()
            if counted > 0.5:
                share = (window == 1).sum() / (window != 255).sum()
                features = np.concatenate([wide[:, row, column], seen.fine[:, row, column].astype(np.float64)])
                rows.append((features, float(share), float(counted)))
    return rows


def test_the_classifier_is_a_ridge_discriminant_of_both_labels_alike() -> None:
    images = [(described(seed), mask(seed)) for seed in (1, 2)]
    classifier = discriminant(total([pixel_sums(*image) for image in images]), ridge=0.2)
    rows = [row for image in images for row in slow_rows(*image)]
    means, spreads = [], []
    for label in (0, 1):
        weights = np.array([weight * (share if label else 1 - share) for _, share, weight in rows])
        values = np.array([features for features, _, _ in rows])
        mean = (weights[:, None] * values).sum(0) / weights.sum()
        means.append(mean)
        spreads.append(
            sum(w * np.outer(v - mean, v - mean) for w, v in zip(weights, values, strict=True)) / weights.sum()
        )
    within, apart = (spreads[0] + spreads[1]) / 2, means[1] - means[0]
    scale = np.sqrt(np.diag(within) + apart**2 / 4) + 1e-4
    inverse = np.linalg.inv(within / np.outer(scale, scale) + 0.2 * np.eye(len(scale)))
    direction = inverse @ (apart / scale) / scale
    np.testing.assert_allclose(classifier.weights, direction, rtol=1e-3, atol=1e-5)  # sums in float32
    assert classifier.bias[0] == pytest.approx(-direction @ (means[0] + means[1]) / 2, abs=1e-4)


def test_scores_are_weighted_sums_of_the_enlarged_features_within_bounds() -> None:
    seen = described(3)
    classifier = discriminant(pixel_sums(seen, mask(3)))
    everything = np.concatenate([enlarged(seen.high, (GRID, GRID)), seen.fine])
    expected = np.tensordot(classifier.weights, everything, 1) + classifier.bias
    np.testing.assert_allclose(classifier.scores(seen), expected.clip(-BOUND, BOUND), atol=1e-4)
    strong = classifier._replace(weights=classifier.weights * 1000)
    assert np.abs(strong.scores(seen)).max() == BOUND


def test_positions_are_enlarged_as_the_whole_map_is() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    whole = enlarged(maps, (7, 11))
    positions = np.array([0, 10, 38, 76])
    np.testing.assert_allclose(enlarged_at(maps, (7, 11), positions), whole.reshape(3, -1)[:, positions].T, atol=1e-6)


def test_a_shot_with_many_pixels_counts_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, labels = described(4), mask(4)
    whole = pixel_sums(seen, labels)
    monkeypatch.setattr("rifenet.segmenting.pixels.MOST", 20)
    some = pixel_sums(seen, labels)
    assert some.weights.sum() == pytest.approx(whole.weights.sum(), rel=0.1)
    assert not np.allclose(some.means, whole.means)


def test_sums_without_a_shot_are_those_of_the_others() -> None:
    parts = [pixel_sums(described(seed), mask(seed)) for seed in (5, 6, 7)]
    for own, expected in zip(total(parts[1:]), parts[1].plus(parts[2]), strict=True):
        np.testing.assert_allclose(own, expected)


def test_shares_leave_out_ignored_pixels() -> None:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:, :16], labels[:9] = 1, 255
    share, counts = (each.reshape(GRID, GRID) for each in shares(labels, GRID))
    assert counts[0].max() == 0
    assert (counts[4:] == 1).all()
    assert share[4, :4].tolist() == [1, 1, 1, 1]
    assert share[4, 4] == pytest.approx(2 / 5)  # columns 14 to 18
    assert share[4, 5] == 0
    assert share[3, 0] == 1  # though some of its surroundings are ignored


def test_contrast_finds_a_thin_dark_line_and_knows_dark_from_light() -> None:
    image = np.full((3, SIDE, SIDE), 0.5, np.float32)
    image[:, :, 16] = 0.2
    dark = contrasts(image, GRID)
    light = contrasts(1 - image, GRID)
    assert dark[-2, 4, 4] > 2 * dark[-1, 4, 4]  # darker than its surroundings
    assert light[-1, 4, 4] > 2 * light[-2, 4, 4]
    assert dark[-2, 4, 4] > 3 * dark[-2, 4, 0]
    assert np.isfinite(dark).all()


def test_networks_without_fine_features_have_no_classifier() -> None:
    image = np.zeros((3, SIDE, SIDE), np.float32)
    assert describe({"high": np.zeros((4, 5, 5), np.float32)}, image) is None
    assert describe({"high": np.zeros((4, 5, 5)), "fine": np.zeros((0, GRID, GRID))}, image) is None


@pytest.mark.parametrize("radius", [1, (0, 2), (3, 9)])
def test_box_means_are_those_of_the_part_inside(radius: int | tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 5, 7))
    rows, columns = radius if isinstance(radius, tuple) else (radius, radius)
    expected = np.empty_like(maps)
    for i in range(5):
        for j in range(7):
            window = maps[:, max(0, i - rows) : i + rows + 1, max(0, j - columns) : j + columns + 1]
            expected[:, i, j] = window.mean((1, 2))
    np.testing.assert_allclose(box_mean(maps, radius), expected)
