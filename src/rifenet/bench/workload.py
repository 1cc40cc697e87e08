"""The measured work: a model, inputs of one shape in memory, and the calls that make up a user's work.

Shapes: B batch, K shots, U unlabeled images, S side of the square network input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rifenet.config import BACKBONES, ModelConfig
from rifenet.engines import Context
from rifenet.engines.torch import TorchEngine
from rifenet.models import Prototype, RiFeNet, build_model
from rifenet.models.files.hub import load_model
from rifenet.segmenting.segmenter import Segmenter

FOREGROUND = 0.2
"""Share of the map that a support mask marks."""
UNLABELED = 2
"""U of a training step."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and the shape of its inputs."""

    model: str
    """An architecture (random weights), or what `rifenet.models.files.hub.load_model` takes."""
    size: int
    shots: int
    batch: int

    def load(self) -> RiFeNet | Prototype:
        """Loads the model; random weights are the same at every call."""
        if self.model not in BACKBONES:
            return load_model(self.model)
        torch.manual_seed(0)
        return build_model(backbone=self.model, pretrained=False).eval()


class Workload:
    """A model in the product's engine, with noise as pictures."""

    def __init__(self, model: RiFeNet | Prototype, case: Case, device: torch.device, threads: int | None) -> None:
        self.engine = TorchEngine(model, device=str(device), threads=threads)
        self.engine.size = size = case.size
        rng = np.random.default_rng(0)
        self.photos = rng.integers(0, 256, (case.shots, size, size, 3), np.uint8)
        self.masks = np.repeat(square_mask(size)[None], case.shots, axis=0)
        self.supports = rng.random((case.shots, 3, size, size), np.float32)
        self.supports_valid = np.ones(self.masks.shape, bool)
        self.queries = rng.random((case.batch, 3, size, size), np.float32)
        self.queries_valid = np.ones((case.batch, size, size), bool)

    def learn(self) -> Context:
        """Learns a class from K pictures."""
        return self.engine.encode_support(self.supports, self.masks, self.supports_valid)

    def encode_query(self) -> Any:
        """Encodes B pictures."""
        return self.engine.encode_query(self.queries, self.queries_valid)

    def query(self, context: Context, classes: int = 1) -> None:
        """Segments B pictures by `classes` learned classes."""
        features = self.encode_query()
        for _ in range(classes):
            self.engine.decode(features, context)

    def segmenter(self) -> Segmenter:
        """A segmenter that has learned one class from the K photos."""
        segmenter = Segmenter(self.engine)
        segmenter.learn("object", list(self.photos), list(self.masks))
        return segmenter


def square_mask(size: int) -> NDArray[np.uint8]:
    """Mask [S,S], 1 in a central square that holds `FOREGROUND` of it."""
    mask = np.zeros((size, size), np.uint8)
    side = round(math.sqrt(FOREGROUND) * size)
    start = (size - side) // 2
    mask[start : start + side, start : start + side] = 1
    return mask


def example_photo() -> Path:
    """One of the bundled photos."""
    return min(Path(str(files("rifenet") / "examples" / "photos")).glob("*.jpg"))


def training_step(
    config: ModelConfig, case: Case, device: torch.device, *, checkpointed: bool = False
) -> Callable[[], None]:
    """One step of the paper's recipe on B episodes with `UNLABELED` images each, on a network with random weights.

    A step is forward, losses, backward, clipping and both optimisers; the pictures are in memory. `checkpointed` acts
    as `train.checkpoint_activations`. Raises ValueError for a model that cannot be trained.
    """
    from rifenet.config import TrainConfig
    from rifenet.training import losses
    from rifenet.training.loop import loss_terms, prepare
    from rifenet.training.optim import build_optimizers

    if config.kind != "rifenet":
        raise ValueError(f"Expected a model of kind rifenet for the training step, but {case.model} is {config.kind}.")
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(config, pretrained=False, weights="", aux=True)).to(device).train()
    assert isinstance(model, RiFeNet)
    settings = TrainConfig(unlabeled=UNLABELED, checkpoint_activations=checkpointed)
    prepare(model, settings)
    optimizers = build_optimizers(model, settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = _training_batch(case, device)

    def step() -> None:
        terms = loss_terms(model, model, batch, settings)
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses.total(terms, settings.w_aux, settings.beta).backward()
        nn.utils.clip_grad_norm_(trained, settings.clip)
        for optimizer in optimizers:
            optimizer.step()

    return step


def _training_batch(case: Case, device: torch.device) -> dict[str, Tensor]:
    counts = {"query": (), "support": (case.shots,), "unlabeled": (UNLABELED,)}
    leading = {name: (case.batch, *count) for name, count in counts.items()}
    square = (case.size, case.size)
    mask = torch.from_numpy(square_mask(case.size)).to(device)

    def images(of: str) -> Tensor:
        return torch.rand(*leading[of], 3, *square, device=device)

    batch = {f"{name}_images": images(name) for name in ("query", "support")}
    batch |= {f"{name}_masks": mask.expand(*leading[name], *square).clone() for name in ("query", "support")}
    batch |= {f"unlabeled_{view}": images("unlabeled") for view in ("weak", "strong")}
    batch |= {f"{name}_valid": torch.ones(*leading[name], *square, dtype=torch.bool, device=device) for name in counts}
    return batch
