"""`Backbone`: base of the frozen backbones, which turn images into three feature maps on one grid (method.md 3).

An optional fourth map, the fine features, keeps its own resolution.

Letters: B batch, C channels, H W image, h w feature grid. Stages are numbered from 1. Decisions:
- no gradients arise here and batch norm stays in evaluation mode, whatever the training loop calls;
- the configuration chooses the stages that each level concatenates;
- features are resized with `align_corners=True`, because feature (i, j) sits on pixel (i * stride, j * stride). This is
  exact if both sides are a multiple of the stride plus 1 (321 at stride 8 and 16, 473 at stride 8).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rifenet.models.backbones.folding import fold_norms, fuse_activations
from rifenet.models.backbones.photo_edges import CHANNELS, photo_edges
from rifenet.models.kernels import has_onednn, runs_eagerly_on_cpu
from rifenet.models.resize import aligned_resize

OF_PHOTO = -1
"""In place of the stage of the fine features: the photo's own low-level features (`photo_edges`)."""
CPU_IMAGES = 2
"""Largest number of images that run through the layers together on a CPU."""


class Features(NamedTuple):
    """Three levels of one image batch, each `[B, C, h, w]` on the same grid, in the images' float type.

    `fine` is a fourth at its own resolution, `[B, F, f, g]`, for a head that places edges; F is 0 if it is not used.
    """

    low: Tensor
    mid: Tensor
    high: Tensor
    fine: Tensor


