"""PFENet (Tian et al., TPAMI 2020): the prior mask, and the feature enrichment module (FEM).

    X_m^i   = F_1x1(pool(X_Q, B_i) + X_S + pool(Y_M, B_i))       merged at scale i; + joins channels    (section 3.3.2)
    A^i     = X_m^i + alpha(X_m^i + X_new^(i-1))                 what a finer scale tells this one
    X_new^i = A^i + beta(A^i)                                    beta: two 3x3 convolutions
    X_new   = F_1x1(X_new^1 + ... + X_new^n)                     all scales, resized to the first

The scales go from fine to coarse, which the paper finds best; the first has no finer one, so A^1 = X_m^1. Both residual
links keep the main feature, as the paper's figure draws them. Each scale has a classifier of its own, whose loss enters
the total as a mean (sigma = 1).

Against the paper: losses are Dice, as in all rows of our comparison, where the paper has cross-entropy.

Shapes: B batch, K shots, C embed dim, h w feature size, B_i the sides of scale i.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.config import NetworkConfig
from rifenet.models.backbones import Backbone
from rifenet.models.head import Head, Residual, projection
from rifenet.models.prior import prior_mask
from rifenet.models.resize import aligned_resize
from rifenet.models.rifenet import RiFeNet
from rifenet.models.structures import Decoded, QueryFeatures, RiFeNetOutput, SupportContext, match_batches

SCALES = (1, 2, 4, 8)
"""Each scale's sides are those of the features divided by this, rounded up: 60, 30, 15 and 8 at 473 pixels."""


def scale_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sides of each scale, from fine to coarse."""
    return [(-(-height // scale), -(-width // scale)) for scale in SCALES]


def _pointwise(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.ReLU(inplace=True))


class FeatureEnrichment(nn.Module):
    """The feature enrichment module: query [B,C,h,w], prototype [B,C] and prior [B,1,h,w] -> [B,C,h,w]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge = nn.ModuleList(_pointwise(2 * dim + 1, dim) for _ in SCALES)
        self.alpha = nn.ModuleList(_pointwise(2 * dim, dim) for _ in SCALES[1:])
        self.beta = nn.ModuleList(Residual(dim) for _ in SCALES)  # A + beta(A)
        self.concentrate = _pointwise(len(SCALES) * dim, dim)

    def forward(self, query: Tensor, prototype: Tensor, prior: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The enriched features, and those of each scale before they are joined, [B,C,h_i,w_i]."""
        enriched: list[Tensor] = []
        for number, size in enumerate(scale_sizes(*query.shape[2:])):
            expanded = prototype[..., None, None].expand(-1, -1, *size)
            joined = torch.cat([F.adaptive_avg_pool2d(query, size), expanded, F.adaptive_avg_pool2d(prior, size)], 1)
            merged = self.merge[number](joined)
            if enriched:
                finer = aligned_resize(enriched[-1], size)
                merged = merged + self.alpha[number - 1](torch.cat([merged, finer], 1))
            enriched.append(self.beta[number](merged))
        whole = (query.shape[2], query.shape[3])
        return self.concentrate(torch.cat([aligned_resize(each, whole) for each in enriched], 1)), enriched


@dataclass
class PFENetOutput(RiFeNetOutput):
    """The output, with the logits of each scale."""

    scales: list[Tensor] = field(default_factory=list)
    """[B,2,h_i,w_i], from fine to coarse."""


class PFENet(RiFeNet):
    """PFENet's head on RiFeNet's projections, prior mask and global prototype, which both papers share."""

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        nn.Module.__init__(self)
        self.config: Any = config
        self.backbone = backbone
        dim = config.embed_dim
        self.support_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.query_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.local_prototype = None
        self.support_interaction = None
        self.auxiliary = None
        self.enrichment = FeatureEnrichment(dim)
        self.residual = Residual(dim)
        self.head = Head(dim, config.head_dropout)
        self.scale_heads = nn.ModuleList(Head(dim, config.head_dropout) for _ in SCALES)

    def decode_all(self, features: QueryFeatures, context: SupportContext, guide: Tensor | None = None) -> Decoded:
        """As `RiFeNet.decode_all`; `activated` holds the features of all scales, flattened and joined, [B,C,sum]."""
        features, context = match_batches(features, context)
        prior = prior_mask(features.high, features.valid, context.prior_keys, context.prior_valid)
        prior = prior.to(features.projected.dtype)
        enriched, scales = self.enrichment(features.projected, context.prototype, prior)
        last = self.residual(enriched)
        return Decoded(self.head(last), torch.cat([each.flatten(2) for each in scales], 2), last, None, prior)

    def _output(self, query: QueryFeatures, context: SupportContext, decoded: Decoded, **further: Any) -> PFENetOutput:
        sizes = scale_sizes(query.projected.shape[2], query.projected.shape[3])
        flat = decoded.activated.split([height * width for height, width in sizes], 2)
        scales = [head(each.unflatten(2, size)) for head, each, size in zip(self.scale_heads, flat, sizes, strict=True)]
        return PFENetOutput(decoded.logits, decoded.prior, scales=scales)
