"""Models that a name puts over any backbone: the training-free prototype, and the bundled head that fits every one."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rifenet.config import BACKBONES, ModelConfig, from_dict
from rifenet.examples.samples import load_examples
from rifenet.models import Prototype, RiFeNet
from rifenet.models.backbones.named import stages_of
from rifenet.models.backbones.staged import StagedBackbone, Stages
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.build import build_model
from rifenet.models.files.checkpoint import identify, read_file, shared_name

PROTOTYPE_SIZE = 473
"""About the side at which a prototype sees a photo, pixels: the nearest at which all features stand on their pixels."""
STRIDE = 16
"""Of a backbone whose stages differ in stride, where a head for any backbone reads it."""
OWN_TENSORS = ("evidence.centre", "evidence.scale")
"""Of a head for any backbone, those that belong to one backbone: its reference."""
REFERENCE_PHOTOS = 10
"""Photos that tell the reference of a backbone: the first of the bundled examples."""


def any_backbone_file() -> Path:
    """The file of the bundled head that fits any backbone."""
    return Path(str(files("rifenet") / "weights" / "any_backbone.safetensors"))


def prototype_over(backbone: str, weights: str = "") -> RiFeNet | Prototype:
    """The training-free prototype over the backbone of that name; `weights` as in `load_model`."""
    model = build_model(kind="prototype", backbone=backbone, weights=weights).eval()
    name = f"prototype {shared_name(model.config.backbone)}"
    model.metadata = {"name": name, "image_size": _fitting(PROTOTYPE_SIZE, model)}
    identify(model)
    return model


def head_over(backbone: str, weights: str = "") -> AnyBackboneNetwork:
    """The bundled head that fits any backbone, over the backbone of that name; `weights` as in `load_model`."""
    stages = None if backbone in BACKBONES else stages_of(backbone, weights=weights)
    strides = {STRIDE} if stages is None else set(stages.strides)
    stride = strides.pop() if len(strides) == 1 else STRIDE
    return with_head(replace(head_config(), backbone=backbone, weights=weights, stride=stride), stages=stages)


def head_config() -> ModelConfig:
    """The configuration of the bundled head, over the backbone that the program comes with."""
    config: ModelConfig = from_dict(ModelConfig, read_file(any_backbone_file())[0]["config"], "the bundled head")
    return config


def with_head(config: ModelConfig, *, stages: Stages | None = None) -> AnyBackboneNetwork:
    """A network of kind any_backbone with the bundled head and the reference of its own backbone.

    The reference comes from a few of the bundled photos, seen at half of the model's size: means need no detail.

    Args:
        config: `head_config()` with another backbone.
        stages: as in `build_model`.
    """
    header, state = read_file(any_backbone_file())
    model = build_model(config, stages=stages).eval()
    assert isinstance(model, AnyBackboneNetwork)
    head = {name: value.float() for name, value in state.items() if name not in OWN_TENSORS}
    model.load_state_dict({**model.state_dict(), **head})
    metadata = dict(header["metadata"])
    size = _fitting(int(metadata["image_size"]), model)
    model.refer(*reference_photos(_fitting(size // 2, model)))
    model.metadata = {**metadata, "name": f"any-backbone {shared_name(model.config.backbone)}", "image_size": size}
    identify(model)
    return model


def reference_photos(size: int) -> tuple[Tensor, Tensor]:
    """Images [R,3,size,size], stretched to squares, and their real pixels [R,size,size] bool: all."""
    images = []
    for photo in load_examples()[1][:REFERENCE_PHOTOS]:
        with Image.open(photo.image) as picture:
            square = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        images.append(torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255)
    return torch.stack(images), torch.ones(len(images), size, size, dtype=torch.bool)


def _fitting(size: int, model: RiFeNet | Prototype) -> int:
    """The nearest side at which features over equal patches stand on their pixels; any will do for other backbones."""
    if not isinstance(model.backbone, StagedBackbone):
        return size
    return round((size - 1) / model.backbone.stride) * model.backbone.stride + 1
