"""Several views of each support (beyond the paper): a class is learned from its photo, mirrored, and from closer by.

What is learned from one photo holds at the scale and the direction of that photo. Queries cost what they cost with so
many shots more; chosen on held-out photos of classes trained on (docs/lab/bundled_321.md).

Shapes: B batch, K shots, H W image size. All of it is matrix products and gathers of fixed size, so that it exports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rifenet.models.backbones import Features
from rifenet.models.rifenet import RiFeNet
from rifenet.models.structures import Images, SupportContext, check_support

ROOM = 1.5
"""A closer look shows so many times the object's longer side, relative to the image's."""


class ViewedRiFeNet(RiFeNet):
    """RiFeNet that learns a class from `config.support_views` views of each support."""

    def encode_support(
        self, support_images: Images, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> SupportContext:
        """Learns a class; see `RiFeNet.encode_support`. Of given `Features` there is no other view."""
        check_support(support_images, support_masks, support_valid)
        shots = support_images, support_masks, support_valid
        return self._support(*viewed_features(self._encode, *shots, self.config.support_views))[0]


def viewed_features(
    extract: Callable[[Tensor], Features],
    images: Images,
    masks: Tensor,
    valid: Tensor | None,
    views: int,
    *,
    at_once: bool = False,
) -> tuple[Features, Tensor, Tensor | None]:
    """Features, masks and valid of K * `views` shots.

    Args:
        extract: the backbone, for images [B,K,3,H,W].
        images: [B,K,3,H,W], RGB in [0,1], or their features, of which there is no other view.
        masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
        valid: real pixels [B,K,H,W] bool; None: all.
        views: 1, 2 or 4, see `support_views`.
        at_once: all views in one pass of the backbone, as a graph needs it, not one after the other, in less memory.
    """
    if isinstance(images, Features):
        return images, masks, valid
    seen, labels, real = zip(*support_views(images, masks, valid, views), strict=True)
    levels = [extract(torch.cat(seen, 1))] if at_once else map(extract, seen)
    features = Features(*(torch.cat(level, 1) for level in zip(*levels, strict=True)))
    return features, torch.cat(labels, 1), None if valid is None else torch.cat(real, 1)


def support_views(
    images: Tensor, masks: Tensor, valid: Tensor | None, views: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The supports as they are; from 2 `views` on also mirrored; with 4 also a closer look at the object, both ways.

    A closer look is the part of the image around the object's box, `ROOM` times as large and of the image's ratio,
    enlarged to the image's size (bilinear; labels by nearest neighbour). An object that fills the image, or none,
    leaves the whole image.
    """
    whole = images, masks, valid
    closer = [_closer(*whole)] if views == 4 else []
    for image, mask, real in (whole, *closer):
        yield image, mask, real
        if views > 1:
            yield image.flip(-1), mask.flip(-1), None if real is None else real.flip(-1)


def _closer(images: Tensor, masks: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    foreground = masks == 1
    spans = [_span(foreground.any(axis)) for axis in (-1, -2)]
    sides = masks.shape[-2], masks.shape[-1]
    shares = [(last - first) / side for (first, last), side in zip(spans, sides, strict=True)]
    share = torch.maximum(*shares) * ROOM
    share = torch.where((share > 0) & (share < 1), share, torch.ones_like(share))
    rows, columns = (_positions(*span, share, side) for span, side in zip(spans, sides, strict=True))
    seen = _weights(rows, sides[0])[:, :, None] @ images @ _weights(columns, sides[1])[:, :, None].transpose(-1, -2)

    def nearest(maps: Tensor) -> Tensor:
        taken = maps.gather(-2, rows.round().long()[..., None].expand_as(maps))
        return taken.gather(-1, columns.round().long()[..., None, :].expand_as(maps))

    return seen, nearest(masks), None if valid is None else nearest(valid)


def _span(there: Tensor) -> tuple[Tensor, Tensor]:
    """First position [B,K] that is there, and the one after the last; there [B,K,side] bool. None: side and 0."""
    side = there.shape[-1]
    position = torch.arange(side, device=there.device).expand_as(there)
    return torch.where(there, position, side).amin(-1), torch.where(there, position + 1, 0).amax(-1)


def _positions(first: Tensor, last: Tensor, share: Tensor, side: int) -> Tensor:
    """Where the closer look's pixels lie, [B,K,side] in [0,side-1]."""
    length = share * side
    start = torch.minimum(((first + last) / 2 - length / 2).clamp(min=0), side - length)
    centres = (torch.arange(side, device=share.device) + 0.5) * share[..., None] + start[..., None] - 0.5
    return centres.clamp(0, side - 1)


def _weights(positions: Tensor, side: int) -> Tensor:
    """Bilinear weights [B,K,side,side] of the pixels in a row at `positions` [B,K,side]."""
    distance = positions[..., None] - torch.arange(side, device=positions.device)
    return (1 - distance.abs()).clamp(min=0)