class Normalization(NamedTuple):
    """Input convention of published weights, for RGB in [0,1]: `(channels - mean) / deviation`, BGR first if `bgr`."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool = False


class Levels(NamedTuple):
    """Numbers of the stages that each level concatenates, in order; `fine` is one stage, `OF_PHOTO`, or 0 for none."""

    low: tuple[int, ...]
    mid: tuple[int, ...]
    high: tuple[int, ...]
    fine: int = 0


def _unfold(module: nn.Module, _: object) -> None:
    """Forgets the accelerated copy, which other weights make wrong. At module level, so that a network can be sent."""
    object.__setattr__(module, "_folded", None)


class Backbone(nn.Module):
    """Frozen feature extractor. A family implements `_run`, and says how its files are read and what can be folded.

    `own_key` tells which weights of a published file are its own, under which name; `norms` names the batch norms that
    `accelerate` may fold into the convolution before them;
    `activations` names what follows those. By default a file has the family's own names, and nothing is
    folded.

    Attributes:
        name: the architecture, as `build_backbone` knows it.
        stride: pixels between neighbouring features.
        used_stages, used_channels: stages that at least one level uses, ascending, and their channels.
        low_channels, mid_channels, high_channels: channels of the three features.
        high_stage_channels: channels of each stage in the high feature, in its order.
        fine_channels: channels of the fine feature, 0 without one.
    """

    mean: Tensor
    deviation: Tensor
    _folded: Backbone | None

    def __init__(
        self, name: str, *, stride: int, levels: Levels, stage_channels: Sequence[int], normalization: Normalization
    ) -> None:
        super().__init__()
        last = len(stage_channels)
        grid_levels = {"low": levels.low, "mid": levels.mid, "high": levels.high}
        for level, stages in grid_levels.items():
            if not stages or len(set(stages)) < len(stages) or not all(1 <= stage <= last for stage in stages):
                raise ValueError(f"Expected {level} to be distinct stages of {name}, 1 to {last}, but got {stages}.")
        if not OF_PHOTO <= levels.fine <= max(map(max, grid_levels.values())):
            raise ValueError(
                f"Expected fine to be 0 or a stage of {name} up to the last used one, but got {levels.fine}."
            )
        self.name = name
        self.stride = stride
        self.levels = levels
        self.used_stages = tuple(sorted({stage for stages in grid_levels.values() for stage in stages}))
        self.used_channels = tuple(stage_channels[stage - 1] for stage in self.used_stages)
        widths = dict(zip(self.used_stages, self.used_channels, strict=True))
        self.low_channels, self.mid_channels, self.high_channels = (
            sum(widths[s] for s in stages) for stages in grid_levels.values()
        )
        self.fine_channels = (
            CHANNELS if levels.fine == OF_PHOTO else (stage_channels[levels.fine - 1] if levels.fine else 0)
        )
        self.high_stage_channels = tuple(widths[stage] for stage in levels.high)
        self._bgr = normalization.bgr
        object.__setattr__(self, "_folded", None)  # no submodule: it has no weights of its own
        self.register_load_state_dict_post_hook(_unfold)
        self.register_buffer("mean", torch.tensor(normalization.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(normalization.deviation).view(3, 1, 1), persistent=False)

    def _run(self, normalized: Tensor) -> Iterator[Tensor]:
        """Yields the features of stage 1, 2, ... up to the last used one, each at its own resolution."""
        raise NotImplementedError

    def _side(self, pixels: int) -> int:
        """Grid length of an image side."""
        return -(-pixels // self.stride)

    def own_key(self, key: str) -> str | None:
        """This module's name for a key of a published state dict; None for a part that the backbone lacks.

        All names that it gives for the keys of a file must be those of `state_dict`, each once: `load_backbone_weights`
        refuses a file with a weight too many or too few.
        """
        return key

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yields the names of each batch norm (`nn.BatchNorm2d`) and of the `nn.Conv2d` that feeds it and nothing else.

        A norm that it leaves out runs as it is. One that follows something other than its convolution must be left out.
        """
        yield from ()

    def activations(self) -> Iterator[tuple[str, str]]:
        """Yields the names of convolutions whose norms are folded, each with that of the ReLU or ReLU6 after it.

        The name is empty where none follows at once. An activation must follow nothing but convolutions that are named.
        """
        yield from ()

    def accelerate(self) -> None:
        """Makes `stages` run a folded copy (`fold_norms`), equal up to rounding; this module keeps its weights.

        Call it after loading the weights and moving the backbone to its device; doing either again ends it. A backbone
        without a batch norm that can be folded, such as ConvNeXt, is not copied.
        """
        object.__setattr__(self, "_folded", None)
        pairs = list(self.norms())
        if not pairs:
            return
        twin = copy.deepcopy(self)
        fold_norms(twin, pairs)
        if has_onednn() and self.mean.device.type == "cpu":
            fuse_activations(twin, twin.activations())
        object.__setattr__(self, "_folded", twin)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Backbone:
        object.__setattr__(self, "_folded", None)
        super()._apply(function, recurse)
        return self

    def _freeze(self) -> None:
        """Draws He weights, which keep the scale of activations, and freezes the module."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: frozen batch norm must not follow the training data's statistics."""
        super().train(False)
        return self

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Feature grid `(h, w)` of an image of `height` x `width` pixels."""
        return self._side(height), self._side(width)

    @torch.no_grad()
    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of `used_stages`, ascending, each `[B, C, *grid(H, W)]` in the images' float type.

        Stages on another grid are resized to this one. The fine features, if used, come last at their own resolution.
        `assemble` takes this tuple, and a feature cache stores it.

        Args:
            images: `[B, 3, H, W]` float RGB in [0,1].

        Raises:
            ValueError: images of another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"Expected float images [B, 3, H, W] in [0,1], but got {images.dtype} {list(images.shape)}; "
                "divide 8-bit pixels by 255 and put the channels second."
            )
        if _fits(images):
            return self._stages(images)
        # A part at a time, written into its place: only the features of the whole batch take memory, not its
        # activations.
        whole: list[Tensor] = []
        for start in range(0, len(images), CPU_IMAGES):
            part = self._stages(images[start : start + CPU_IMAGES])
            whole = whole or [stage.new_empty(len(images), *stage.shape[1:]) for stage in part]
            for stage, own in zip(whole, part, strict=True):
                stage[start : start + CPU_IMAGES] = own
        return tuple(whole)

    def _stages(self, images: Tensor) -> tuple[Tensor, ...]:
        size = images.shape[-2], images.shape[-1]
        grid = self.grid(*size)
        normalized = ((images.flip(1) if self._bgr else images) - self.mean) / self.deviation
        runs = self
        if self._folded is not None:
            runs, normalized = self._folded, normalized.contiguous(memory_format=torch.channels_last)
        kept, fine = [], [photo_edges(images)] if self.levels.fine == OF_PHOTO else []
        for stage, features in enumerate(runs._run(normalized), start=1):
            # Autocast computes in bfloat16; later modules expect float32.
            if stage == self.levels.fine:
                fine.append(self._placed(features, stage, None, size).to(images.dtype))
            if stage in self.used_stages:
                kept.append(self._placed(features, stage, grid, size).to(images.dtype))
        return (*kept, *fine)

    def _placed(self, features: Tensor, stage: int, grid: tuple[int, int] | None, size: tuple[int, int]) -> Tensor:
        """Features of a stage on `grid`, whose corners are those of an image of `size`; None: at their own grid."""
        return features if grid is None or features.shape[-2:] == grid else aligned_resize(features, grid)

    @torch.no_grad()
    def assemble(self, stages: Sequence[Tensor]) -> Features:
        """The features from the result of `stages`."""
        by_number = dict(zip(self.used_stages, stages, strict=False))
        low, mid, high = (
            _concatenate([by_number[number] for number in level])
            for level in (self.levels.low, self.levels.mid, self.levels.high)
        )
        return Features(low, mid, high, stages[-1] if self.levels.fine else low[:, :0])

    def forward(self, images: Tensor) -> Features:
        """`images [B, 3, H, W]`, float RGB in [0,1], to `Features` on `grid(H, W)` (method.md 3)."""
        return self.assemble(self.stages(images))


def _fits(images: Tensor) -> bool:
    """Whether all images run together: on a CPU, a large batch is no faster than a small one and takes more memory."""
    return not runs_eagerly_on_cpu(images) or len(images) <= CPU_IMAGES  # an exported graph takes any batch


def _concatenate(stages: list[Tensor]) -> Tensor:
    return stages[0] if len(stages) == 1 else torch.cat(stages, dim=1)
