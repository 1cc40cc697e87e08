"""Low-level features of a photo itself: colours, contrasts and slopes on a grid of stride 4, the same for any backbone.

Shapes: B batch, H W image size, f g grid, `ceil(H / 4)` and `ceil(W / 4)`; position (i, j) sits on pixel (4 i, 4 j).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
CHANNELS = 8
_WEIGHTS = (1.0, 4.0, 6.0, 4.0, 1.0)  # binomial, sum 16


def photo_edges(images: Tensor) -> Tensor:
    """Features [B,8,f,g] of images [B,3,H,W], RGB in [0,1].

    Three channels are the blurred brightness, red minus green, and yellow minus blue. Three are their contrast with the
    surroundings (about 10 pixels wide), one is how strongly the pixels differ from their neighbours, and one is how
    steep the three colours are. They are in units of the colours: whoever reads them scales them.
    """
    red, green, blue = images.unbind(1)
    colours = torch.stack([images.mean(1), red - green, (red + green) / 2 - blue], 1)
    smooth = _blurred(colours)
    near = smooth[..., ::STRIDE, ::STRIDE]
    contrast = near - _blurred(_blurred(near), dilation=2)
    texture = _blurred((colours - smooth).abs().mean(1, keepdim=True))[..., ::STRIDE, ::STRIDE]
    padded = F.pad(near, (1, 1, 1, 1), mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    slope = (across.square() + down.square()).sum(1, keepdim=True).add(1e-6).sqrt()
    return torch.cat([near, contrast, texture, slope], 1)


def _blurred(maps: Tensor, dilation: int = 1) -> Tensor:
    """Maps [B,C,h,w] smoothed by a binomial filter of 5 positions a side, `dilation` apart; borders repeat."""
    channels = maps.shape[1]
    row = torch.tensor(_WEIGHTS, dtype=maps.dtype, device=maps.device) / sum(_WEIGHTS)
    padded = F.pad(maps, (2 * dilation,) * 4, mode="replicate")
    # One direction after the other: 10 products a position where the whole filter has 25.
    along = F.conv2d(padded, row.expand(channels, 1, 1, 5), dilation=dilation, groups=channels)
    return F.conv2d(along, row[:, None].expand(channels, 1, 5, 1), dilation=dilation, groups=channels)
