"""A backbone around any network that gives feature maps: one of transformers (`hf`), or a user's own.

The rest of the program takes a feature grid whose corners are the corners of the image. A convolution with padding puts
its features there. A network of patches puts each feature into the middle of its patch. So it is shown the image with
half a patch around it, which repeats the outer pixels: the middles of the patches then stand on the grid. Maps of other
strides than the grid's are read, bilinearly, where the grid stands.

Letters: B batch, C channels, H W image, h w feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models.backbones.base import Backbone, Levels, Normalization
from rifenet.models.resize import aligned_resize


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A network and what must be known of it to use its features. Stages are numbered from 1."""

    network: nn.Module
    """Maps normalised images [B,3,H,W] to a sequence of feature maps [B,C,h,w], one for each stage."""
    channels: tuple[int, ...]
    """C of each stage."""
    strides: tuple[int, ...]
    """Pixels between neighbouring features of each stage."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """The network sees `(RGB in [0,1] - mean) / deviation`."""
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """See `mean`."""
    bgr: bool = False
    """The network sees BGR instead of RGB."""
    patches: bool = True
    """Feature (i, j) stands in the middle of its patch of stride x stride pixels, and the network needs sides that are
    multiples of the largest stride. False: it stands on pixel (i * stride, j * stride), and any side will do."""
    low: tuple[int, ...] = ()
    """Stages of the low features where a configuration names none; empty: the first one of the chosen stride."""
    mid: tuple[int, ...] = ()
    """The same for the mid features; empty: the low ones and the next stage."""
    high: tuple[int, ...] = ()
    """The same for the high features, which the training-free prototype compares; empty: the last stage."""
    described: dict[str, Any] | None = None
    """What rebuilds the network without its weights, as JSON can hold it, for model files that carry the backbone."""
    origin: str = ""
    """The exact name of where the weights come from; empty: the name in the configuration."""

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.strides) or min(*self.channels, *self.strides) < 1:
            raise ValueError(
                f"Expected channels and a stride for each stage, but got {self.channels} and {self.strides}."
            )

    @property
    def compared(self) -> tuple[int, ...]:
        """Stages that a head for any backbone compares: `high` where it is given.

        Of equal patches, the stages at two thirds and at the end; else the last three of stride 8 and more.
        """
        last = len(self.strides)
        if self.high:
            return self.high
        if len(set(self.strides)) == 1:
            return tuple(dict.fromkeys((math.ceil(2 * last / 3), last)))
        coarse = [number for number, stride in enumerate(self.strides, 1) if stride >= 8]
        return tuple(coarse[-3:]) or (last,)

    def stride(self, asked: int) -> int:
        """The stride of the features where a configuration asks for `asked`: of equal patches, their side.

        Raises ValueError where equal patches have another side than one that was asked for on purpose.
        """
        if len(set(self.strides)) > 1:
            return asked
        own = self.strides[0]
        if asked not in (8, own):  # 8 is the option's default
            raise ValueError(
                f"Expected model.stride {own}, the side of this backbone's patches, but got {asked}. Leave it out."
            )
        return own

    def levels(self, asked: Levels, stride: int) -> Levels:
        """The stages of each level; those that a configuration leaves open are the defaults."""
        last = len(self.strides)
        first = next((number for number, own in enumerate(self.strides, 1) if own >= stride), last)
        low = asked.low or self.low or (first,)
        mid = asked.mid or self.mid or tuple(dict.fromkeys((*low, min(max(low) + 1, last))))
        return Levels(low, mid, asked.high or self.high or (last,), asked.fine)


class StagedBackbone(Backbone):
    """Frozen backbone over `Stages`.

    Args:
        name: as the configuration names it.
        stages: the network. All of it runs, also stages past the last used one.
        stride: pixels between neighbouring features, as `Stages.stride` gives it.
        levels: stages of low, mid and high, as `Stages.levels` gives them.
    """

    def __init__(self, name: str, stages: Stages, *, stride: int, levels: Levels) -> None:
        super().__init__(
            name,
            stride=stride,
            levels=levels,
            stage_channels=stages.channels,
            normalization=Normalization(stages.mean, stages.deviation, stages.bgr),
        )
        self.network = stages.network
        self.facts = replace(stages, network=nn.Identity())  # the network is a submodule, and is held once
        self.requires_grad_(False)
        self.eval()

    def stages_again(self) -> Stages:
        """The `Stages` that it was made of; the network is the same object."""
        return replace(self.facts, network=self.network)

    def _side(self, pixels: int) -> int:
        if not self.facts.patches:
            return super()._side(pixels)
        return round((pixels - 1) / self.stride) + 1

    def _run(self, normalized: Tensor) -> Iterator[Tensor]:
        maps = self.network(self.shown(normalized))
        yield from maps[: max(*self.used_stages, self.levels.fine)]

    def shown(self, normalized: Tensor) -> Tensor:
        """The picture that a network of patches sees of normalised images [B,3,H,W]: half a patch more on each side.

        Sides that are no multiple of the stride plus 1 are resized to the nearest one. More pixels below and to the
        right make the sides multiples of the largest stride.
        """
        if not self.facts.patches:
            return normalized
        height, width = (self._span(side) + 1 for side in normalized.shape[-2:])
        if (height, width) != normalized.shape[-2:]:
            normalized = aligned_resize(normalized, (height, width))
        before, cell = self.stride // 2, max(self.facts.strides)
        below, right = (-(side + before) % cell for side in (height, width))
        return F.pad(normalized, (before, right, before, below), mode="replicate")

    def _span(self, side: int) -> int:
        """Pixels from the first feature of the grid to the last, in the picture that the network sees."""
        return (self._side(side) - 1) * self.stride if self.facts.patches else side - 1

    def _placed(self, features: Tensor, stage: int, grid: tuple[int, int] | None, size: tuple[int, int]) -> Tensor:
        stride = self.facts.strides[stage - 1]
        height, width = map(self._span, size)
        rows, columns = grid or (-(-height // stride) + 1, -(-width // stride) + 1)
        if self.facts.patches and stride == self.stride:
            return features[..., :rows, :columns]  # they stand on the grid
        with torch.autocast(features.device.type, enabled=False):  # a place between two features needs all its digits
            exact = features if features.dtype == torch.float64 else features.float()
            down = self._reading(exact.shape[-2], stride, rows, height, exact)
            across = self._reading(exact.shape[-1], stride, columns, width, exact)
            return down @ exact @ across.T

    def _reading(self, length: int, stride: int, count: int, span: int, like: Tensor) -> Tensor:
        """Weights [count,length] that read a row of features at `count` places, evenly over `span` pixels."""
        pixels = torch.arange(count, device=like.device, dtype=like.dtype) * (span / max(count - 1, 1))
        # Of patches, the first feature of a stage stands half a patch behind the border that `shown` adds.
        places = (pixels + self.stride / 2) / stride - 0.5 if self.facts.patches else pixels / stride
        distance = places.clamp(0, length - 1)[:, None] - torch.arange(length, device=like.device)
        return (1 - distance.abs()).clamp(min=0)

    def own_key(self, key: str) -> str | None:
        """A file holds the network's own names, with or without `network.` before them."""
        return key if key.startswith("network.") else f"network.{key}"

    def norms(self) -> Iterator[tuple[str, str]]:
        """Batch norms called `normalization` beside a `convolution`, as those of transformers' ResNets."""
        modules = dict(self.named_modules())
        for name, module in modules.items():
            parent, _, own = name.rpartition(".")
            convolution = f"{parent}.convolution"
            fed_by = modules.get(convolution) if own == "normalization" else None
            if isinstance(module, nn.BatchNorm2d) and isinstance(fed_by, nn.Conv2d):
                yield name, convolution
