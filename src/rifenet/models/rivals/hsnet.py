"""HSNet (Min et al., ICCV 2021): correlations of all positions of query and support, squeezed by 4D convolutions.

    C(x, x') = ReLU(cosine(F_Q(x), F_S(x') * M(x')))                  at each level of a pyramid       (equations 1, 2)
    (c * k)(x, x') = sum over p' near x' of c(x, p') k_s(p' - x')     the centre-pivot 4D convolution  (equation 5)
                   + sum over p near x of c(p, x') k_q(p - x)

Blocks of three such convolutions squeeze the support's two axes of each level; the levels are then mixed from coarse to
fine; the mean over the support's axes leaves a map of the query, which a small decoder classifies. Several shots: the
mean of their logits.

Against the paper: each level correlates one of the frozen levels that all rows of our comparison share (low, mid,
high), at sides h, h/2 and h/4, where the paper takes every layer of the backbone's last three stages; of several shots
the paper lets the masks vote. Widths are those of the paper at C = 256: 16, 64 and 128 channels.

Shapes: B batch, K shots, C embed dim, D channels of a level, h w query positions, s t support positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.config import NetworkConfig
from rifenet.models.backbones import Backbone, Features
from rifenet.models.masks import soft_masks
from rifenet.models.resize import aligned_resize
from rifenet.models.rifenet import RiFeNet
from rifenet.models.structures import Decoded, Tensors, match_batches

SQUEEZES = (((5, 4), (5, 4), (3, 2)), ((5, 4), (3, 2), (3, 2)), ((3, 2), (3, 2), (3, 2)))
"""Kernel and stride, on the support's axes, of the three convolutions of each level, from fine to coarse."""


@dataclass(frozen=True)
class Pyramid(Tensors):
    """Features of unit length at three scales: of a query, [B,D,h,w], or of supports under their masks, [B,K,D,h,w]."""

    fine: Tensor
    middle: Tensor
    coarse: Tensor


def pyramid(features: Features, mask: Tensor | None = None) -> Pyramid:
    """The low, mid and high features [...,D,h,w] at sides h, h/2 and h/4, times `mask` [...,h,w] if given."""
    levels = []
    for number, level in enumerate((features.low, features.mid, features.high)):
        flat = level.float().flatten(0, -4)
        size = tuple(-(-side // 2**number) for side in flat.shape[2:])
        small = F.adaptive_avg_pool2d(flat, size)
        if mask is not None:
            small = small * aligned_resize(mask.flatten(0, -3)[:, None], (size[0], size[1]))
        levels.append(F.normalize(small, dim=1).unflatten(0, level.shape[:-3]))
    return Pyramid(*levels)


def correlation(query: Tensor, support: Tensor) -> Tensor:
    """Cosines clamped at 0 of unit-length features [B,D,h,w] and [B,D,s,t]: [B,1,h,w,s,t]."""
    return torch.einsum("bdhw,bdst->bhwst", query, support).relu()[:, None]


class CentrePivotConv4d(nn.Module):
    """Centre-pivot 4D convolution: [B,C,h,w,s,t] -> [B,C',h,w,s/stride,t/stride], sides rounded up."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.over_query = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        self.over_support = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of two 2D convolutions, each at the other side's centre."""
        kept = x[..., :: self.stride, :: self.stride]
        return _on_last_axes(self.over_support, x) + _swapped(_on_last_axes(self.over_query, _swapped(kept)))


def _swapped(x: Tensor) -> Tensor:
    """Exchanges the axes of query and support."""
    return x.permute(0, 1, 4, 5, 2, 3)


def _on_last_axes(conv: nn.Module, x: Tensor) -> Tensor:
    """A 2D convolution over the last two axes of [B,C,h,w,s,t], at each position of the other two."""
    batch, _, height, width = x.shape[:4]
    found: Tensor = conv(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    return found.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2, 4, 5)


def _block(channels: int, outs: tuple[int, ...], steps: tuple[tuple[int, int], ...]) -> nn.Sequential:
    """Convolution, group norm in 4 groups (fewer for narrow networks) and ReLU, three times."""
    parts: list[nn.Module] = []
    for out, (kernel, stride) in zip(outs, steps, strict=True):
        norm = nn.GroupNorm(math.gcd(4, out), out)
        parts += [CentrePivotConv4d(channels, out, kernel, stride), norm, nn.ReLU(inplace=True)]
        channels = out
    return nn.Sequential(*parts)


class HSNet(RiFeNet):
    """HSNet's head on RiFeNet's frozen features."""

    context_type: Any = Pyramid
    features_type: Any = Pyramid

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        nn.Module.__init__(self)
        self.config: Any = config
        self.backbone = backbone
        self.auxiliary = None
        widths = (config.embed_dim // 16, config.embed_dim // 4, config.embed_dim // 2)
        self.squeeze = nn.ModuleList(_block(1, widths, steps) for steps in SQUEEZES)
        wide, narrow = widths[2], widths[1]
        self.mix = nn.ModuleList(_block(wide, (wide,) * 3, ((3, 1),) * 3) for _ in SQUEEZES[1:])
        self.decoder = nn.Sequential(
            *(nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(wide, narrow, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.head = nn.Sequential(
            *(nn.Conv2d(narrow, narrow, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(narrow, 2, 3, padding=1)),
        )

    def learn(self, shots: Any) -> Any:
        """The supports' features under their masks are all there is to know of a class."""
        return shots

    def decode_all(self, features: Any, context: Any, guide: Tensor | None = None) -> Decoded:
        """As `RiFeNet.decode_all`, with logits of twice the features' sides.

        `prior` is the largest correlation of each position at the finest level, a mean over the shots.
        """
        features, context = match_batches(features, context)
        shots = [
            self._decode_shot(features, context.map(lambda level, k=k: level[:, k])) for k in range(_count(context))
        ]
        return Decoded(
            *(torch.stack(part).mean(0) for part in zip(*(shot[:3] for shot in shots), strict=True)),
            None,
            torch.stack([shot[3] for shot in shots]).mean(0),
        )

    def _decode_shot(self, query: Pyramid, support: Pyramid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, the squeezed map, what the head classifies, and the largest correlations, for one shot."""
        levels = [correlation(*pair) for pair in zip(query, support, strict=True)]
        squeezed = [squeeze(level) for squeeze, level in zip(self.squeeze, levels, strict=True)]
        mixed = squeezed.pop()
        for mix in self.mix:
            finer = squeezed.pop()
            mixed = mix(finer + _resized(mixed, (finer.shape[2], finer.shape[3])))
        found = mixed.mean((4, 5))
        decoded = self.decoder(found)
        decoded = aligned_resize(decoded, (2 * decoded.shape[2], 2 * decoded.shape[3]))
        return self.head(decoded), found, decoded, levels[0].amax((4, 5))

    def _query(self, features: Features, valid: Tensor | None) -> Any:
        return pyramid(features)

    def _shots(self, features: Features, support_masks: Tensor, valid: Tensor | None) -> Any:
        height, width = features.low.shape[-2:]
        return pyramid(features, soft_masks(support_masks, valid, (height, width)).foreground), None


def _count(context: Pyramid) -> int:
    return context.fine.shape[1]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes the query's axes of [B,C,h,w,s,t] to `size`."""
    flat = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)
    return aligned_resize(flat, size).unflatten(0, (x.shape[0], *x.shape[4:])).permute(0, 3, 4, 5, 1, 2)
