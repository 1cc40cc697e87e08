"""Folders of backbones of transformers, as the hub would give them: true architectures, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LAYERS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
DEPTHS: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Config", {**LAYERS, "image_size": 56, "patch_size": 14}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", {**LAYERS, "image_size": 56, "patch_size": 14}),
    "dinov3_vit": (
        "DINOv3ViTConfig",
        {**LAYERS, "image_size": 64, "patch_size": 16, "intermediate_size": 64, "num_register_tokens": 2},
    ),
    "dinov3_convnext": ("DINOv3ConvNextConfig", DEPTHS),
    "convnextv2": ("ConvNextV2Config", DEPTHS),
    "swin": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4, "image_size": 64},
    ),
    "resnet": ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}),
    "beit": (
        "BeitConfig",
        {**LAYERS, "image_size": 64, "patch_size": 16, "intermediate_size": 64, "use_relative_position_bias": True},
    ),
}
"""Architecture -> the class of its configuration in transformers, and the options that make it small."""
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def small_config(kind: str, **changes: Any) -> Any:
    import transformers

    name, options = KINDS[kind]
    return getattr(transformers, name)(**(options | changes))


def random_backbone(kind: str, seed: int = 0, **changes: Any) -> Any:
    """The library's own backbone with all stages, in which no weight is at its start value: no part is the identity."""
    import transformers

    config = small_config(kind, **changes)
    config.out_features = config.stage_names[1:]
    torch.manual_seed(seed)
    model = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
    return model


def write_preprocessor(folder: Path, **changes: Any) -> None:
    values = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    values |= {"image_mean": list(MEAN), "image_std": list(DEVIATION)}
    (folder / "preprocessor_config.json").write_text(json.dumps(values | changes))


def write_backbone(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Any:
    """Writes the folder, and returns the library's own model of it."""
    model = random_backbone(kind, seed, **changes)
    model.save_pretrained(folder)
    write_preprocessor(folder)
    return model


def write_hub(cache: Path, repository: str, kind: str, *, commit: str = "a" * 40, seed: int = 0) -> Path:
    """Puts a commit of a repository into a cache of the hub, as its branch main, and returns the folder of it."""
    home = cache / f"models--{repository.replace('/', '--')}"
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    write_backbone(folder, kind, seed)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return folder
