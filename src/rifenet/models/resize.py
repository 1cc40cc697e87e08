"""The one resize of the networks: bilinear, the corners' centres on each other (method.md 9)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def aligned_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B,C,h,w] at `size` (H, W), [B,C,H,W]: bilinear with aligned corners."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
