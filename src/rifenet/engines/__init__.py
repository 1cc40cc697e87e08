"""`Engine`: runs a model for the product by three methods on numpy arrays, whatever the library.

    K shots · B query images · S side of the square network input in pixels

Each engine has its own file (`torch.py`, `onnx.py`). It has the members of `Engine` without inheriting from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

CARD = "rifenet.json"
"""Name of an export's card. A folder that holds this file is an export."""

INNER = ("high", "fine")
"""Names of the maps that `Engine.inner` gives."""

Context = dict[str, NDArray[Any]]
"""A learned class as named arrays, which only engines of the same `hash` can use."""


class Engine(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Name of the model, for people to read."""
        ...

    @property
    def hash(self) -> str:
        """Identifies the model by weights, behaviour and calibration. A context of another hash does not fit."""
        ...

    @property
    def weights_hash(self) -> str:
        """Hash of the weights alone. Older files identify their model by this hash."""
        ...

    @property
    def size(self) -> int:
        """Side S of the square network input in pixels."""
        ...

    @property
    def threshold(self) -> float:
        """Foreground probability above which a pixel is in the mask, in (0,1)."""
        ...

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """`a` and `b` of `confidence = sigmoid(a * rifenet.metrics.presence_statistic + b)`, or None."""
        ...

    @property
    def inner_names(self) -> tuple[str, ...]:
        """Names of the maps that `inner` gives, of `INNER`; empty for a network without them."""
        ...

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class.

        Args:
            images: [K,3,S,S] RGB in [0,1].
            masks: [K,S,S], 1 foreground, 0 background, 255 ignore.
            valid: [K,S,S], True on real pixels.
        """
        ...

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images [B,3,S,S] (RGB in [0,1]) with valid [B,S,S], once for any number of classes."""
        ...

    def inner(self, features: Any) -> list[Mapping[str, NDArray[Any]]]:
        """Maps inside the network for each image of `features`, which a pixel classifier of a class reads.

        `high` [D,h,w] has unit length at each position, `fine` [F,f,g] is as the backbone gives it; those of
        `inner_names`.
        """
        ...

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Logits [B,2,S,S] (background, foreground) of one class in the images of `features`; no threshold applied."""
        ...


class ShotwiseEngine(Engine, Protocol):
    """An engine that can encode shots one by one, so that a class is learned from some of them without another look."""

    @property
    def shotwise(self) -> bool:
        """Whether it can with its model."""
        ...

    def encode_shot(self, image: NDArray[np.float32], mask: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Any:
        """The costly part of `encode_support` for one shot: image [3,S,S], mask and valid [S,S]."""
        ...

    def learn_shots(self, shots: Sequence[Any]) -> Context:
        """What `encode_support` gives for shots that `encode_shot` encoded, in their order."""
        ...

    def query_of(self, shot: Any) -> Any:
        """What `encode_query` gives for the photo of a shot that `encode_shot` encoded."""
        ...


def is_shotwise(engine: Engine) -> TypeGuard[ShotwiseEngine]:
    """Whether an engine can encode shots one by one."""
    return bool(getattr(engine, "shotwise", False))


def is_export(model: str | Path) -> bool:
    """Whether `model` is a folder that `rifenet export` wrote."""
    return (Path(model) / CARD).is_file()
