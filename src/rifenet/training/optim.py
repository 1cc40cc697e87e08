"""Optimisers and their rates (method.md 11). Rates are functions of the step, so resuming needs no scheduler state."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rifenet.config import TrainConfig


def build_optimizers(model: nn.Module, train: TrainConfig) -> list[Optimizer]:
    """`paper`: AdamW for the transformer, SGD for the rest. `adamw`: one AdamW. AdamW does not decay biases."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    transformer = {name: parameter for name, parameter in trained.items() if name.startswith("activation.")}
    if train.optimizer == "adamw":
        return [AdamW(_decay_groups(trained, train.transformer_weight_decay), lr=_rate(train))]
    rest = [parameter for name, parameter in trained.items() if name not in transformer]
    optimizers: list[Optimizer] = [
        SGD(rest, lr=_rate(train), momentum=train.momentum, weight_decay=train.weight_decay),
    ]
    if transformer:
        groups = _decay_groups(transformer, train.transformer_weight_decay)
        optimizers.append(AdamW(groups, lr=train.transformer_lr))
    return optimizers


def learning_rates(train: TrainConfig, step: int) -> list[float]:
    """The true rate of each optimiser at `step` (0-based)."""
    if train.optimizer == "adamw":
        if step < train.warmup:
            return [_rate(train) * (step + 1) / train.warmup]
        progress = (step - train.warmup) / max(train.steps - train.warmup, 1)
        return [_rate(train) * 0.5 * (1 + math.cos(math.pi * progress))]
    return [_rate(train) * (1 - step / train.steps) ** train.poly_power, train.transformer_lr]


def _rate(train: TrainConfig) -> float:
    assert not isinstance(train.lr, tuple), "`config.effective` takes the value of the fold"
    return train.lr


def set_learning_rates(optimizers: list[Optimizer], rates: list[float]) -> None:
    """Sets each optimiser's rate."""
    for optimizer, rate in zip(optimizers, rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate


def _decay_groups(parameters: dict[str, nn.Parameter], decay: float) -> list[dict[str, object]]:
    biases = [parameter for name, parameter in parameters.items() if name.endswith("bias")]
    others = [parameter for name, parameter in parameters.items() if not name.endswith("bias")]
    return [{"params": others, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
