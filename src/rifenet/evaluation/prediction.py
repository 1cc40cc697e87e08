"""Prepares an episode's arrays for the network, and turns its logits into a mask (protocols.md 3).

Decisions:
- A pixel is in the mask where its foreground probability is above the model's `mask_threshold`, which is 0.5 for most
  models. The difference of the two logits is resized to the network's size with aligned corners, as the network's own
  grid. For scoring at the original size, `restore` then crops and resizes it without an offset.
- Features sit on every 8th, 16th or 32nd pixel, so corners align only where the side is a multiple of that plus 1. The
  400 px of `hsnet` are not, and no code of that family corrects it: what a feature says is read up to 15 px off,
  of supports and query alike. So it is here (protocols.md 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rifenet.data.transforms import Placement, restore
from rifenet.metrics import log_odds
from rifenet.models import aligned_resize


class Model(Protocol):
    """A torch module that can be scored: it has these three methods."""

    training: bool

    def encode_support(self, images: Tensor, masks: Tensor, valid: Tensor | None, /) -> Any:
        """[1,K,3,S,S], [1,K,S,S], [1,K,S,S] -> what `decode` needs of the class."""

    def encode_query(self, images: Tensor, valid: Tensor | None, /) -> Any:
        """[1,3,S,S], [1,S,S] -> what `decode` needs of the image."""

    def decode(self, features: Any, context: Any, /) -> Tensor:
        """-> logits [1,2,h,w]."""

    def train(self, mode: bool = True) -> Any:
        """Sets training or evaluation mode."""

    def parameters(self) -> Iterator[Tensor]:
        """Its parameters."""

    def buffers(self) -> Iterator[Tensor]:
        """Its buffers."""


class ScoringRules(NamedTuple):
    """How an episode is scored; the defaults are `pfenet`'s."""

    squashed: bool = False
    """The input is squashed to the square instead of resized and padded."""
    original_size: bool = True
    """Prediction and true mask are compared at the photo's own size instead of the network's."""
    vote: bool = False
    """Each shot predicts alone and `majority` combines the masks, instead of one pass over all shots."""


PFENET = ScoringRules()


def device_of(model: Model) -> torch.device:
    """The model's device; the CPU for a model without parameters and buffers."""
    return next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))


def accelerate(model: Model) -> None:
    """Accelerates the model's backbone, if it has one (`Backbone.accelerate`); moving the model later ends that."""
    if (backbone := getattr(model, "backbone", None)) is not None:
        backbone.accelerate()


def mask_threshold(model: Model) -> float:
    """Foreground probability in (0,1) above which a pixel is in the model's mask."""
    return float(getattr(getattr(model, "config", None), "mask_threshold", 0.5))


def predicted_mask(
    logits: Tensor, placement: Placement, rules: ScoringRules = PFENET, threshold: float = 0.5
) -> NDArray[np.uint8]:
    """Mask of one query, uint8 [H,W] at its original size or [S,S] (1 foreground), from logits [1,2,h,w].

    Raises ValueError for logits that are not finite.
    """
    scores = margins(logits, placement.size, threshold)
    return ((restore(scores, placement) if rules.original_size else scores) > 0).astype(np.uint8)


def margins(logits: Tensor, side: int, threshold: float) -> NDArray[np.float32]:
    """Log-odds of each pixel's foreground probability minus those of `threshold`, [side,side], of logits [1,2,h,w].

    Raises ValueError for logits that are not finite.
    """
    difference = (logits[:, 1:] - logits[:, :1]).float()
    if not bool(torch.isfinite(difference).all()):
        raise ValueError("Expected finite logits, but the model gave NaN or infinity. Check its weights.")
    square: NDArray[np.float32] = aligned_resize(difference, (side, side))[0, 0].numpy(force=True)
    return square - np.float32(log_odds(threshold))


def majority(masks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Combines K masks [H,W] (1 foreground) into one, uint8 [H,W], by the vote of the HSNet family.

    Each mask gives one vote to each of its foreground pixels. A pixel is foreground where it has at least one vote, and
    at least half as many as the pixel with the most votes. The divisor is that maximum, not K.
    """
    votes = np.sum(masks, axis=0, dtype=np.int64)
    return ((votes > 0) & (2 * votes >= votes.max())).astype(np.uint8)
