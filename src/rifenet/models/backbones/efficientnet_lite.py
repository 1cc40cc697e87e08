"""EfficientNet-Lite0/1/2 at stride 8 or 16 (Tan and Le 2019, and Google's Lite variant of it; method.md 3).

The Lite variant has ReLU6 and no squeeze-and-excitation; its stem, first and last stage do not scale. Its published
weights come from TensorFlow and need its "SAME" padding: a side of n becomes ceil(n / stride), and an odd zero goes to
the end. This is symmetric at odd sides, where feature i sits on pixel i * stride, and without a stride at any side. As
in the ResNets, a convolution that loses its stride keeps the previous dilation, and later ones are twice as dilated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models.backbones.base import Backbone, Levels, Normalization
from rifenet.models.backbones.folding import PaddedConv2d

STAGES = (  # blocks, kernel, stride, expansion, channels of EfficientNet-B0
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
SCALES = {  # multipliers of channels and of blocks
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
EPSILON = 1e-3
NORMALIZATION = Normalization(mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)


def same_padding(side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after a side for TensorFlow's SAME: the convolution gives ceil(side / stride) positions."""
    outputs = -(-side // stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
    return total // 2, total - total // 2


class SameConv2d(PaddedConv2d):
    """Convolution without bias (folding gives it one), with TensorFlow's SAME padding at any size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See `PaddedConv2d`."""
        (top, bottom), (left, right) = (
            same_padding(x.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2], self.dilation[axis - 2])
            for axis in (2, 3)
        )
        if (top, left) == (bottom, right):
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom)), (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w] -> [B, outputs, ceil(h / stride), ceil(w / stride)]`."""
        x, padding = self.padded(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; the identity is added where the channels stay."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int, dilation: int, identity: bool
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand_conv = SameConv2d(inputs, inner, 1) if expansion > 1 else None
        self.bn0 = nn.BatchNorm2d(inner, EPSILON) if expansion > 1 else None
        self.depthwise_conv = SameConv2d(inner, inner, kernel, stride=stride, dilation=dilation, groups=inner)
        self.bn1 = nn.BatchNorm2d(inner, EPSILON)
        self.project_conv = SameConv2d(inner, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w] -> [B, outputs, ceil(h / stride), ceil(w / stride)]`."""
        out: Tensor = x
        if self.expand_conv is not None and self.bn0 is not None:
            out = self.relu(self.bn0(self.expand_conv(out)))
        out = self.relu(self.bn1(self.depthwise_conv(out)))
        out = self.bn2(self.project_conv(out))
        return out.add_(x) if self.identity else out


def scaled_channels(channels: int, multiplier: float) -> int:
    """Nearest multiple of 8, but never below 90% of the exact product."""
    exact = channels * multiplier
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class EfficientNetLite(Backbone):
    """Frozen EfficientNet-Lite; stages 1 to 7, built up to the last one used.

    Args:
        name: efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
        stride: 8 or 16.
        dilate: dilate the stages past `stride`; if not, they keep their stride and their features are resized.
        levels: stages of low, mid and high; empty ones take 3, (3, 5) and 7.
    """

    def __init__(self, name: str, *, stride: int, dilate: bool, levels: Levels) -> None:
        if name not in SCALES:  # hf:owner/name, say, which a configuration takes and `named` makes
            raise ValueError(f"Expected a ResNet or one of {', '.join(SCALES)}, but got {name!r}.")
        width, depth = SCALES[name]
        channels = [scaled_channels(stage[-1], width) for stage in STAGES]
        super().__init__(
            name,
            stride=stride,
            levels=Levels(levels.low or (3,), levels.mid or (3, 5), levels.high or (7,), levels.fine),
            stage_channels=channels,
            normalization=NORMALIZATION,
        )
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(32, EPSILON)
        self.relu = nn.ReLU6(inplace=True)

        repeats = [count if stage in (0, 6) else math.ceil(count * depth) for stage, (count, *_) in enumerate(STAGES)]
        self._ends = [sum(repeats[: stage + 1]) for stage in range(len(STAGES))]  # blocks up to the end of each stage
        self.blocks = nn.ModuleList()
        inputs, reached, dilation = 32, 2, 1
        for stage in range(self.used_stages[-1]):
            _, kernel, first, expansion, _ = STAGES[stage]
            for number in range(repeats[stage]):
                wanted = first if number == 0 else 1
                removed = dilate and reached * wanted > stride
                self.blocks.append(
                    InvertedResidual(
                        inputs,
                        channels[stage],
                        kernel=kernel,
                        stride=1 if removed else wanted,
                        expansion=expansion,
                        dilation=dilation,
                        identity=inputs == channels[stage],
                    )
                )
                inputs = channels[stage]
                if removed:
                    dilation *= wanted
                else:
                    reached *= wanted
        self._freeze()

    def _run(self, normalized: Tensor) -> Iterator[Tensor]:
        x = self.relu(self.bn0(self.conv_stem(normalized)))
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self._ends:
                yield x

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yields the stem's batch norm, and up to three of each block."""
        yield "bn0", "conv_stem"
        for number, block in enumerate(self.blocks):
            for norm, convolution in (("bn0", "expand_conv"), ("bn1", "depthwise_conv"), ("bn2", "project_conv")):
                if getattr(block, norm) is not None:
                    yield f"blocks.{number}.{norm}", f"blocks.{number}.{convolution}"

    def activations(self) -> Iterator[tuple[str, str]]:
        """Yields the stem, and the convolutions of each block: a ReLU6 follows all but the last."""
        yield "conv_stem", "relu"
        for number, block in enumerate(self.blocks):
            for convolution, activation in (("expand_conv", "relu"), ("depthwise_conv", "relu"), ("project_conv", "")):
                if getattr(block, convolution) is not None:
                    yield f"blocks.{number}.{convolution}", activation and f"blocks.{number}.{activation}"

    def own_key(self, key: str) -> str | None:
        """Removes the underscores before the parts of published names; drops classifier, head and unused blocks."""
        parts = [part.lstrip("_") for part in key.split(".")]
        unused = [str(number) for number in range(len(self.blocks), self._ends[-1])]
        deeper = parts[0] == "blocks" and parts[1:2] and parts[1] in unused
        return None if parts[0] in ("conv_head", "bn1", "fc") or deeper else ".".join(parts)
