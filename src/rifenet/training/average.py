"""Running average of the trained weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's trained parameters.

    After step t (from 1), the average moves towards the weights by the share `max(1 - decay, 9 / (9 + t))`. The
    untrained first weights fade quickly.

    Args:
        model: its parameters with a gradient are averaged. Its trained parts have no buffers.
        decay: in [0,1); 0.99 averages over about the last hundred steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step `step`, counted from 1."""
        share = max(1 - self.decay, 9 / (9 + step))
        for name, value in self.parameters.items():
            self.values[name].lerp_(value, share)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """While entered, the model has the averaged weights; afterwards it has its own again."""
        own = {name: value.detach().clone() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            value.copy_(self.values[name])
        try:
            yield
        finally:
            for name, value in self.parameters.items():
                value.copy_(own[name])

    def restore(self, values: dict[str, Tensor]) -> None:
        """Continues with saved averages; a parameter without a saved average keeps its current one."""
        for name, value in values.items():
            self.values[name].copy_(value)
