"""Options of the paper's network (method.md 3-9)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rifenet.config.checks import expect, one_of
from rifenet.config.options import about

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


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The paper's network (method.md 3-9). Every ablation of the architecture is a field here."""

    backbone: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101 or efficientnet_lite0, efficientnet_lite1, efficientnet_lite2."""
    weights: str = field(default="", metadata=about(answers=False))
    """File with the backbone's ImageNet weights; empty: found by the backbone's name where a package carries them."""
    pretrained: bool = field(default=True, metadata=about(answers=False))
    """False: random backbone weights (tests, and models whose weights are loaded afterwards)."""
    stride: int = 8
    """Output stride of the features: 8 or 16."""
    deep_stages: str = "dilate"
    """Stages past the output stride: dilate them, or resize: keep their stride and resize their features."""
    stem: str = "plain"
    """ResNet stem: plain (7x7), deep (PSPNet's three 3x3), or caffe (7x7, max-pool without padding, ceil mode)."""
    stride_on: str = "conv2"
    """ResNet bottleneck convolution that carries the stride: conv1 or conv2."""
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
    """Global support prototype on."""
    use_local: bool = True
    """Local query prototype on."""
    local_dim: int = 64
    """Channels of the local query prototype."""
    local_grid: int = 4
    """g: the local prototype is pooled on a g x g grid."""
    local_refine: bool = True
    """1x1 convolution and channel attention after the pooling (method.md 12, row 1)."""
    layers: int = 2
    """Layers of the feature activation; 0 leaves only its convolutions."""
    self_attention: bool = True
    """Deformable self-attention on."""
    cross_attention: bool = True
    """Cycle-consistent cross-attention on."""
    cycle: bool = True
    """Mask support tokens that are not cycle-consistent."""
    heads: int = 8
    """Attention heads."""
    points: int = 9
    """Sampling points a head in the deformable attention."""
    ffn_ratio: int = 3
    """Width of the feed-forward layers over embed_dim."""
    tokens_per_label: int = field(default=300, metadata=about(test=True))
    """Support tokens of each label for one shot."""
    max_support_tokens: int = field(default=1200, metadata=about(test=True))
    """Cap on support tokens over all shots."""
    max_prior_keys: int = field(default=1024, metadata=about(test=True))
    """Cap on the prior mask's keys over all shots."""
    random_tokens: bool = field(default=True, metadata=about(answers=False))
    """Training only: random token choice and count; off, training chooses as the test does."""
    guide: str = field(default="query", metadata=about(read_with=("train.unlabeled", "model.use_local"), answers=False))
    """Local prototype that guides the unlabeled branch: query (the labeled query's), self (its own) or none."""
    aux: bool = field(default=True, metadata=about(answers=False))
    """Auxiliary support loss in training."""
    proj_dropout: float = field(default=0.5, metadata=about(answers=False))
    """Channel dropout after the projections."""
    dropout: float = field(default=0.1, metadata=about(answers=False))
    """Dropout in projections and feed-forward layers of the attention."""
    attention_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the cross-attention's weights (the authors: 0.1; so for the next three)."""
    point_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the deformable attention's weights."""
    value_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Dropout on the value tokens of both attentions."""
    cycle_dropout: float = field(default=0.0, metadata=about(answers=False))
    """Share of cycle-inconsistent support tokens that training lets through."""
    head_dropout: float = field(default=0.1, metadata=about(answers=False))
    """Channel dropout in the head."""

    def __post_init__(self) -> None:
        one_of("model.backbone", self.backbone, BACKBONES)
        expect(self.stride in (8, 16), "model.stride", self.stride, "8 or 16")
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
        expect(self.layers >= 0, "model.layers", self.layers, "0 or more")
        if not (self.use_global or (self.cross_attention and self.layers)):
            raise ValueError(
                "Expected model.use_global or model.cross_attention (with layers) to be on, but both are off: nothing "
                "but the prior mask would say what to segment. Switch one of them on."
            )
        for name in ("local_dim", "local_grid", "heads", "points", "ffn_ratio", "tokens_per_label", "max_prior_keys"):
            expect(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        expect(self.max_support_tokens >= 2, "model.max_support_tokens", self.max_support_tokens, "at least 2")
        for name in (
            *("proj_dropout", "dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"),
            "head_dropout",
        ):
            expect(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "a probability in [0,1)")
