"""Margins: how far each pixel is above the mask threshold. Only this module applies `Engine.threshold`.

A pixel's margin is the log-odds of its foreground probability minus the log-odds of the threshold. Above 0 the pixel is
in the mask. At a threshold of 0.5 the margin is the difference of the two logits. A class's fit may add the score of
its pixel classifier and move the threshold (`segmenting.fit`).

    B query images · S side of the square network input
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import enlarged
from rifenet.engines import Context, Engine
from rifenet.metrics import log_odds, sigmoid
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.pixels import Described, describe


class Seen:
    """Images that an engine has encoded once for all classes."""

    def __init__(self, engine: Engine, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Encodes images [B,3,S,S] with valid [B,S,S], as `Engine.encode_query`."""
        self.engine, self.images = engine, images
        self.features = engine.encode_query(images, valid)

    @cached_property
    def described(self) -> list[Described | None]:
        """What a pixel classifier reads of each image, found on first use."""
        inner = self.engine.inner(self.features)
        return [describe(maps, pixels) for maps, pixels in zip(inner, self.images, strict=True)]

    def margins(self, context: Context, fit: Fit | None = None) -> NDArray[np.float32]:
        """Margins [B,S,S] of one class in the images, by its fit."""
        own = margins(self.engine, self.features, context)
        if fit is None:
            return own
        if fit.pixels is not None:
            for number, seen in enumerate(self.described):
                assert seen is not None, "a class has a classifier only where the network has features for it"
                own[number] += np.float32(fit.blend) * enlarged(fit.pixels.scores(seen), own.shape[1:])
        own -= np.float32(log_odds(fit.threshold) - log_odds(self.engine.threshold))
        return own


def margins(engine: Engine, features: Any, context: Context) -> NDArray[np.float32]:
    """Margins [B,S,S] of one class in the images that `engine.encode_query` encoded as `features`, without a fit."""
    logits = engine.decode(features, context)
    return logits[:, 1] - logits[:, 0] - np.float32(log_odds(engine.threshold))


def probabilities(values: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Turns margins [...] into foreground probabilities [...] in [0,1], the softmax of the two logits."""
    return sigmoid(values + np.float32(log_odds(threshold)))
