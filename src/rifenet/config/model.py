"""Options of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

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
TEST_OPTIONS = (
    *("support_views", "max_evidence_keys", "max_support_tokens", "max_prior_keys", "tokens_per_label"),
    "mask_threshold",
)
"""Fields that no weight depends on, and that a trained model may have otherwise: how much is learned of a class, and
from which probability on a pixel is of it."""
NO_BEHAVIOUR = (
    *("weights", "pretrained", "random_tokens", "guide", "aux"),
    *("proj_dropout", "dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"),
    *("head_dropout", "assist_dropout"),
)
"""Fields that say nothing of what a trained model answers: where its weights come from, and what only training does."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (method.md 3-9). Every ablation of the architecture is a field here."""

    kind: str = "rifenet"
    """rifenet, or prototype: the training-free baseline of protocols.md 5."""
    backbone: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101 or efficientnet_lite0, efficientnet_lite1, efficientnet_lite2."""
    weights: str = ""
    """File with the backbone's ImageNet weights; empty: found by the backbone's name where a package carries them."""
    pretrained: bool = True
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
    evidence: bool = False
    """Beyond the paper: a head that segments by the similarity of high features, which the network assists
    (rifenet.models.beyond.evidence); its logits are then the model's."""
    evidence_dim: int = 64
    """Channels of the evidence head, a multiple of 32."""
    max_evidence_keys: int = 2205
    """Cap on the evidence head's support positions over all shots."""
    assist_dropout: float = 0.5
    """Training only: share of queries that the evidence head segments without the network's features."""
    fine: int = 0
    """Backbone stage, at its own resolution, by which the evidence head places edges; 0: the one of stride 4."""
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
    tokens_per_label: int = 300
    """Support tokens of each label for one shot."""
    max_support_tokens: int = 1200
    """Cap on support tokens over all shots."""
    max_prior_keys: int = 1024
    """Cap on the prior mask's keys over all shots."""
    random_tokens: bool = True
    """Training only: random token choice and count; off, training chooses as the test does."""
    support_views: int = 1
    """Beyond the paper: views from which a class is learned (rifenet.models.beyond.support_views). 1: its photos as
    they are; 2: also mirrored; 4: also a closer look at the object, both ways. Training has no such views."""
    mask_threshold: float = 0.5
    """Beyond the paper: probability from which on a pixel is in the mask, in (0,1). No loss depends on it."""
    guide: str = field(default="query", metadata=about(read_with=("train.unlabeled", "model.use_local")))
    """Local prototype that guides the unlabeled branch: query (the labeled query's), self (its own) or none."""
    aux: bool = True
    """Auxiliary support loss in training."""
    proj_dropout: float = 0.5
    """Channel dropout after the projections."""
    dropout: float = 0.1
    """Dropout in projections and feed-forward layers of the attention."""
    attention_dropout: float = 0.0
    """Dropout on the cross-attention's weights (the authors: 0.1; so for the next three)."""
    point_dropout: float = 0.0
    """Dropout on the deformable attention's weights."""
    value_dropout: float = 0.0
    """Dropout on the value tokens of both attentions."""
    cycle_dropout: float = 0.0
    """Share of cycle-inconsistent support tokens that training lets through."""
    head_dropout: float = 0.1
    """Channel dropout in the head."""

    def __post_init__(self) -> None:
        one_of("model.kind", self.kind, ("rifenet", "prototype"))
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
        for name in (
            "local_dim",
            "local_grid",
            "heads",
            "points",
            "ffn_ratio",
            "tokens_per_label",
            "max_prior_keys",
        ):
            expect(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        expect(
            self.evidence_dim > 0 and self.evidence_dim % 32 == 0,
            "model.evidence_dim",
            self.evidence_dim,
            "a positive multiple of 32",
        )
        expect(self.support_views in (1, 2, 4), "model.support_views", self.support_views, "1, 2 or 4")
        expect(0 < self.mask_threshold < 1, "model.mask_threshold", self.mask_threshold, "between 0 and 1")
        expect(self.fine >= 0, "model.fine", self.fine, "0 or a stage")
        expect(self.max_evidence_keys >= 2, "model.max_evidence_keys", self.max_evidence_keys, "at least 2")
        expect(self.max_support_tokens >= 2, "model.max_support_tokens", self.max_support_tokens, "at least 2")
        for name in (
            *("proj_dropout", "dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"),
            *("head_dropout", "assist_dropout"),
        ):
            expect(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "a probability in [0,1)")


def behaviour(config: ModelConfig) -> dict[str, Any]:
    """What `config` says of a trained model's answers: fields with another value than the default, by name.

    Fields that are as by default are left out, so that a new option, off by default, leaves what a model is called.
    """
    fields = sorted(item.name for item in dataclasses.fields(config) if item.name not in NO_BEHAVIOUR)
    defaults = ModelConfig()
    return {name: getattr(config, name) for name in fields if getattr(config, name) != getattr(defaults, name)}


def with_test_options(config: ModelConfig, settings: Iterable[str]) -> ModelConfig:
    """`config` with `TEST_OPTIONS` as `settings` say, each `NAME=VALUE`.

    Raises ValueError for another name, or for a value that the field does not take.
    """
    kinds = {name: type(getattr(config, name)) for name in TEST_OPTIONS}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = kinds[name](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected NAME=VALUE with a number and one of {', '.join(TEST_OPTIONS)} (whole numbers, but for "
                f"mask_threshold), but got {setting!r}."
            ) from None
    return replace(config, **values)
