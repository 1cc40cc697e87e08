"""Builds every network from its configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rifenet.config import ModelConfig
from rifenet.models.backbones import build_backbone, imagenet_weights, load_backbone_weights
from rifenet.models.baseline import Prototype
from rifenet.models.beyond.evidence_network import EvidenceNetwork
from rifenet.models.beyond.support_views import ViewedRiFeNet
from rifenet.models.rifenet import RiFeNet
from rifenet.models.rivals.cyctr import CyCTR
from rifenet.models.rivals.hsnet import HSNet
from rifenet.models.rivals.pfenet import PFENet

RIVALS = {"pfenet": PFENet, "hsnet": HSNet, "cyctr": CyCTR}


def build_model(config: ModelConfig | None = None, **fields: Any) -> RiFeNet | Prototype:
    """A model from a `ModelConfig` or from its fields, in training mode, on the CPU.

    With `pretrained` (the default) the backbone loads `config.weights`, or else the file of an installed package. If
    there is none, FileNotFoundError says how to get one. `pretrained=False` leaves the backbone random.
    """
    config = ModelConfig(**fields) if config is None else config
    levels = {"low": config.low, "mid": config.mid, "high": config.high}
    if config.kind == "prototype":
        levels = dict.fromkeys(levels, Prototype.stages_for(config.backbone))
    backbone = build_backbone(
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
    if config.pretrained:
        load_backbone_weights(backbone, config.weights or imagenet_weights(config.backbone))
    if config.kind == "prototype":
        return Prototype(config, backbone)
    if config.kind in RIVALS:
        return RIVALS[config.kind](config, backbone)
    return EvidenceNetwork(config, backbone) if config.evidence else ViewedRiFeNet(config, backbone)


def baseline_of(model: RiFeNet | Prototype) -> Prototype:
    """The training-free baseline (protocols.md 5) on a copy of `model`'s backbone, on the CPU.

    Raises ValueError if the backbone lacks a stage that the baseline compares.
    """
    baseline = build_model(replace(model.config, kind="prototype", pretrained=False, weights=""))
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
    """Stage of the fine features, by default that of stride 4; 0 without the evidence head, which alone reads them."""
    if not config.evidence or config.kind == "prototype":
        return 0
    return config.fine or (2 if config.backbone.startswith("efficientnet") else 1)
