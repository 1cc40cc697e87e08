"""Models that a name puts over any backbone: the training-free prototype, and the bundled head that fits every one."""

from __future__ import annotations

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
from rifenet.models.backbones.staged import StagedBackbone
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


def head_over(backbone: str, weights: str = "", file: str | Path = "") -> AnyBackboneNetwork:
    """The head that fits any backbone, over the backbone of that name.

    The backbone's reference comes from a few of the bundled photos, seen at half of the model's size: means need no
    detail.

    Args:
        backbone: as in a configuration.
        weights: as in `load_model`.
        file: the head's; empty: the bundled one.
    """
    header, state = read_file(file or any_backbone_file())
    config: ModelConfig = from_dict(ModelConfig, header["config"], "the header of the head")
    stages = None if backbone in BACKBONES else stages_of(backbone, weights=weights)
    own_stride = stages is not None and len(set(stages.strides)) == 1
    model = build_model(
        kind=config.kind,
        backbone=backbone,
        weights=weights,
        stride=stages.strides[0] if stages is not None and own_stride else STRIDE,
        stages=stages,
        evidence_dim=config.evidence_dim,
        max_evidence_keys=config.max_evidence_keys,
        support_views=config.support_views,
        mask_threshold=config.mask_threshold,
    ).eval()
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
