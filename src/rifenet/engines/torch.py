"""The engine on PyTorch: CPU, CUDA and Apple MPS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rifenet.engines import INNER, Context
from rifenet.engines.device import choose_device
from rifenet.models import Prototype, RiFeNet, aligned_resize
from rifenet.models.backbones import Features
from rifenet.models.beyond.support_views import shots_and_photos
from rifenet.models.build import baseline_of
from rifenet.models.files.checkpoint import identify
from rifenet.models.files.hub import load_model
from rifenet.models.structures import EncodedShots, Tensors

_DEFAULT_SIZE = 473


class TorchEngine:
    """Runs a `RiFeNet` or `Prototype`; see `rifenet.engines.Engine` for its members.

    On the CPU it runs the images of a batch one at a time. This is as fast, and no mask depends on the other images:
    sums over a batch would differ in the last bit. The engine permanently accelerates the model's backbone
    (`Backbone.accelerate`), which changes features by rounding only.
    """

    def __init__(self, model: RiFeNet | Prototype, *, device: str = "auto", threads: int | None = None) -> None:
        if threads is not None:
            if threads < 1:
                raise ValueError(f"Expected threads to be at least 1, but got {threads}.")
            torch.set_num_threads(threads)  # for the whole process: torch has no setting for one model
        self.device = choose_device(device)
        self.model: Any = model.to(self.device).eval()
        metadata: dict[str, Any] = getattr(model, "metadata", {})
        self.name = str(metadata.get("name") or model.config.kind)
        self.size = int(metadata.get("image_size") or _DEFAULT_SIZE)
        if not getattr(model, "weights_hash", ""):
            identify(model)
        self.hash, self.weights_hash = model.hash, model.weights_hash
        model.backbone.accelerate()
        self.classes_trained_on: list[str] | None = metadata.get("classes_trained_on")
        self.threshold = model.config.mask_threshold
        known = {each.name for each in dataclasses.fields(model.features_type)}
        self.shotwise = isinstance(model, RiFeNet) and model.config.kind == "rifenet"
        self.inner_names = tuple(name for name in INNER if name in known)
        self.calibration: Mapping[str, float] | None = metadata.get("calibration")

    @classmethod
    def load(cls, model: str | Path = "default", *, device: str = "auto", threads: int | None = None) -> TorchEngine:
        """Loads a model by name (`rifenet.models.files.hub.load_model`)."""
        choose_device(device)  # reports a wrong device before reading the weights
        return cls(load_model(model), device=device, threads=threads)

    def baseline(self) -> TorchEngine:
        """The training-free `prototype` baseline (protocols.md 5) over the same frozen backbone and size."""
        engine = TorchEngine(baseline_of(self.model), device=str(self.device))
        engine.size = self.size
        return engine

    @torch.inference_mode()
    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class; see `Engine`."""
        batch = (torch.from_numpy(array)[None].to(self.device) for array in (images, masks, valid))
        return _arrays(self.model.encode_support(*batch))

    @torch.inference_mode()
    def encode_shot(self, image: NDArray[np.float32], mask: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Any:
        """Encodes one shot; see `ShotwiseEngine`."""
        images, masks, real = (torch.from_numpy(array)[None, None].to(self.device) for array in (image, mask, valid))
        shot, photo = shots_and_photos(self.model, images, masks, real)
        # Copies: a part of the features of all views would keep them all.
        return shot, Features(*(level[:, 0].clone() for level in photo)), real[:, 0]

    @torch.inference_mode()
    def learn_shots(self, shots: Sequence[Any]) -> Context:
        """Learns a class; see `ShotwiseEngine`."""
        return _arrays(self.model.learn(_joined([shot for shot, _, _ in shots])))

    @torch.inference_mode()
    def query_of(self, shot: Any) -> Any:
        """Features of a shot's photo; see `ShotwiseEngine`."""
        _, photo, valid = shot
        return [self.model.encode_query(photo, valid)]

    @torch.inference_mode()
    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images; see `Engine`."""
        step = 1 if self.device.type == "cpu" else len(images)
        return [
            self.model.encode_query(
                torch.from_numpy(images[start : start + step]).to(self.device),
                torch.from_numpy(valid[start : start + step]).to(self.device),
            )
            for start in range(0, len(images), step)
        ]

    def inner(self, features: Any) -> list[Mapping[str, NDArray[Any]]]:
        """Maps inside the network; see `Engine`."""
        named = [part.named() for part in features]
        return [
            {name: part[name][number].float().cpu().numpy() for name in self.inner_names}
            for part in named
            for number in range(len(next(iter(part.values()))))
        ]

    @torch.inference_mode()
    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Segments one class; see `Engine`. Raises ValueError for a context that another model learned."""
        fields = dataclasses.fields(self.model.context_type)
        known = [field.name for field in fields]
        needed = {field.name for field in fields if field.default is dataclasses.MISSING}
        if not needed <= context.keys() <= set(known):
            raise ValueError(
                f"Expected a context with {', '.join(known)}, but got {', '.join(sorted(context))}."
                " Learn the class with this model."
            )
        tensors = self.model.context_type(
            **{name: torch.from_numpy(value).to(self.device) for name, value in context.items()}
        )
        logits = [aligned_resize(self.model.decode(part, tensors), (self.size, self.size)) for part in features]
        return torch.cat(logits).float().cpu().numpy()


def _arrays(context: Tensors) -> Context:
    return {name: value.cpu().numpy() for name, value in context.named().items()}


def _joined(shots: Sequence[EncodedShots]) -> EncodedShots:
    """Shots that were encoded one by one, each as equally many views, in the order of shots encoded together."""
    views = shots[0].own.shape[1]

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(shot, name)[:, view : view + 1] for view in range(views) for shot in shots], 1)

    return EncodedShots(**{name: whole(name) for name in shots[0].named()})
