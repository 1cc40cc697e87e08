"""Similarity evidence: what training-free matching knows, handed to the network (beyond the paper; `ModelConfig.evidence`).

Shapes: B batch, K shots, P keys a shot, D channels of the high features, S stages of which they are made, h w feature size.

The prior mask says how like the support's foreground a position is, relative to the rest of the picture. Evidence adds,
for each stage of the high features, the absolute similarity to the foreground and to the background, and the
training-free score of protocols.md 5. None of it depends on which classes were trained on, so it carries over to classes
far from them; the head can correct it, and the score is added to the logits, so that it need not be learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def stagewise_unit(features: Tensor, channels: tuple[int, ...], dim: int) -> Tensor:
    """Features whose `dim` holds the stages one after the other, each stage scaled to unit length."""
    return torch.cat([F.normalize(stage, dim=dim) for stage in features.split(channels, dim=dim)], dim)


class Evidence(nn.Module):
    """Evidence channels [B,2S+1,h,w] in [-2,2], and the anchor's learned weight.

    Args:
        channels: channels of each stage in the high features, in their order.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.size = 2 * len(channels) + 1
        self.anchor = nn.Parameter(torch.tensor(4.0))

    def prototypes(self, high: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        """Background and foreground prototypes [B,2,D] of supports high [B,K,D,h,w], by weights [B,K,h,w], over all shots."""
        unit = stagewise_unit(high.float(), self.channels, dim=2)
        sums = [torch.einsum("bkdhw,bkhw->bd", unit, weight) for weight in (background, foreground)]
        return stagewise_unit(torch.stack(sums, 1), self.channels, dim=2)

    def forward(
        self, high: Tensor, keys: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], prototypes: Tensor
    ) -> Tensor:
        """Evidence of a query.

        Args:
            high: [B,D,h,w].
            keys: background and foreground keys, each [B,K,P,D].
            valid: which of them exist, each [B,K,P] bool.
            prototypes: [B,2,D], from `prototypes`.

        Returns:
            [B,2S+1,h,w]: similarity to the nearest background key and foreground key for each stage, then the score.
        """
        grid = high.shape[2:]
        with torch.autocast(high.device.type, enabled=False):
            query = stagewise_unit(high.float(), self.channels, dim=1).flatten(2).transpose(1, 2)  # [B,N,D]
            nearest = [
                (stage @ F.normalize(of_label, dim=-1).transpose(1, 2))
                .masked_fill(~exists.flatten(1)[:, None], -1.0)
                .amax(2)
                for label, exists in zip(keys, valid, strict=True)
                for stage, of_label in zip(
                    query.split(self.channels, dim=2), label.flatten(1, 2).split(self.channels, dim=2), strict=True
                )
            ]
            # Stages weigh alike: each is of unit length.
            cosine = query @ prototypes.transpose(1, 2) / len(self.channels)  # [B,N,2]
        score = cosine[..., 1] - cosine[..., 0]
        return torch.stack([*nearest, score], 1).unflatten(2, grid)
