"""`prototype`: the training-free baseline of protocols.md 5, with RiFeNet's three methods.

Shapes: B batch, K shots, D channels, H W image size, h w feature size.

`models.matching` computes the matching. This module chooses the stages to compare and adds the three methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rifenet.config import ModelConfig
from rifenet.models.backbones import Backbone
from rifenet.models.masks import soft_masks
from rifenet.models.matching import matching_features, matching_prototypes, matching_score
from rifenet.models.structures import Tensors, check_query, check_support, match_batches


@dataclass(frozen=True)
class PrototypeShots(Tensors):
    """What the baseline keeps of K annotated images."""

    features: Tensor
    """Unit length at each position, [B,K,D,h,w]."""
    foreground: Tensor
    """Soft mask, [B,K,h,w] in [0,1]."""
    void: Tensor
    """Ignored pixels and padding, [B,K,h,w] in [0,1]."""


@dataclass(frozen=True)
class PrototypeContext(Tensors):
    """A learned class."""

    prototypes: Tensor
    """Unit-length background and foreground prototypes, [B,2,D]."""


@dataclass(frozen=True)
class PrototypeFeatures(Tensors):
    """An encoded image."""

    features: Tensor
    """Unit length at each position, [B,D,h,w]."""


class Prototype(nn.Module):
    """Training-free prototype matching. Build it with `build_model(kind="prototype", backbone=...)`.

    It uses one view of each support and a mask threshold of 0.5. It ignores `config.support_views`,
    `config.support_closer` and `config.mask_threshold`.
    """

    metadata: dict[str, Any]
    """Metadata of the model's file; set by `load_model`."""
    hash: str
    """Identifies the model; set by `load_model`."""
    weights_hash: str
    """Hash of the file's tensors alone; set by `load_model`."""
    trained_over: str
    """Hash of the backbone that the model was trained over; set by `load_model` where the file rounded its copy."""
    context_type = PrototypeContext
    features_type = PrototypeFeatures

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = replace(config.with_one_view(), mask_threshold=0.5)
        self.backbone = backbone

    @staticmethod
    def stages_for(backbone: str) -> tuple[int, ...]:
        """The backbone stages it compares, chosen once on base classes (docs/lab/first_model.md) and fixed here."""
        return (5, 6, 7) if backbone.startswith("efficientnet") else (3, 4)

    def encode_support(
        self, support_images: Tensor, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> PrototypeContext:
        """Images [B,K,3,H,W], masks [B,K,H,W] (0, 1, 255), valid [B,K,H,W] bool -> the two prototypes."""
        return self.learn(self.encode_shots(support_images, support_masks, support_valid))

    def encode_shots(
        self, support_images: Tensor, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> PrototypeShots:
        """The costly part of `encode_support`, with its arguments; no shot depends on the others."""
        check_support(support_images, support_masks, support_valid)
        features = self._features(support_images.flatten(0, 1)).unflatten(0, support_images.shape[:2])
        soft = soft_masks(support_masks, support_valid, (features.shape[-2], features.shape[-1]))
        return PrototypeShots(features, soft.foreground, soft.void)

    def learn(self, shots: PrototypeShots) -> PrototypeContext:
        """The prototypes of the class that `shots` show."""
        return PrototypeContext(matching_prototypes(shots.features, shots.foreground, shots.void))

    def encode_query(self, query_images: Tensor, query_valid: Tensor | None = None) -> PrototypeFeatures:
        """Images [B,3,H,W] -> unit-length features; positions are independent, so `query_valid` has no effect."""
        check_query(query_images, query_valid)
        return PrototypeFeatures(self._features(query_images))

    def decode(self, features: PrototypeFeatures, context: PrototypeContext) -> Tensor:
        """Logits [B,2,h,w]: 0, and the difference of the two cosines, in [-2,2]."""
        features, context = match_batches(features, context)
        score = matching_score(features.features, context.prototypes)
        return torch.cat([torch.zeros_like(score), score], 1)

    def _features(self, images: Tensor) -> Tensor:
        return matching_features(self.backbone.stages(images), dim=1)
