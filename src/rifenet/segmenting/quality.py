"""How good a mask probably is: the expected IoU with the true mask, from what the maps and the class's fit show.

A logistic model turns a few signs of one photo into an expected IoU. Its coefficients were fitted on photos with known
masks of development sets by `benchmarks/quality.py`, which wrote them to `quality.json`. There are two models: one for
classes with a fit, and one that uses the signs of the maps alone.

    M real pixels of a photo · D channels of the high features · h w grid of the high features
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.metrics import log_odds, presence_statistic, sigmoid
from rifenet.segmenting.fit import Fit

MAPS = ("certain", "inside", "stable", "statistic", "area")
"""Signs that need no fit."""
FITTED = (*MAPS, "own", "one_shot", "alike", "apart", "contrast", "size")
"""Signs of a class with a fit."""
_LEAST = 1e-4


def signs_of(
    margins: NDArray[np.float32], fit: Fit | None = None, high: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Signs of one class in one photo.

    Args:
        margins: the class's margins on the photo, [h',w'] at any scale, without padding.
        fit: the class's fit.
        high: high features of the photo, [D,h,w], on the grid of the same part of the photo, for a class with a fit.

    Returns:
        - `certain`: log-odds of the IoU that the scores would give if they were true probabilities;
        - `inside`: log-odds of the mean score in the mask;
        - `stable`: IoU of the masks at margins of 1 and of -1;
        - `statistic`: `metrics.presence_statistic`;
        - `area`: logarithm of the mask's share of the photo.

        With a fit also:
        - `own`: log-odds of `Fit.quality`;
        - `one_shot`: 1 or 0;
        - `alike`: cosine between what the mask shows and the shots' objects;
        - `apart`: that, minus the cosine to the shots' background;
        - `contrast`: how much larger the difference of both cosines is at the mask's positions than elsewhere;
        - `size`: size of the difference in `area` to the shots.
    """
    scores = sigmoid(margins)
    own = margins > 0
    mass = float(scores[own].sum(dtype=np.float64))
    missed = float(scores.sum(dtype=np.float64)) - mass
    count = int(np.count_nonzero(own))
    area = math.log(max(count / max(margins.size, 1), _LEAST))
    signs = {
        "certain": _bounded_odds(mass / max(count + missed, _LEAST)),
        "inside": _bounded_odds(mass / count if count else 0.0),
        "stable": int(np.count_nonzero(margins > 1)) / max(int(np.count_nonzero(margins > -1)), 1),
        "statistic": presence_statistic(scores),
        "area": area,
    }
    if fit is None:
        return signs
    signs |= {"own": _bounded_odds(fit.quality), "one_shot": float(fit.shots == 1)}
    signs |= {"alike": 0.0, "apart": 0.0, "contrast": 0.0, "size": abs(area - math.log(max(fit.share, _LEAST)))}
    if high is not None and fit.look is not None:
        signs |= _resemblance(scores, high, fit.look)
    return signs


def expected_iou(signs: Mapping[str, float]) -> float:
    """Expected IoU in [0,1] of a mask with these signs, if the photo shows the class."""
    model = models()["fitted" if "own" in signs else "maps"]
    total = model["bias"] + sum(weight * signs[name] for name, weight in model["weights"].items())
    return float(sigmoid(np.array(total, np.float64)))


@cache
def models() -> Mapping[str, Any]:
    """The two models of `quality.json`: weights by sign, and bias."""
    loaded: Mapping[str, Any] = json.loads((files("rifenet.segmenting") / "quality.json").read_text(encoding="utf-8"))[
        "models"
    ]
    return loaded


def _bounded_odds(share: float) -> float:
    return log_odds(min(max(share, 0.01), 0.99))


def _resemblance(scores: NDArray[np.float32], high: NDArray[np.float32], look: NDArray[np.float32]) -> dict[str, float]:
    """How the mask's positions compare with the shots: `alike`, `apart` and `contrast` of `signs_of`."""
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(int)
        for count, side in zip(high.shape[1:], scores.shape, strict=True)
    )
    inside = np.square(scores[np.ix_(rows, columns)], dtype=np.float64)
    mean = np.tensordot(high, inside, 2)
    background, foreground = look @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    nearness = np.tensordot(look[1] - look[0], high, 1)
    outside = 1 - inside
    contrast = (nearness * inside).sum() / max(inside.sum(), _LEAST) - (nearness * outside).sum() / max(
        outside.sum(), _LEAST
    )
    return {"alike": float(foreground), "apart": float(foreground - background), "contrast": float(contrast)}
