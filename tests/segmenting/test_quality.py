"""Signs of a mask against plain computations, and the expected IoU that the shipped coefficients make of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.segmenting.fit import Fit
from rifenet.segmenting.quality import FITTED, MAPS, expected_iou, models, signs_of

FOREGROUND, BACKGROUND = np.eye(6, dtype=np.float32)[:2]


def maps(sharp: float, side: int = 24) -> NDArray[np.float32]:
    """Margins of a square object: `sharp` in size on both sides."""
    made = np.full((side, side), -sharp, np.float32)
    made[6:18, 6:18] = sharp
    return made


def fit(**options: Any) -> Fit:
    chosen = {"tiles": False, "refine": True, "threshold": 0.3, "blend": 0.0, "quality": 0.8, "shots": 3, "share": 0.25}
    return Fit(**(chosen | options), look=np.stack([BACKGROUND, FOREGROUND]))


def high(inside: NDArray[np.float32], outside: NDArray[np.float32], cells: int = 8) -> NDArray[np.float32]:
    made = np.repeat(np.repeat(outside[:, None, None], cells, 1), cells, 2)
    made[:, 2:6, 2:6] = inside[:, None, None]
    return made


def test_signs_of_the_maps_are_what_they_say() -> None:
    margins = np.random.default_rng(0).normal(size=(9, 13)).astype(np.float32) * 2
    scores = 1 / (1 + np.exp(-margins.astype(np.float64)))
    own = margins > 0
    signs = signs_of(margins)
    assert tuple(signs) == MAPS
    soft = scores[own].sum() / (own.sum() + scores[~own].sum())
    assert signs["certain"] == pytest.approx(math.log(soft / (1 - soft)), abs=1e-5)
    inside = scores[own].mean()
    assert signs["inside"] == pytest.approx(math.log(inside / (1 - inside)), abs=1e-5)
    assert signs["stable"] == pytest.approx((margins > 1).sum() / (margins > -1).sum())
    assert signs["statistic"] == pytest.approx((scores**2).sum() / scores.sum(), abs=1e-6)
    assert signs["area"] == pytest.approx(math.log(own.mean()))


def test_signs_of_a_fit_compare_the_mask_with_the_shots() -> None:
    signs = signs_of(maps(9.0), fit(), high(FOREGROUND, BACKGROUND))
    assert set(signs) == set(FITTED)
    assert signs["alike"] == pytest.approx(1, abs=1e-3)
    assert signs["apart"] == pytest.approx(1, abs=1e-3)
    assert signs["contrast"] == pytest.approx(2, abs=2e-3)
    assert signs["size"] == pytest.approx(0, abs=1e-6)  # a quarter of the photo, as in the shots
    assert signs["own"] == pytest.approx(math.log(4))
    swapped = signs_of(maps(9.0), fit(), high(BACKGROUND, FOREGROUND))
    assert swapped["apart"] == pytest.approx(-1, abs=1e-3)
    assert swapped["contrast"] == pytest.approx(-2, abs=2e-3)
    assert signs_of(maps(9.0), fit(share=0.05))["size"] == pytest.approx(math.log(5))
    assert signs_of(maps(9.0), fit(shots=1))["one_shot"] == 1


def test_empty_masks_and_full_ones_have_signs() -> None:
    for value in (-30.0, 30.0, 0.0):
        signs = signs_of(np.full((5, 5), value, np.float32), fit(), high(FOREGROUND, BACKGROUND))
        assert all(math.isfinite(each) for each in signs.values())
        assert 0 < expected_iou(signs) < 1


def test_sharper_maps_promise_more() -> None:
    looks = high(FOREGROUND, BACKGROUND)
    assert expected_iou(signs_of(maps(6.0))) > expected_iou(signs_of(maps(0.5)))
    assert expected_iou(signs_of(maps(6.0), fit(), looks)) > expected_iou(signs_of(maps(0.5), fit(), looks))


def test_the_shipped_models_read_the_signs_that_there_are() -> None:
    assert {name: tuple(model["weights"]) for name, model in models().items()} == {"maps": MAPS, "fitted": FITTED}
