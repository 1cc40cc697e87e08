"""`Looks`: an engine that looks at each photo once while a class is learned and fitted.

The fit (`segmenting.fitting`) learns the class again without each of some shots, and segments those shots. Each of
these steps would send the same photos through the network again.

S side of the square network input
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context, Engine, ShotwiseEngine, is_shotwise

Key = bytes
"""Tells photos and shots apart by their pixels."""


class Looks:
    """An engine over a `ShotwiseEngine`, with the same results; see `rifenet.engines.Engine`.

    It keeps what it has encoded as long as it lives: make one for each class that is learned.
    """

    def __init__(self, engine: ShotwiseEngine) -> None:
        self._engine = engine
        self.name, self.hash, self.weights_hash = engine.name, engine.hash, engine.weights_hash
        self.size, self.threshold, self.calibration = engine.size, engine.threshold, engine.calibration
        self.inner_names = engine.inner_names
        self._shots: dict[Key, Any] = {}
        self._photos: dict[Key, Key] = {}  # the shot of each photo
        self._queries: dict[Key, Any] = {}

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class."""
        return self._engine.learn_shots([self._shot(*shot) for shot in zip(images, masks, valid, strict=True)])

    def _shot(self, image: NDArray[np.float32], mask: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Any:
        photo = _key(image, valid)
        key = photo + _key(mask)
        if key not in self._shots:
            self._shots[key] = self._engine.encode_shot(image, mask, valid)
            self._photos[photo] = key
        return self._shots[key]

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images; one alone that is a shot's photo is not looked at again."""
        key = _key(images[0], valid[0])
        if len(images) > 1 or key not in self._photos:
            return self._engine.encode_query(images, valid)
        if key not in self._queries:
            self._queries = {key: self._engine.query_of(self._shots[self._photos[key]])}  # the last one only
        return self._queries[key]

    def inner(self, features: Any) -> list[Mapping[str, NDArray[Any]]]:
        """Maps inside the network."""
        return self._engine.inner(features)

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Segments one class."""
        return self._engine.decode(features, context)


def _key(*arrays: NDArray[Any]) -> Key:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


def looking_once(engine: Engine) -> Engine:
    """`engine`, or `Looks` over it where it can encode shots one by one."""
    return Looks(engine) if is_shotwise(engine) else engine
