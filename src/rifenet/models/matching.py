"""Training-free matching (protocols.md 5): the `prototype` baseline's score.

Shapes: B batch, K shots, D channels of several backbone stages one after the other, h w feature size.

Features of each stage get unit length per position and are concatenated. A masked average over all shots gives one
foreground and one background prototype. The score is the cosine to the foreground minus the cosine to the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def matching_features(stages: tuple[Tensor, ...] | list[Tensor], dim: int) -> Tensor:
    """Concatenates stages along their channels `dim`; each stage, and then the whole, gets unit length per position."""
    return F.normalize(torch.cat([F.normalize(stage.float(), dim=dim) for stage in stages], dim), dim=dim)


def matching_prototypes(features: Tensor, foreground: Tensor, void: Tensor) -> Tensor:
    """Unit-length background and foreground prototypes [B,2,D] of supports.

    Args:
        features: from `matching_features`, [B,K,D,h,w].
        foreground: weight in [0,1], [B,K,h,w].
        void: weight of ignored pixels and padding, [B,K,h,w]; the rest is background.
    """
    background = (1 - foreground - void).clamp(min=0)
    # The average runs over the positions of all shots at once: a shot with a larger object weighs more, as defined.
    sums = [(features.flatten(3) @ weight.flatten(2)[..., None]).sum(1)[..., 0] for weight in (background, foreground)]
    return F.normalize(torch.stack(sums, 1), dim=2)


def matching_score(features: Tensor, prototypes: Tensor) -> Tensor:
    """Score [B,1,h,w] in [-2,2] of queries [B,D,h,w]; positive is foreground."""
    with torch.autocast(features.device.type, enabled=False):
        cosine = torch.einsum("bdhw,bld->blhw", features, prototypes)
    return cosine[:, 1:] - cosine[:, :1]
