"""What can be scored, and how an episode's unlabeled images teach it (`eval.unlabeled`, semi-supervised few-shot)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rifenet.evaluation.prediction import differences
from rifenet.metrics import presence_statistic
from rifenet.pseudo_labels import COUNT, pseudo_mask


class Model(Protocol):
    """What can be scored: the three methods over a torch module."""

    training: bool

    def encode_support(self, images: Tensor, masks: Tensor, valid: Tensor | None, /) -> Any:
        """[1,K,3,S,S], [1,K,S,S], [1,K,S,S] -> what `decode` needs of the class."""

    def encode_query(self, images: Tensor, valid: Tensor | None, /) -> Any:
        """[1,3,S,S], [1,S,S] -> what `decode` needs of the image."""

    def decode(self, features: Any, context: Any, /) -> Tensor:
        """-> logits [1,2,h,w]."""

    def train(self, mode: bool = True) -> Any:
        """Sets the mode."""

    def parameters(self) -> Iterator[Tensor]:
        """Its parameters."""

    def buffers(self) -> Iterator[Tensor]:
        """Its buffers."""


def unlabeled_of(batch: Mapping[str, Any], item: int, device: torch.device) -> list[Tensor]:
    """Images [U,3,S,S] and valid [U,S,S] of one episode of `collate_evaluation`."""
    return [torch.from_numpy(batch[f"unlabeled_{part}"][item]).to(device) for part in ("images", "valid")]


def semi_supervised(
    model: Model,
    support: Sequence[Tensor],
    unlabeled: Sequence[Tensor],
    context: Any,
    encoded: Iterable[Any] | None = None,
) -> Any:
    """A class learned from its supports and from photos of it without masks, as `Segmenter.adapt` does with a user's.

    Args:
        model: the model.
        support: images [1,K,3,S,S], masks [1,K,S,S], valid [1,K,S,S].
        unlabeled: images [U,3,S,S], valid [U,S,S].
        context: the class as learned from the supports.
        encoded: what `encode_query` makes of each unlabeled image; None: it is asked.

    Returns:
        The class as learned from the supports and those images, at most `pseudo_labels.COUNT`, in which it is found
        most surely; `context` itself where it is surely found in none.
    """
    images, valid = unlabeled
    if encoded is None:
        encoded = (model.encode_query(image[None], real[None]) for image, real in zip(images, valid, strict=True))
    found = []
    for number, features in enumerate(encoded):
        maps, real = differences(model.decode(features, context), images.shape[-1]), valid[number].cpu().numpy()
        mask = pseudo_mask(maps, real)
        if (mask == 1).any():
            found.append((-presence_statistic(0.5 + 0.5 * np.tanh(maps[real] / 2)), number, mask))
    surest = sorted(found, key=lambda each: each[:2])[:COUNT]
    if not surest:
        return context
    chosen = [number for _, number, _ in surest]
    masks = torch.from_numpy(np.stack([mask for _, _, mask in surest])).to(support[1])
    added = images[chosen], masks, valid[chosen]
    return model.encode_support(*(torch.cat([own, more[None]], 1) for own, more in zip(support, added, strict=True)))
