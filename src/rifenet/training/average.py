"""Running average of the trained weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's trained parameters.

    After step t (from 1) the average moves by `max(1 - decay, 9 / (9 + t))` of the way to the weights, so that the
    first, untrained ones are soon forgotten.

    Args:
        model: whose parameters with a gradient are averaged; buffers are not, as nothing trained has any.
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
        """The model has the averaged weights inside of it, and its own again after."""
        own = {name: value.detach().clone() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            value.copy_(self.values[name])
        try:
            yield
        finally:
            for name, value in self.parameters.items():
                value.copy_(own[name])

    def restore(self, values: dict[str, Tensor]) -> None:
        """Goes on with the averages of an earlier start; names that are not there keep their own."""
        for name, value in values.items():
            self.values[name].copy_(value)
