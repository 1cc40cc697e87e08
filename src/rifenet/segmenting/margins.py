"""Margins: how far each pixel is above the mask threshold. Only this module applies `Engine.threshold`.

A pixel's margin is the log-odds of its foreground probability minus the log-odds of the threshold. Above 0 the pixel is
in the mask. At a threshold of 0.5 the margin is the difference of the two logits.

    B query images · S side of the square network input
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context, Engine
from rifenet.metrics import log_odds, sigmoid


def margins(engine: Engine, features: Any, context: Context) -> NDArray[np.float32]:
    """Margins [B,S,S] of one class in the images that `engine.encode_query` encoded as `features`."""
    logits = engine.decode(features, context)
    return logits[:, 1] - logits[:, 0] - np.float32(log_odds(engine.threshold))


def probabilities(values: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Turns margins [...] into foreground probabilities [...] in [0,1], the softmax of the two logits."""
    return sigmoid(values + np.float32(log_odds(threshold)))
