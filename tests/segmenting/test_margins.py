"""The mask's threshold is applied once, by Bayes' rule, and what goes by it says so in probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_engine import ColourEngine
from numpy.typing import NDArray

from rifenet import load_model
from rifenet.data.transforms import place
from rifenet.evaluation.prediction import predicted_mask
from rifenet.segmenting import pseudo_labels, tiles
from rifenet.segmenting.margins import margins, probabilities
from rifenet.segmenting.segmenter import Segmenter

RED, REDDISH, BLUE = (200, 40, 40), (150, 90, 70), (30, 40, 200)


def picture() -> NDArray[np.uint8]:
    """Red, reddish and blue thirds, 60 x 90."""
    return np.repeat(np.array([[RED, REDDISH, BLUE]], np.uint8), 60, 0).repeat(30, 1)


def taught(threshold: float) -> Segmenter:
    engine = ColourEngine()
    engine.threshold = threshold
    segmenter = Segmenter(engine)
    image = picture()
    segmenter.learn("red", [image], [(image == RED).all(-1).astype(np.uint8)])
    return segmenter


@pytest.mark.parametrize("threshold", [0.05, 0.33, 0.5, 0.9])
def test_a_pixel_is_in_the_mask_where_its_probability_is_above_the_threshold(threshold: float) -> None:
    result = taught(threshold).segment(picture(), keep_absent=True)
    plain = taught(0.5).segment(picture(), keep_absent=True)
    # Scores are the network's own probabilities, whatever the threshold; float32 rounds them in the seventh digit.
    np.testing.assert_allclose(result.scores["red"], plain.scores["red"], atol=1e-6)
    clear = np.abs(plain.scores["red"] - threshold) > 1e-5
    np.testing.assert_array_equal(result.mask[clear] == 1, (plain.scores["red"] > threshold)[clear])
    np.testing.assert_array_equal(result.alone("red"), result.mask == 1)


def test_thresholds_between_the_colours_tell_them_apart() -> None:
    scores = taught(0.5).segment(picture()).scores["red"]
    red, reddish, blue = (float(scores[30, column]) for column in (15, 45, 75))
    assert red > reddish > blue
    low, high = taught((reddish + blue) / 2), taught((red + reddish) / 2)
    assert low.segment(picture(), keep_absent=True).mask[30, [15, 45, 75]].tolist() == [1, 1, 0]
    assert high.segment(picture(), keep_absent=True).mask[30, [15, 45, 75]].tolist() == [1, 0, 0]


def test_margins_are_log_odds_above_those_of_the_threshold() -> None:
    class Fixed(ColourEngine):
        def decode(self, features: Any, context: Any) -> NDArray[np.float32]:
            return np.array([[[[0.0, 1.0]], [[0.7, -2.0]]]], np.float32)

    engine = Fixed()
    engine.threshold = 0.2
    expected = [np.log(0.8 / 0.2) + 0.7, np.log(0.8 / 0.2) - 3.0]
    found = margins(engine, None, {})
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities(found, 0.2)[0, 0], 1 / (1 + np.exp([-0.7, 3.0])), rtol=1e-6)


def test_the_probabilities_that_the_pages_of_code_name_are_right() -> None:
    """0.024 and 0.062, 0.047 and 0.119 (tiles); 0.535 and 0.174, 0.7 and 0.3 (pseudo-labels)."""
    bundled = load_model().config.mask_threshold
    assert bundled == 0.33
    for module, bounds in (
        (tiles, (tiles.RULED_OUT, tiles.DOUBTED)),
        (pseudo_labels, (pseudo_labels.SURE, -pseudo_labels.SURE)),
    ):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        for threshold in (bundled, 0.5):
            named = [1 / (1 + (1 - threshold) / threshold * np.exp(-bound)) for bound in bounds]
            for value in named:
                assert re.search(rf"\b{value:.3f}".rstrip("0") + r"\b", text), (module.__name__, value)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_evaluation_goes_by_the_same_threshold(threshold: float) -> None:
    logits = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(logits, (33, 33), mode="bilinear", align_corners=True)
    expected = fine.softmax(1)[0, 1].numpy()
    mask = predicted_mask(logits, place(33, 33, 33), threshold=threshold)
    clear = np.abs(expected - threshold) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(mask[clear] == 1, (expected > threshold)[clear])
