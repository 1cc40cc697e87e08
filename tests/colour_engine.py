"""A small, real engine for tests of what lies above engines: a class is the mean colour of its pixels in the supports.

On pictures of flat colours it segments exactly, so tests can say what the right mask is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context


class ColourEngine:
    """Satisfies `rifenet.engines.Engine`."""

    def __init__(self, size: int = 64, hash: str = "c0104e", calibration: dict[str, float] | None = None) -> None:
        self.name, self.size, self.hash, self.calibration = "colour", size, hash, calibration
        self.weights_hash, self.threshold = hash, 0.5
        self.inner_names: tuple[str, ...] = ()
        self.encoded_queries: list[int] = []  # batch size of each call, to see laziness

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        pixels = images.transpose(0, 2, 3, 1)  # [K,S,S,3]
        return {"colour": pixels[(masks == 1) & valid].mean(0, dtype=np.float64).astype(np.float32)[None]}

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        self.encoded_queries.append(len(images))
        return images

    def inner(self, features: Any) -> list[dict[str, NDArray[Any]]]:
        return [{"high": image, "fine": image} for image in features]

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        if context["colour"].shape != (1, 3):
            raise ValueError(f"colour is {context['colour'].shape}, not (1, 3)")
        distance = np.linalg.norm(features - context["colour"].reshape(1, 3, 1, 1), axis=1)  # [B,S,S]
        return np.stack([np.zeros_like(distance), 4 * (0.5 - distance)], 1).astype(np.float32)
