"""A real model file with a small, untrained network: for what must run end to end, whatever the masks look like."""

from __future__ import annotations

from pathlib import Path

import torch

from rifenet.checkpoint import save_model
from rifenet.models import build_model


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
