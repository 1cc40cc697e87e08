"""Training-free matching (protocols.md 5): the `prototype` baseline's score, which is also RiFeNet's fallback.

Shapes: B batch, K shots, D channels of several backbone stages one after the other, h w feature size.

Features of each stage have unit length per position and are concatenated; one foreground and one background prototype
by masked average over all shots; score = cosine to the foreground minus cosine to the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rifenet.models.masks import SoftMasks


def matching_features(stages: tuple[Tensor, ...] | list[Tensor], dim: int) -> Tensor:
    """Stages, channels in `dim`, each of unit length per position, concatenated to unit length as a whole."""
    return F.normalize(torch.cat([F.normalize(stage.float(), dim=dim) for stage in stages], dim), dim=dim)


def matching_prototypes(features: Tensor, foreground: Tensor, void: Tensor) -> Tensor:
    """Unit-length background and foreground prototypes [B,2,D] of supports.

    Args:
        features: from `matching_features`, [B,K,D,h,w].
        foreground: weight in [0,1], [B,K,h,w].
        void: weight of ignored pixels and padding, [B,K,h,w]; what is left is background.
    """
    background = (1 - foreground - void).clamp(min=0)
    # All shots are one long image: a shot with a larger object weighs more, as in the definition.
    sums = [torch.einsum("bkdhw,bkhw->bd", features, weight) for weight in (background, foreground)]
    return F.normalize(torch.stack(sums, 1), dim=2)


def matching_score(features: Tensor, prototypes: Tensor) -> Tensor:
    """Score [B,1,h,w] in [-2,2] of queries [B,D,h,w]; positive is foreground."""
    with torch.autocast(features.device.type, enabled=False):
        cosine = torch.einsum("bdhw,bld->blhw", features, prototypes)
    return cosine[:, 1:] - cosine[:, :1]


class Fallback:
    """Training-free matching in the network's place, for a class that the network does not find (beyond the paper).

    A network trained on few classes learns them too, and a class far from them is often not found at all, not even on
    the photos that it was learned from. That shows before any query is seen (docs/experiments.md).

    Args:
        channels: channels of each stage in the high features, in their order.
        margin: how much lower the network's IoU on the supports may be than the matching's.
    """

    SCALE = 20.0
    """Scores of 0.1 are typical; so scaled, they are about as sure as the network's logits."""

    def __init__(self, channels: tuple[int, ...], margin: float) -> None:
        self.channels, self.margin = channels, margin

    def prototypes(self, high: Tensor, soft: SoftMasks) -> Tensor:
        """Prototypes [B,2,D] of supports high [B,K,D,h,w]."""
        features = matching_features(high.split(self.channels, dim=2), dim=2)
        return matching_prototypes(features, soft.foreground, soft.void)

    def logits(self, high: Tensor, prototypes: Tensor) -> Tensor:
        """Logits [B,2,h,w] of queries high [B,D,h,w]."""
        score = self.SCALE * matching_score(matching_features(high.split(self.channels, dim=1), dim=1), prototypes)
        return torch.cat([-score, score], 1)

    def trusts(self, logits: Tensor, high: Tensor, prototypes: Tensor, soft: SoftMasks) -> Tensor:
        """Whether the network segments the supports about as well as the matching or better, [B] bool.

        Args:
            logits: the network's, of the supports, [B*K,2,h,w].
            high: high features of the supports, [B*K,D,h,w].
            prototypes: [B*K,2,D].
            soft: the supports' masks, [B,K,h,w].
        """
        shape = soft.foreground.shape[:2]
        network, matching = (
            overlap((values[:, 1] > values[:, 0]).unflatten(0, shape), soft)
            for values in (logits, self.logits(high, prototypes))
        )
        return network >= matching - self.margin


def overlap(found: Tensor, soft: SoftMasks) -> Tensor:
    """Mean IoU [B] over the shots of found [B,K,h,w] bool with soft masks; ignored pixels and padding are left out."""
    background = (1 - soft.foreground - soft.void).clamp(min=0)
    intersection = (found * soft.foreground).sum((-2, -1))
    union = soft.foreground.sum((-2, -1)) + (found * background).sum((-2, -1))
    return (intersection / union.clamp(min=1e-7)).mean(1)
