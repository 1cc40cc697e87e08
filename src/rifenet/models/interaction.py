"""Multi-level prototype interaction (paper; method.md 7): merges prototypes and prior mask into the features.

Shapes: B batch, C embed dim, L size of the local prototype, h w feature size.

A prototype expanded over the map is the same vector at every position. The modules therefore multiply the prototype
with its part of the 1x1 convolution's weights once, and add the result at every position. This equals the convolution
of the concatenated maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QueryInteraction(nn.Module):
    """[query C | global C | local L | prior 1] -> 1x1 convolution -> ReLU -> C.

    Args:
        dim: C.
        global_size: C, or 0 without the global prototype.
        local_size: L, or 0 without the local prototype.
    """

    def __init__(self, dim: int, global_size: int, local_size: int) -> None:
        super().__init__()
        self.parts = (dim, global_size + local_size, 1)
        self.merge = nn.Conv2d(sum(self.parts), dim, 1, bias=False)

    def forward(self, projected: Tensor, prior: Tensor, constants: list[Tensor]) -> Tensor:
        """Merges projected features [B,C,h,w], the prior [B,1,h,w] and what is constant over the map.

        `constants` are the prototypes in use, first the global one [B,C], then the local one [B,L].
        """
        on_map, constant, on_prior = self.merge.weight.split(self.parts, dim=1)
        merged = F.conv2d(projected, on_map) + prior * on_prior[:, 0]
        if constants:
            merged = merged + F.linear(torch.cat(constants, 1), constant[:, :, 0, 0])[..., None, None]
        return merged.relu_()


class SupportInteraction(nn.Module):
    """[support C | the masked average of that shot alone C] -> 1x1 convolution -> ReLU -> C."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(2 * dim, dim, 1, bias=False)

    def forward(self, projected: Tensor, own: Tensor) -> Tensor:
        """Merges projected features of shots [B*K,C,h,w], each with its own masked average [B*K,C]."""
        on_map, constant = self.merge.weight.chunk(2, dim=1)
        merged = F.conv2d(projected, on_map) + F.linear(own, constant[:, :, 0, 0])[..., None, None]
        return merged.relu_()
