"""The network around `AnyBackboneHead`: a frozen backbone and the head, and nothing else (beyond the paper).

Shapes: B batch, K shots, D channels of the high features, E keys, F channels of the photo's own features, h w feature
size, N = h*w, f g size of the photo's own features, H W image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rifenet.config import ModelConfig
from rifenet.models.backbones import Backbone, Features
from rifenet.models.beyond.any_backbone import AnyBackboneHead, reference_of
from rifenet.models.beyond.evidence import EvidenceKeys, EvidenceLogits, chosen_keys
from rifenet.models.beyond.evidence_network import EvidenceNetwork
from rifenet.models.masks import SoftMasks, real_positions, soft_masks, valid_on_grid
from rifenet.models.structures import Decoded, Tensors, match_batches


@dataclass(frozen=True)
class AnyBackboneShots(Tensors):
    """What the network keeps of K annotated images."""

    high: Tensor
    """Centred units of `AnyBackboneHead.units`, [B,K,D,h,w]."""
    foreground: Tensor
    """Soft mask, [B,K,h,w] in [0,1]."""
    void: Tensor
    """Ignored pixels and padding, [B,K,h,w] in [0,1]."""


@dataclass(frozen=True)
class AnyBackboneContext(Tensors):
    """A learned class: the fields of `EvidenceKeys`."""

    evidence_keys: Tensor
    """[B,E,D]."""
    evidence_weights: Tensor
    """[B,2,E]."""
    evidence_means: Tensor
    """[B,2,D]."""


@dataclass(frozen=True, kw_only=True)
class AnyBackboneFeatures(Tensors):
    """An encoded image."""

    high: Tensor
    """Centred units of `AnyBackboneHead.units`, [B,D,h,w]."""
    valid: Tensor
    """Real positions, [B,h,w] bool."""
    fine: Tensor
    """The photo's own features, [B,F,f,g]."""
    affinity: Tensor | None = None
    """Similarities between its positions, [B,1,N,N]; None lets `decode` compute them."""


class AnyBackboneNetwork(EvidenceNetwork):
    """A head that fits any backbone. Build it with `build_model(kind="any_backbone", backbone=...)`.

    It has the methods of `RiFeNet`, with its own contexts and features, and no unlabeled branch. Call `refer` before
    the first photo, or load weights, which hold the reference of their backbone.
    """

    # Its parts are not those of RiFeNet's, though they are used in the same way.
    context_type = AnyBackboneContext  # type: ignore[assignment]
    features_type = AnyBackboneFeatures  # type: ignore[assignment]
    evidence: AnyBackboneHead  # type: ignore[assignment]

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        nn.Module.__init__(self)
        self.config: Any = config
        self.backbone = backbone
        self.local_prototype = None
        self.support_interaction = None
        self.auxiliary = None
        self.evidence = AnyBackboneHead(backbone.high_stage_channels, dim=config.evidence_dim)

    @torch.no_grad()
    def refer(self, images: Tensor, valid: Tensor) -> None:
        """Takes the reference of the backbone from photos of anything.

        Args:
            images: at least 2, [R,3,H,W] RGB in [0,1].
            valid: real pixels [R,H,W] bool.
        """
        high = torch.cat([self.backbone(image[None]).high for image in images])
        self.evidence.refer(reference_of(high, valid_on_grid(valid, (high.shape[-2], high.shape[-1])), self._stages))

    @property
    def _stages(self) -> tuple[int, ...]:
        return self.backbone.high_stage_channels

    def learn(self, shots: AnyBackboneShots) -> AnyBackboneContext:  # type: ignore[override]
        """The context of the class that `shots` show."""
        soft = SoftMasks(shots.foreground, shots.void)
        return AnyBackboneContext(*chosen_keys(shots.high, soft, self.config.max_evidence_keys))

    def decode_all(  # type: ignore[override]
        self, features: AnyBackboneFeatures, context: AnyBackboneContext, guide: Tensor | None = None
    ) -> Decoded:
        """The head's fine logits as `logits`, and its first estimate as `activated` and `features`."""
        features, context = match_batches(features, context)
        keys = EvidenceKeys(context.evidence_keys, context.evidence_weights, context.evidence_means)
        fine, coarse = self.evidence(features.high, features.valid, features.fine, keys, features.affinity)
        return Decoded(fine, coarse, coarse, None, coarse[:, 1:])

    def _evidence(self, features: Any, context: Any, decoded: Decoded) -> Any:
        return EvidenceLogits(decoded.logits, decoded.activated)

    def _query(self, features: Features, valid: Tensor | None, *, affinity: bool = True) -> AnyBackboneFeatures:  # type: ignore[override]
        units = self.evidence.units(features.high, 1)
        real = real_positions(valid, (units.shape[0], *units.shape[-2:]), units.device)
        cosines = self.evidence.affinity(units, real) if affinity else None
        return AnyBackboneFeatures(high=units, valid=real, fine=features.fine, affinity=cosines)

    def _shots(  # type: ignore[override]
        self, features: Features, support_masks: Tensor, valid: Tensor | None
    ) -> tuple[AnyBackboneShots, Tensor]:
        units = self.evidence.units(features.high, 2)
        soft = soft_masks(support_masks, valid, (units.shape[-2], units.shape[-1]))
        return AnyBackboneShots(units, soft.foreground, soft.void), units
