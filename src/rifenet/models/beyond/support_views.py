"""Views of each support (beyond the paper): the photo, its mirror image, and a closer look at the object.

A class learned from one photo fits the scale and direction of that photo; views add others. With V views a query costs
as much as with V times as many shots. Two views, of which the second is closer and mirrored, are as good as all four
(docs/lab/bundled_449.md).

Shapes: B batch, K shots, H W image size. All steps are matrix products and gathers of fixed size, so that they export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rifenet.config import ModelConfig
from rifenet.models.backbones import Features
from rifenet.models.rifenet import RiFeNet
from rifenet.models.structures import EncodedShots, Images, check_support

ROOM = 1.5
"""Side of a closer look over the object's longer side, both relative to the image's sides."""


class ViewedRiFeNet(RiFeNet):
    """RiFeNet that learns a class from several views of each support: `config.support_views` and `support_closer`."""

    def encode_shots(
        self, support_images: Images, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> EncodedShots:
        """All views of the shots; see `RiFeNet.encode_shots`. `Features` allow one view only."""
        return shots_and_photos(self, support_images, support_masks, support_valid)[0]


def shots_and_photos(
    model: RiFeNet, images: Images, masks: Tensor, valid: Tensor | None
) -> tuple[EncodedShots, Features]:
    """`RiFeNet.encode_shots` of all views of the shots, and the features [B,K,...] of the images as they are.

    `RiFeNet.encode_query` takes the latter, too.
    """
    check_support(images, masks, valid)
    config = model.config if isinstance(model.config, ModelConfig) else ModelConfig()  # `NetworkConfig`: one view
    features, labels, real = viewed_features(model._encode, images, masks, valid, config)
    photos = Features(*(level[:, : masks.shape[1]] for level in features))
    return model._shots(features, labels, real)[0], photos


def viewed_features(
    extract: Callable[[Tensor], Features],
    images: Images,
    masks: Tensor,
    valid: Tensor | None,
    config: ModelConfig,
    *,
    at_once: bool = False,
) -> tuple[Features, Tensor, Tensor | None]:
    """Features, masks and valid of K * V shots, for V views of each.

    Args:
        extract: the backbone, for images [B,K,3,H,W].
        images: [B,K,3,H,W], RGB in [0,1], or their features, which allow one view only.
        masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
        valid: real pixels [B,K,H,W] bool; None: all.
        config: its `support_views` and `support_closer` say which views, see `support_views`.
        at_once: run all views in one pass of the backbone, as an export needs; one after the other takes less memory.
    """
    if isinstance(images, Features):
        return images, masks, valid
    views = support_views(images, masks, valid, config.support_views, closer=config.support_closer)
    seen, labels, real = zip(*views, strict=True)
    levels = [extract(torch.cat(seen, 1))] if at_once else map(extract, seen)
    features = Features(*(torch.cat(level, 1) for level in zip(*levels, strict=True)))
    return features, torch.cat(labels, 1), None if valid is None else torch.cat(real, 1)


def support_views(
    images: Tensor, masks: Tensor, valid: Tensor | None, views: int, *, closer: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yields the supports as they are, and other views of them.

    With 2 `views` the other is their mirror image, or with `closer` the mirror image of a closer look. With 4 the
    others are their mirror image, a closer look and its mirror image.

    A closer look is the part of the image around the object's box, `ROOM` times as large and with the image's ratio. It
    is enlarged to the image's size (bilinear; labels by nearest neighbour). Without an object, or with one that fills
    the image, it is the whole image.
    """
    whole = images, masks, valid
    yield whole
    if views > 1 and not closer:
        yield _mirrored(*whole)
    if closer or views == 4:
        near = _closer(*whole)
        if views == 4:
            yield near
        yield _mirrored(*near)


def _mirrored(images: Tensor, masks: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return images.flip(-1), masks.flip(-1), None if valid is None else valid.flip(-1)


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
    """First true position of `there` [B,K,side] bool, and the one after the last, [B,K]; `side` and 0 if none is."""
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
    """Bilinear weights [B,K,side,side] of the pixels of a row for sampling at `positions` [B,K,side]."""
    distance = positions[..., None] - torch.arange(side, device=positions.device)
    return (1 - distance.abs()).clamp(min=0)
