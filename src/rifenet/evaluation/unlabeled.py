"""How an episode's unlabeled images teach its class (`eval.unlabeled`, semi-supervised few-shot)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rifenet.evaluation.prediction import Model, margins, mask_threshold
from rifenet.metrics import presence_statistic, sigmoid
from rifenet.segmenting.pseudo_labels import COUNT, pseudo_mask


def semi_supervised(
    model: Model,
    support: Sequence[Tensor],
    unlabeled: Sequence[Tensor],
    context: Any,
    encoded: Iterable[Any] | None = None,
) -> Any:
    """Learns a class from its supports and from photos without masks, as `Segmenter.adapt` does with a user's photos.

    Args:
        model: the model.
        support: images [1,K,3,S,S], masks [1,K,S,S], valid [1,K,S,S].
        unlabeled: images [U,3,S,S], valid [U,S,S].
        context: the context of the supports alone.
        encoded: features of each unlabeled image, from `encode_query`; None: computed here.

    Returns:
        The context of the supports and of the most confident unlabeled images, at most `pseudo_labels.COUNT`.
        `context` itself where no image has a confident pixel of the class.
    """
    images, valid = unlabeled
    if encoded is None:
        encoded = (model.encode_query(image[None], real[None]) for image, real in zip(images, valid, strict=True))
    found = []
    for number, features in enumerate(encoded):
        logits, real = model.decode(features, context), valid[number].cpu().numpy()
        maps = margins(logits, images.shape[-1], mask_threshold(model))
        mask = pseudo_mask(maps, real)
        if (mask == 1).any():
            found.append((-presence_statistic(sigmoid(maps[real])), number, mask))
    surest = sorted(found, key=lambda each: each[:2])[:COUNT]
    if not surest:
        return context
    chosen = [number for _, number, _ in surest]
    masks = torch.from_numpy(np.stack([mask for _, _, mask in surest])).to(support[1])
    added = images[chosen], masks, valid[chosen]
    return model.encode_support(*(torch.cat([own, more[None]], 1) for own, more in zip(support, added, strict=True)))
