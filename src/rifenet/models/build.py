"""Builds every network from its configuration."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from rifenet.config import ANY_BACKBONE, BACKBONES, ModelConfig, from_outside, is_outside
from rifenet.models.backbones import Backbone, build_backbone, imagenet_weights, load_backbone_weights
from rifenet.models.backbones.base import OF_PHOTO
from rifenet.models.backbones.named import staged_backbone, stages_of
from rifenet.models.backbones.staged import StagedBackbone, Stages
from rifenet.models.baseline import Prototype
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.beyond.evidence_network import EvidenceNetwork
from rifenet.models.beyond.support_views import ViewedRiFeNet
from rifenet.models.rifenet import RiFeNet
from rifenet.models.rivals.cyctr import CyCTR
from rifenet.models.rivals.hsnet import HSNet
from rifenet.models.rivals.pfenet import PFENet

RIVALS = {"pfenet": PFENet, "hsnet": HSNet, "cyctr": CyCTR}


def build_model(
    config: ModelConfig | None = None, *, stages: Stages | None = None, **fields: Any
) -> RiFeNet | Prototype:
    """A model from a `ModelConfig` or from its fields, in training mode, on the CPU.

    With `pretrained` (the default) the backbone loads `config.weights`, or else the file of an installed package. If
    there is none, FileNotFoundError says how to get one. `pretrained=False` leaves the backbone random.

    The model's config names a backbone of transformers exactly: with the commit of the hub, or the folder's full path.

    Args:
        config: the configuration.
        stages: the network of the backbone; None: the one that `config.backbone` names.
        fields: fields of `ModelConfig`, in place of `config`.
    """
    config = ModelConfig(**fields) if config is None else config
    if stages is None and config.backbone not in BACKBONES:
        stages = stages_of(config.backbone, weights=config.weights, pretrained=config.pretrained)
    backbone = _built_in(config) if stages is None else _staged(config, stages)
    if stages is not None:
        config = replace(config, backbone=stages.origin or config.backbone, stride=backbone.stride)
        backbone.name = config.backbone
    if config.pretrained and (config.backbone in BACKBONES or (config.weights and is_outside(config.backbone))):
        load_backbone_weights(backbone, config.weights or imagenet_weights(config.backbone))
    return _over(backbone, config)


def _over(backbone: Backbone, config: ModelConfig) -> RiFeNet | Prototype:
    if config.kind == "prototype":
        return Prototype(config, backbone)
    if config.kind == ANY_BACKBONE:
        return AnyBackboneNetwork(config, backbone)
    if config.kind in RIVALS:
        return RIVALS[config.kind](config, backbone)
    model = EvidenceNetwork(config, backbone) if config.evidence else ViewedRiFeNet(config, backbone)
    if config.head:
        model.head = _own_head(config)
    return model


def _own_head(config: ModelConfig) -> Any:
    head = from_outside(config.head, "model.head")(config.embed_dim)
    if not isinstance(head, nn.Module):
        raise ValueError(
            f"Expected {config.head}(channels) to return a torch.nn.Module that maps features [B,channels,h,w] to "
            f"logits [B,2,h,w], but it gave {type(head).__name__}."
        )
    return head


def _built_in(config: ModelConfig) -> Backbone:
    levels = {"low": config.low, "mid": config.mid, "high": config.high}
    if config.kind == "prototype":
        levels = dict.fromkeys(levels, Prototype.stages_for(config.backbone))
    if config.kind == ANY_BACKBONE:
        levels = compared_alone(config.high or ((5, 6, 7) if config.backbone.startswith("efficientnet") else (2, 3, 4)))
    return build_backbone(
        config.backbone,
        stride=config.stride,
        deep_stages=config.deep_stages,
        stem=config.stem,
        stride_on=config.stride_on,
        width=config.width,
        normalization=config.normalization,
        **levels,
        fine=_fine_stage(config),
    )


def _staged(config: ModelConfig, stages: Stages) -> Backbone:
    own = (config.stem, config.stride_on, config.width, config.normalization)
    if own != ("plain", "conv2", 1.0, "imagenet"):
        raise ValueError(
            f"Expected the defaults of stem, stride_on, width and normalization for {config.backbone}, but got "
            f"{', '.join(map(str, own))}; only the ResNets of this program have these options."
        )
    levels = {"low": config.low, "mid": config.mid, "high": config.high}
    if config.kind == "prototype":
        levels = dict.fromkeys(levels, stages.high or (len(stages.channels),))
    if config.kind == ANY_BACKBONE:
        levels = compared_alone(config.high or stages.compared)
    return staged_backbone(config.backbone, stages, stride=config.stride, **levels, fine=_fine_stage(config))


def compared_alone(high: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Levels of a network that reads the high features only: the others are one of their stages, at no cost."""
    return {"low": high[:1], "mid": high[:1], "high": high}


def baseline_of(model: RiFeNet | Prototype) -> Prototype:
    """The training-free baseline (protocols.md 5) on a copy of `model`'s backbone, on the CPU.

    Raises ValueError if the backbone lacks a stage that the baseline compares.
    """
    config = replace(model.config, kind="prototype", pretrained=False, weights="", head="")
    stages = copy.deepcopy(model.backbone).stages_again() if isinstance(model.backbone, StagedBackbone) else None
    baseline = build_model(config, stages=stages)
    assert isinstance(baseline, Prototype)
    weights = model.backbone.state_dict()
    needed = baseline.backbone.state_dict().keys()
    if not needed <= weights.keys():
        raise ValueError(
            f"Expected a backbone with the prototype's stages {baseline.backbone.used_stages}, but the model's ends "
            f"earlier. Score --model prototype --backbone {model.config.backbone} by itself."
        )
    baseline.backbone.load_state_dict({name: weights[name] for name in needed})
    return baseline


def _fine_stage(config: ModelConfig) -> int:
    """Stage of the fine features, by default that of stride 4; 0 without the evidence head, which alone reads them.

    A head for any backbone reads those of the photo itself.
    """
    if config.kind == ANY_BACKBONE:
        return OF_PHOTO
    if not config.evidence or config.kind == "prototype":
        return 0
    return config.fine or (2 if config.backbone.startswith("efficientnet") else 1)
