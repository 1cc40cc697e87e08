"""A real model file with a small, untrained network: for what must run end to end, whatever the masks look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rifenet.models import build_model
from rifenet.models.files.checkpoint import save_model

SMALL: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "pretrained": False,
    "stride": 16,
    "embed_dim": 32,
    "heads": 4,
    "points": 4,
    "local_dim": 32,
    "tokens_per_label": 20,
    "max_support_tokens": 60,
    "max_prior_keys": 40,
}
"""Options of a network for tests of one call: quick, and with no part left out."""


def write_tiny_model(path: Path, size: int = 64) -> Path:
    torch.manual_seed(0)
    model = build_model(
        backbone="efficientnet_lite0",
        pretrained=False,
        embed_dim=32,
        heads=8,
        layers=1,
        tokens_per_label=20,
        max_prior_keys=40,
        aux=False,
    )
    metadata = {"name": "tiny", "image_size": size, "classes_trained_on": ["cat", "dog"]}
    save_model(model.eval(), path, metadata, with_backbone=True)
    return path


def write_smallest_model(path: Path, size: int = 65, **options: object) -> Path:
    """As `write_tiny_model`, with the evidence head and a narrow ResNet: little to export."""
    torch.manual_seed(0)
    small = {
        "embed_dim": 16,
        "heads": 2,
        "points": 3,
        "layers": 1,
        "local_dim": 8,
        "evidence": True,
        "evidence_dim": 32,
    }
    caps = {"tokens_per_label": 20, "max_support_tokens": 100, "max_prior_keys": 40, "max_evidence_keys": 90}
    backbone = {"backbone": "resnet18", "width": 0.125, "pretrained": False, "aux": False}
    model = build_model(**(backbone | small | caps | options)).eval()
    if model.config.evidence and model.config.kind == "rifenet":
        torch.nn.init.normal_(model.evidence.decoder.classify.weight, std=0.3)  # which start at zero
    save_model(model, path, {"name": "smallest", "image_size": size}, with_backbone=True)
    return path
