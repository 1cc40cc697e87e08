"""What runs a model for the product: three methods on numpy arrays, whatever library computes them.

    K shots · B query images · S side of the square network input in pixels

Each engine is a file of its own (`torch.py`); it satisfies `Engine` by having these members, without inheriting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CARD = "rifenet.json"
"""The file that makes a folder an export."""

Context = dict[str, NDArray[Any]]
"""A learned class as named arrays; what they mean is the engine's business."""


class Engine(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Name of the model, for people."""
        ...

    @property
    def hash(self) -> str:
        """Says which model it is, by weights, behaviour and calibration: contexts of another hash do not fit."""
        ...

    @property
    def weights_hash(self) -> str:
        """Hash of the weights alone, by which files from before `hash` covered the rest name a model."""
        ...

    @property
    def size(self) -> int:
        """S."""
        ...

    @property
    def threshold(self) -> float:
        """Foreground probability from which on a pixel is in the mask, in (0,1)."""
        ...

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """None, or `a` and `b` of `confidence = sigmoid(a * rifenet.metrics.presence_statistic + b)`."""
        ...

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class.

        Args:
            images: [K,3,S,S] RGB in [0,1].
            masks: [K,S,S], 1 the class, 0 anything else, 255 ignore.
            valid: [K,S,S], True on real pixels.
        """
        ...

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images [B,3,S,S] (RGB in [0,1]) with valid [B,S,S], once for any number of classes."""
        ...

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """The network's own logits [B,2,S,S] (background, foreground) of one class in the images of `encode_query`."""
        ...


def is_export(model: str | Path) -> bool:
    """Whether `model` is a folder that `rifenet export` wrote."""
    return (Path(model) / CARD).is_file()
