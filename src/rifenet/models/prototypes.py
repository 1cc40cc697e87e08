"""Multi-level prototypes (paper, multi-level prototype generation; method.md 6): the global and the local one.

Shapes: B batch, K shots, C embed dim, c local dim, g grid, h w feature size.

The global prototype describes the look of the class as a whole: a masked average over the support. The local prototype
describes where in this query, and with what texture, the class seems to be: one average for each cell of a coarse grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-7


def masked_average(features: Tensor, weight: Tensor) -> Tensor:
    """Average of features [...,C,h,w] under weight [...,h,w] >= 0: [...,C]; zeros where all weight is zero."""
    total = (features.flatten(-2) @ weight.flatten(-2)[..., None])[..., 0]
    return total / weight.sum((-2, -1)).clamp(min=EPS)[..., None]


def pooling_matrix(size: int, grid: int, device: torch.device) -> Tensor:
    """Sums over the cells of one axis as a 0/1 matrix [grid,size], with the cell borders of torch's adaptive pooling.

    Two such matrices pool a map. They export with a dynamic size, which adaptive pooling does not.
    """
    cell = torch.arange(grid, device=device)[:, None]
    position = torch.arange(size, device=device)[None]
    start = torch.div(cell * size, grid, rounding_mode="floor")
    end = -torch.div(-(cell + 1) * size, grid, rounding_mode="floor")
    return ((position >= start) & (position < end)).float()


def grid_average(features: Tensor, valid: Tensor, grid: int) -> Tensor:
    """Adaptive average pooling over valid positions: features [B,c,h,w], valid [B,h,w] -> [B,c,g,g].

    An image of 473 px gives 60 x 60 positions at stride 8; for g = 4 the cells are then the authors' windows of 15 x 15
    positions. A cell without a valid position gives 0.
    """
    rows = pooling_matrix(features.shape[2], grid, features.device).to(features.dtype)
    columns = pooling_matrix(features.shape[3], grid, features.device).to(features.dtype)
    weight = valid[:, None].to(features.dtype)
    total, count = (((x @ columns.T).mT @ rows.T).mT for x in (features * weight, weight))
    return total / count.clamp(min=1)


class ChannelAttention(nn.Module):
    """Squeeze and excitation: [B,c,g,g] scaled by a sigmoid of its own channel means."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B,c,g,g] to [B,c,g,g]."""
        scale = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * scale[..., None, None]


class LocalPrototype(nn.Module):
    """Local query prototype [B, c*g*g] (channel first, then the grid's rows).

    `local = flatten(refine(average_g(reduce(low) * prior)))`, where `reduce` is 1x1 convolution, ReLU and dropout.

    The caller applies `reduce`, once for each image, because it depends on no class; `forward` does the rest.

    Args:
        low_channels: channels of the backbone's low features.
        dim: c.
        grid: g.
        refine: 1x1 convolution and channel attention after the pooling (method.md 12, row 1).
        dropout: probability of the channel dropout.
    """

    def __init__(self, low_channels: int, dim: int, grid: int, refine: bool, dropout: float) -> None:
        super().__init__()
        self.grid = grid
        self.size = dim * grid * grid
        self.reduce = nn.Sequential(
            nn.Conv2d(low_channels, dim, 1, bias=False), nn.ReLU(inplace=True), nn.Dropout2d(dropout)
        )
        self.refine = (
            nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), ChannelAttention(dim)) if refine else nn.Identity()
        )

    def forward(self, reduced: Tensor, prior: Tensor, valid: Tensor) -> Tensor:
        """Pools `reduced` = self.reduce(low) [B,c,h,w], weighted by the prior [B,1,h,w], over valid [B,h,w]."""
        pooled: Tensor = self.refine(grid_average(reduced * prior, valid, self.grid))
        return pooled.flatten(1)
