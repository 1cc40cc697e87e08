"""The supports of episodes: each image is loaded and encoded once for a class, as long as the cache holds it.

An episode of several shots hardly ever returns, but its images do: 1,000 episodes of 5 shots draw 5,000 supports from
a few hundred images. So the cache holds what a model makes of one image (`EncodesShots`), with all its views, and
what follows is computed for each episode. A set of one shot may return, and is kept as a whole.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rifenet.data.episodes import load_support
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode
from rifenet.evaluation.prediction import Model, ScoringRules, device_of
from rifenet.models.structures import joined

PARTS = ("images", "masks", "valid")
CACHE_BYTES = 2**31
"""Bytes of supports and unlabeled images that the cache holds: at 473 px, 60 supports of a ResNet-50."""


class Unreadable(Exception):
    """An image of an episode cannot be read; `error` says which one and why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raises `Unreadable` in place of the errors of loading."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unreadable(error) from error


@runtime_checkable
class EncodesShots(Protocol):
    """A model that encodes each support by itself, and makes a class of those that an episode has."""

    def encode_shots(self, images: Tensor, masks: Tensor, valid: Tensor | None, /) -> Any:
        """[1,K,3,S,S], [1,K,S,S], [1,K,S,S] -> what `learn` needs of each."""

    def learn(self, shots: Any, /) -> Any:
        """-> what `decode` needs of the class."""


class Supports:
    """Teaches `model` the classes of episodes. Its cache is shared by all threads.

    Args:
        model: the model.
        index: the dataset.
        size: side S of the square network input, pixels.
        rules: the protocol's rules for input and shots.
        limit: bytes that the cache may hold.
    """

    def __init__(self, model: Model, index: ImageIndex, size: int, rules: ScoringRules, limit: int) -> None:
        self.model, self.index, self.size, self.rules = model, index, size, rules
        self.cache = Cache(limit)

    def contexts(self, episode: Episode, loaded: Mapping[str, Any]) -> Iterator[Any]:
        """Yields the context of all shots together, or with `rules.vote` that of each alone.

        `loaded` are the episode's arrays, with or without those of its supports. Raises Unreadable.
        """
        shots = len(episode.supports)
        for chosen in [slice(k, k + 1) for k in range(shots)] if self.rules.vote else [slice(shots)]:
            if isinstance(self.model, EncodesShots) and shots > 1 and not self.rules.vote:
                parts = [self._shot(self.model, episode, k, loaded) for k in range(shots)]
                yield self.model.learn(joined(parts))
                continue
            key = (episode.class_id, episode.supports[chosen])
            context = self.cache.get(key)
            if context is None:
                context = self.model.encode_support(*self.tensors(episode, chosen, loaded))
                self.cache.put(key, context)
            yield context

    def _shot(self, model: EncodesShots, episode: Episode, k: int, loaded: Mapping[str, Any]) -> Any:
        key = (episode.class_id, episode.supports[k])
        shot = self.cache.get(key)
        if shot is None:
            shot = model.encode_shots(*self.tensors(episode, slice(k, k + 1), loaded))
            self.cache.put(key, shot)
        return shot

    def tensors(self, episode: Episode, chosen: slice, loaded: Mapping[str, Any]) -> list[Tensor]:
        """Images [1,K,3,S,S], masks and valid [1,K,S,S] of the `chosen` supports. Raises Unreadable."""
        if "support_images" in loaded:
            found = {f"support_{part}": loaded[f"support_{part}"][:, chosen] for part in PARTS}
        else:
            with reading():
                alone = [
                    load_support(self.index, episode.class_id, image, self.size, squashed=self.rules.squashed)
                    for image in episode.supports[chosen]
                ]
            found = {name: torch.from_numpy(np.concatenate([one[name] for one in alone]))[None] for name in alone[0]}
        return [found[f"support_{part}"].to(device_of(self.model)) for part in PARTS]

    def photos(self, unlabeled: Sequence[Tensor], episode: Episode) -> Iterator[Any]:
        """Yields the features of each unlabeled image, given images [U,3,S,S] and valid [U,S,S]."""
        for image, valid, record in zip(*unlabeled, episode.unlabeled, strict=True):
            features = self.cache.get(record)
            if features is None:
                features = self.model.encode_query(image[None], valid[None])
                self.cache.put(record, features)
            yield features


class Cache:
    """What was used last, up to `limit` bytes of tensors; for several threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """What is kept under `key`, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, tensors: Iterable[Tensor]) -> None:
        """Stores `tensors`, and drops the entries used longest ago while over the limit."""
        with self._lock:
            if key in self._kept:
                return  # another thread has stored the same values
            self._kept[key] = tensors
            self._bytes += sum(field.nbytes for field in tensors)
            while self._bytes > self._limit:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= sum(field.nbytes for field in oldest)
