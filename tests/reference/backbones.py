"""References for the backbones (method.md section 3): published layouts by rule, and undilated networks of functions.

> strides of stage 3 and 4 replaced by dilation (output stride 8; the first block of a dilated stage keeps the previous
> dilation, as torchvision does)

The networks run straight from a state dict, with the strides of the papers: they know nothing of dilation, modules or
levels. Convolutions are torch's; SAME padding is TensorFlow's documented rule and has a NumPy loop of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}


def batch_norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{part}": (channels,) for part in ("weight", "bias")}
    shapes |= {f"{name}.running_{part}": (channels,) for part in ("mean", "var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def resnet_shapes(name: str, *, deep: bool = False, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict, classifier included; with `deep`, PSPNet's."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_bn(conv: str, bn: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update(batch_norm_shapes(bn, outputs))

    bottleneck, blocks = RESNETS[name]
    if deep:
        conv_bn("conv1", "bn1", 64, 3, 3)
        conv_bn("conv2", "bn2", 64, 64, 3)
        conv_bn("conv3", "bn3", 128, 64, 3)
    else:
        conv_bn("conv1", "bn1", 64, 3, 7)
    inputs = 128 if deep else 64
    for stage, count in enumerate(blocks, start=1):
        planes = int(64 * width) * 2 ** (stage - 1)
        outputs = planes * 4 if bottleneck else planes
        for number in range(count):
            block = f"layer{stage}.{number}"
            if bottleneck:
                conv_bn(f"{block}.conv1", f"{block}.bn1", planes, inputs, 1)
                conv_bn(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
                conv_bn(f"{block}.conv3", f"{block}.bn3", outputs, planes, 1)
            else:
                conv_bn(f"{block}.conv1", f"{block}.bn1", planes, inputs, 3)
                conv_bn(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
            if inputs != outputs:
                conv_bn(f"{block}.downsample.0", f"{block}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def efficientnet_lite_shapes(blocks: tuple[int, ...], channels: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published EfficientNet-Lite state dicts, for blocks and channels of the 7 stages."""
    shapes: dict[str, tuple[int, ...]] = {"_conv_stem.weight": (32, 3, 3, 3), **batch_norm_shapes("_bn0", 32)}
    inputs, number = 32, 0
    for count, outputs, kernel, expansion in zip(blocks, channels, (3, 3, 5, 3, 5, 5, 3), (1,) + (6,) * 6, strict=True):
        for _ in range(count):
            block, inner = f"_blocks.{number}", inputs * expansion
            if expansion > 1:
                shapes[f"{block}._expand_conv.weight"] = (inner, inputs, 1, 1)
                shapes |= batch_norm_shapes(f"{block}._bn0", inner)
            shapes[f"{block}._depthwise_conv.weight"] = (inner, 1, kernel, kernel)
            shapes |= batch_norm_shapes(f"{block}._bn1", inner)
            shapes[f"{block}._project_conv.weight"] = (outputs, inner, 1, 1)
            shapes |= batch_norm_shapes(f"{block}._bn2", outputs)
            inputs, number = outputs, number + 1
    shapes |= {"_conv_head.weight": (1280, inputs, 1, 1), **batch_norm_shapes("_bn1", 1280)}
    return shapes | {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


def batch_norm(state: Mapping[str, Tensor], name: str, x: Tensor, epsilon: float) -> Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * weight + bias` with the stored statistics."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + epsilon) * weight + bias


def resnet_stages(state: Mapping[str, Tensor], x: Tensor, *, stem: str, stride_on: str) -> Iterator[Tensor]:
    """Stages 1 to 4 at strides 4, 8, 16, 32 of normalised images, from a state dict in torchvision's names."""

    def conv_bn(conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        return batch_norm(state, bn, F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2), 1e-5)

    x = conv_bn("conv1", "bn1", x, 2).relu()
    if stem == "deep":
        x = conv_bn("conv2", "bn2", x).relu()
        x = conv_bn("conv3", "bn3", x).relu()
    x = F.max_pool2d(x, 3, 2, ceil_mode=True) if stem == "caffe" else F.max_pool2d(x, 3, 2, padding=1)
    for stage in (1, 2, 3, 4):
        number = 0
        while f"layer{stage}.{number}.conv1.weight" in state:
            block = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            if f"{block}.conv3.weight" in state:
                first, second = (stride, 1) if stride_on == "conv1" else (1, stride)
                out = conv_bn(f"{block}.conv1", f"{block}.bn1", x, first).relu()
                out = conv_bn(f"{block}.conv2", f"{block}.bn2", out, second).relu()
                out = conv_bn(f"{block}.conv3", f"{block}.bn3", out)
            else:
                out = conv_bn(f"{block}.conv1", f"{block}.bn1", x, stride).relu()
                out = conv_bn(f"{block}.conv2", f"{block}.bn2", out)
            if f"{block}.downsample.0.weight" in state:
                x = conv_bn(f"{block}.downsample.0", f"{block}.downsample.1", x, stride)
            x = (out + x).relu()
            number += 1
        yield x


def same_zeros(side: int, window: int, stride: int) -> int:
    """Zeros that SAME adds to a side, as TensorFlow documents it."""
    return max(window - stride, 0) if side % stride == 0 else max(window - side % stride, 0)


def same_conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """SAME convolution without dilation; depthwise where the weight has one input channel for several."""
    kernel = weight.shape[-1]
    down, across = (same_zeros(side, kernel, stride) for side in x.shape[-2:])
    x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])


def efficientnet_lite_stages(state: Mapping[str, Tensor], x: Tensor, blocks: tuple[int, ...]) -> Iterator[Tensor]:
    """Stages 1 to 7 at strides 2, 4, 8, 16, 16, 32, 32 of normalised images, from a published state dict."""

    def relu6(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = relu6(batch_norm(state, "_bn0", same_conv(x, state["_conv_stem.weight"], 2), 1e-3))
    number = 0
    for count, stride in zip(blocks, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for position in range(count):
            block, out = f"_blocks.{number}", x
            if f"{block}._expand_conv.weight" in state:
                out = relu6(
                    batch_norm(state, f"{block}._bn0", same_conv(out, state[f"{block}._expand_conv.weight"]), 1e-3)
                )
            out = same_conv(out, state[f"{block}._depthwise_conv.weight"], stride if position == 0 else 1)
            out = relu6(batch_norm(state, f"{block}._bn1", out, 1e-3))
            out = batch_norm(state, f"{block}._bn2", same_conv(out, state[f"{block}._project_conv.weight"]), 1e-3)
            x = x + out if position > 0 else out
            number += 1
        yield x


def same_conv_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """SAME convolution of one channel `[h, w]` with one kernel `[k, k]`, position by position."""
    side = kernel.shape[0]
    window = (side - 1) * dilation + 1
    top, left = (same_zeros(length, window, stride) // 2 for length in x.shape)
    out = np.zeros([-(-length // stride) for length in x.shape])
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for a in range(side):
                for b in range(side):
                    row, column = i * stride - top + a * dilation, j * stride - left + b * dilation
                    if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                        out[i, j] += x[row, column] * kernel[a, b]
    return out
