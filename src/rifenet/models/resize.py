"""The resize of all networks: bilinear with aligned corners (method.md 9)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def aligned_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps [B,C,h,w] to `size` (H, W): [B,C,H,W]."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
