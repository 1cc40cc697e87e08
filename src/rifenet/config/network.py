"""Options of the paper's network; docs/paper_map.md names the part of the paper for each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from rifenet.config.checks import expect, one_of
from rifenet.config.options import about
from rifenet.config.outside import is_outside

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
)
GUIDES = ("query", "self", "none")


def is_backbone(name: str) -> bool:
    """Whether `name` is written as a backbone is: one of `BACKBONES`, hf:owner/name, a folder's path, module:name."""
    return name in BACKBONES or is_outside(name) or is_hf(name)


def is_hf(name: str) -> bool:
    """Whether `name` is written as a backbone of transformers is: hf:owner/name, or a path with a separator."""
    return name.startswith("hf:") or "/" in name or os.sep in name


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The paper's network. Each ablation of the architecture is an option here."""

    backbone: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101 or efficientnet_lite0, efficientnet_lite1, efficientnet_lite2. Also
    (docs/backbones.md) hf:owner/name or hf:owner/name@revision, a backbone of transformers; the path of a folder that
    holds one; or module:name, one of your own."""
    weights: str = field(default="", metadata=about(answers=False))
    """File with the backbone's ImageNet weights; empty: those of the installed package for this backbone. For a
    backbone of transformers, a folder that holds it, in place of the one that model.backbone names."""
    pretrained: bool = field(default=True, metadata=about(answers=False))
    """Load the backbone's ImageNet weights; false: start from random ones, for tests or if weights are loaded later."""
    stride: int = 8
    """Output stride of the features: 8 or 16. A backbone of equal patches, such as DINOv2, always has the side of a
    patch as its stride."""
    deep_stages: str = "dilate"
    """How stages deeper than the output stride reach it: dilate (dilated convolutions) or, beyond the paper, resize
    (keep their own stride and resize their features). Backbones of transformers and your own are always resized."""
    stem: str = "plain"
    """ResNet stem: plain (7x7), deep (PSPNet's three 3x3), or caffe (7x7, max-pool without padding, ceil mode)."""
    stride_on: str = "conv2"
    """ResNet bottleneck convolution that has the stride: conv1 or conv2."""
    width: float = 1.0
    """ResNet width multiplier."""
    normalization: str = "imagenet"
    """Input normalisation of a ResNet: imagenet (mean and deviation) or caffe (BGR 0..255 minus 104, 117, 123)."""
    low: tuple[int, ...] = ()
    """Backbone stages of the low features; empty: the family's default (ResNet 2; EfficientNet-Lite 3)."""
    mid: tuple[int, ...] = ()
    """Backbone stages of the mid features; empty: the default (ResNet 2, 3; EfficientNet-Lite 3, 5)."""
    high: tuple[int, ...] = ()
    """Backbone stages of the high features; empty: the default (ResNet 4; EfficientNet-Lite 7)."""
    embed_dim: int = 256
    """C: channels of the method's own layers."""
    use_global: bool = True
    """Use the global support prototype."""
    use_local: bool = True
    """Use the local query prototype."""
    local_dim: int = 64
    """Channels of the local query prototype."""
    local_grid: int = 4
    """g: pool the local query prototype to a g x g grid."""
    local_refine: bool = True
    """Refine the pooled local query prototype with a 1x1 convolution and channel attention."""
    layers: int = 2
    """Layers of the feature activation; 0 leaves only its convolutions."""
    self_attention: bool = True
    """Use deformable self-attention."""
    cross_attention: bool = True
    """Use cross-attention to the support tokens."""
    cycle: bool = True
    """Mask out support tokens that are not cycle-consistent in the cross-attention."""
    heads: int = 8
    """Attention heads."""
    points: int = 9
    """Sampling points of each head of the deformable attention."""
    ffn_ratio: int = 3
    """Width of the feed-forward layers, as a multiple of embed_dim."""
    tokens_per_label: int = field(default=300, metadata=about(test=True))
    """Support tokens per shot for each label (foreground, background)."""
    max_support_tokens: int = field(default=1200, metadata=about(test=True))
    """Most support tokens over all shots."""
    max_prior_keys: int = field(default=1024, metadata=about(test=True))
    """Most support positions, over all shots, that the prior mask compares with the query."""
    random_tokens: bool = field(default=True, metadata=about(answers=False))
    """Training only: choose the support tokens, and how many, at random; false: choose as in a test."""
    guide: str = field(default="query", metadata=about(read_with=("train.unlabeled", "model.use_local"), answers=False))
    """Local prototype that guides the unlabeled branch: query (the labeled query's), self (the unlabeled image's own)
    or none."""
    aux: bool = field(default=True, metadata=about(answers=False))
    """Training only: use the auxiliary support loss."""
    proj_dropout: float = field(default=0.5, metadata=about(answers=False))
    """Channel dropout after the projections."""
    dropout: float = field(default=0.1, metadata=about(answers=False))
    """Dropout in the attention's projections and feed-forward layers."""
    attention_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the cross-attention's weights (the authors use 0.1)."""
    point_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the deformable attention's weights (the authors use 0.1)."""
    value_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the value tokens of both attentions (the authors use 0.1)."""
    cycle_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Share of cycle-inconsistent support tokens that training does not mask out (the authors use 0.1)."""
    head_dropout: float = field(default=0.1, metadata=about(answers=False))
    """Channel dropout in the head."""
    head: str = ""
    """Beyond the paper: a head of your own, as module:name (docs/backbones.md); empty: the paper's."""

    def __post_init__(self) -> None:
        if not is_backbone(self.backbone):
            raise ValueError(
                f"Expected model.backbone to be one of {', '.join(BACKBONES)}, hf:owner/name, a folder written with a "
                f"{os.sep}, or module:name, but got {self.backbone!r}."
            )
        if self.backbone in BACKBONES:
            expect(self.stride in (8, 16), "model.stride", self.stride, "8 or 16")
        expect(self.stride >= 1, "model.stride", self.stride, "at least 1")
        one_of("model.deep_stages", self.deep_stages, ("dilate", "resize"))
        one_of("model.stem", self.stem, ("plain", "deep", "caffe"))
        one_of("model.stride_on", self.stride_on, ("conv1", "conv2"))
        one_of("model.normalization", self.normalization, ("imagenet", "caffe"))
        one_of("model.guide", self.guide, GUIDES)
        expect(self.width > 0, "model.width", self.width, "above 0")
        expect(
            self.embed_dim > 0 and self.embed_dim % (4 * self.heads) == 0,
            "model.embed_dim",
            self.embed_dim,
            f"a positive multiple of 4 x model.heads ({4 * self.heads})",
        )
        expect(not self.head or is_outside(self.head), "model.head", self.head, "empty or module:name")
        expect(self.layers >= 0, "model.layers", self.layers, "0 or more")
        if not (self.use_global or (self.cross_attention and self.layers)):
            raise ValueError(
                "Expected model.use_global or model.cross_attention (with layers) to be on, but both are off. Only the "
                "prior mask would tell the network what to segment. Switch one of them on."
            )
        for name in ("local_dim", "local_grid", "heads", "points", "ffn_ratio", "tokens_per_label", "max_prior_keys"):
            expect(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        expect(self.max_support_tokens >= 2, "model.max_support_tokens", self.max_support_tokens, "at least 2")
        for name in (
            *("proj_dropout", "dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"),
            "head_dropout",
        ):
            expect(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "a probability in [0,1)")
