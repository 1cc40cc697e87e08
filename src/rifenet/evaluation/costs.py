"""Parameters and multiply-adds of a model, part by part (`rifenet info --flops`).

A forward pass on torch's `meta` device is counted, which knows shapes and computes nothing. Counted are convolutions
and products of matrices, attention included. Not counted are norms, activations, resizing and the sampling of
deformable attention. Where the number of support positions depends on the mask, the cap is counted, which is the most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rifenet.config import BACKBONES, ModelConfig
from rifenet.models import RiFeNet, build_model
from rifenet.models.backbones.named import stages_of

PARTS = {
    "backbone": ("backbone",),
    "projections": ("support_projection", "query_projection"),
    "local prototype": ("local_prototype.reduce", "local_prototype"),  # `reduce` runs before it, once for a photo
    "interaction": ("support_interaction", "query_interaction"),
    "feature activation": ("activation",),
    "convolutions after it, and head": ("activated_projection", "residual", "head"),
    "evidence head": ("evidence",),
    "feature enrichment (PFENet)": ("enrichment",),
    "4D convolutions (HSNet)": ("squeeze", "mix"),
    "decoder (HSNet)": ("decoder",),
    "heads of the scales (training)": ("scale_heads",),
    "auxiliary head (training)": ("auxiliary",),
}
"""Part -> the network's modules that belong to it; what is in none of them is matching: prior, prototypes, cosines."""
MATCHING = "prior, prototypes, similarities"


class Cost(NamedTuple):
    """One part: its parameters, and its multiply-adds for each support photo, each query and class, and each step."""

    parameters: int
    learn: int
    """One photo of a class, with all views."""
    query: int
    """One photo, for one class of one shot."""
    step: int
    """Forward pass of one training episode; 0 for a model that is not trained."""


def costs(config: ModelConfig, size: int, unlabeled: int = 0) -> dict[str, Cost]:
    """The cost of each part of a network that sees `size` x `size` pixels; the sum of all comes last, as "all".

    `unlabeled` is U, the number of unlabeled photos of a training episode.
    """
    config = dataclasses.replace(config, pretrained=False)
    stages = None
    if config.backbone not in BACKBONES:
        # Made with real tensors, because the code of others may compute with them.
        stages = stages_of(config.backbone, weights=config.weights, pretrained=False)
    config = dataclasses.replace(config, weights="")
    # Parts of the network switch autocast off. There is none on the meta device, and asking for it is an error.
    with mock.patch.object(torch, "autocast", return_value=nullcontext()), torch.no_grad():
        with torch.device("meta"):
            model = build_model(config, stages=stages).eval().to("meta")
        image = torch.empty(1, 3, size, size, device="meta")
        mask = torch.empty(1, size, size, dtype=torch.uint8, device="meta")
        shot, context = (image[None], mask[None]), model.encode_support(image[None], mask[None])
        learn = _counted(model, lambda: model.encode_support(*shot))
        query = _counted(model, lambda: model.decode(model.encode_query(image), context))  # type: ignore[arg-type]
        step = {}
        if isinstance(model, RiFeNet):
            step = _counted(model, lambda: _episode(model, shot, image, mask, unlabeled))
    found = {}
    for part in (*PARTS, MATCHING):
        names = PARTS.get(part, ())
        parameters = sum(value.numel() for name in names if "." not in name for value in _of(model, name))
        found[part] = Cost(parameters, learn.get(part, 0), query.get(part, 0), step.get(part, 0))
    found = {part: cost for part, cost in found.items() if any(cost)}
    return {**found, "all": Cost(*(sum(column) for column in zip(*found.values(), strict=True)))}


def _episode(model: RiFeNet, shot: tuple[Tensor, Tensor], image: Tensor, mask: Tensor, unlabeled: int) -> Any:
    views = image[:, None].expand(-1, unlabeled, -1, -1, -1) if unlabeled else None
    return model(*shot, image, query_masks=mask, unlabeled_weak=views, unlabeled_strong=views)


def _of(model: nn.Module, name: str) -> list[Tensor]:
    part = getattr(model, name, None)
    return list(part.parameters()) if isinstance(part, nn.Module) else []


class _Call(nn.Module):
    """Calls a method of a model as the root of what is counted, so that the parts keep their names."""

    def __init__(self, model: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self) -> Any:
        return self.call()


def _counted(model: nn.Module, call: Callable[[], Any]) -> dict[str, int]:
    """Multiply-adds of `call` by part."""
    with FlopCounterMode(display=False) as counter:
        _Call(model, call)()
    flops = {name: sum(each.values()) // 2 for name, each in counter.get_flop_counts().items()}
    found = {part: sum(_within(flops, name) for name in names) for part, names in PARTS.items()}
    return {**found, MATCHING: flops.get("_Call", 0) - sum(found.values())}


def _within(flops: dict[str, int], name: str) -> int:
    """The count of a module; of one whose methods were called in place of itself, the sum of its modules' counts."""
    own = f"_Call.model.{name}"
    depth = own.count(".") + 1
    inner = (count for other, count in flops.items() if other.startswith(f"{own}.") and other.count(".") == depth)
    return flops.get(own) or sum(inner)
