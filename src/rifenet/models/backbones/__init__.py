"""Frozen backbones: they turn images into low, mid and high features on one grid (method.md 3).

`build_backbone` makes one with random weights; `load_backbone_weights` fills it from a published file.
"""

from __future__ import annotations

from rifenet.config import NetworkConfig
from rifenet.models.backbones.base import Backbone, Features, Levels
from rifenet.models.backbones.efficientnet_lite import EfficientNetLite
from rifenet.models.backbones.resnet import BLOCKS, ResNet
from rifenet.models.backbones.weights import imagenet_weights, load_backbone_weights

__all__ = ["Backbone", "Features", "build_backbone", "imagenet_weights", "load_backbone_weights"]


def build_backbone(
    name: str,
    *,
    stride: int = 8,
    deep_stages: str = "dilate",
    stem: str = "plain",
    stride_on: str = "conv2",
    width: float = 1.0,
    normalization: str = "imagenet",
    low: tuple[int, ...] = (),
    mid: tuple[int, ...] = (),
    high: tuple[int, ...] = (),
    fine: int = 0,
) -> Backbone:
    """Frozen backbone with random weights.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
        stride: pixels between neighbouring features, 8 or 16.
        deep_stages: dilate (stages past the stride are dilated) or resize (they keep theirs, and features are resized).
        stem: ResNet only: plain, deep (PSPNet) or caffe.
        stride_on: ResNet only: bottleneck convolution with the stride, conv1 or conv2.
        width: ResNet only: multiplier of the stages' channels.
        normalization: ResNet only: imagenet, or caffe (BGR 0..255 minus 104, 117, 123).
        low: stages of the low features; empty takes the family's (ResNet 2, EfficientNet-Lite 3).
        mid: stages of the mid features; empty takes the family's (ResNet 2, 3; EfficientNet-Lite 3, 5).
        high: stages of the high features; empty takes the family's (ResNet 4, EfficientNet-Lite 7).
        fine: stage of the fine features, at its own resolution; 0 takes none.

    Raises:
        ValueError: an unknown name or option, or a ResNet option for an EfficientNet-Lite.
    """
    NetworkConfig(  # refuses wrong options
        backbone=name,
        stride=stride,
        deep_stages=deep_stages,
        stem=stem,
        stride_on=stride_on,
        width=width,
        normalization=normalization,
    )
    levels = Levels(tuple(low), tuple(mid), tuple(high), fine)
    dilate = deep_stages == "dilate"
    if name in BLOCKS:
        return ResNet(
            name,
            stride=stride,
            dilate=dilate,
            stem=stem,
            stride_on=stride_on,
            width=width,
            normalization=normalization,
            levels=levels,
        )
    if (stem, stride_on, width, normalization) != ("plain", "conv2", 1.0, "imagenet"):
        raise ValueError(
            f"Expected the defaults of stem, stride_on, width and normalization for {name}, but got {stem}, "
            f"{stride_on}, {width} and {normalization}; only ResNets have these options."
        )
    return EfficientNetLite(name, stride=stride, dilate=dilate, levels=levels)
