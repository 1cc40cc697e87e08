"""Folds each batch norm of a frozen backbone into the convolution before it, and runs its activation there, too.

A frozen batch norm is `x * scale + shift` for each channel. A convolution with scaled filters and a bias computes the
same. Folding also stores the filters channels last, the order that the library's convolutions want. Given images in
this order, no layer has to reorder its input and output. On a CPU, oneDNN applies the ReLU that follows to each result
while it still is in the cache. It also runs 1x1 convolutions that torch, on one thread, gives to a slower library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rifenet.models import kernels


def fold_norms(network: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Folds batch norms of a frozen network, in float64; its output stays the same up to rounding.

    Args:
        network: changed in place.
        pairs: names of each batch norm and of the convolution that feeds it and nothing else.
    """
    for norm_name, name in list(pairs):
        convolution, norm = network.get_submodule(name), network.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(convolution, norm)
        _put(network, norm_name, nn.Identity())
    to: Any = network.to  # torch's stubs do not know memory formats
    to(memory_format=torch.channels_last)


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kind = convolution.weight.dtype
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    filters = convolution.weight.double() * scale[:, None, None, None]
    convolution.weight = nn.Parameter(filters.to(kind), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(kind), requires_grad=False)


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding depends on its input's size."""

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input, with the zeros that differ between its sides, and those that each side has."""
        raise NotImplementedError


class FusedConv2d(nn.Module):
    """A convolution and the ReLU or ReLU6 that follows it, or None, as one operation of oneDNN where that can run."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        then: tuple[str, list[float]] = ("none", [])
        if isinstance(activation, nn.ReLU6):
            then = ("hardtanh", [0.0, 6.0])
        elif activation is not None:
            assert isinstance(activation, nn.ReLU), "only these are fused"
            then = ("relu", [])
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B,inputs,h,w] to [B,outputs,h',w']."""
        own = self.convolution
        if not kernels.runs_in_onednn(x, own.weight):
            y: Tensor = own(x)
            return y if self.activation is None else self.activation(y)
        padding = own.padding
        if isinstance(own, PaddedConv2d):
            x, padding = own.padded(x)
        steps = list(padding), list(own.stride), list(own.dilation), own.groups
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(x, own.weight, own.bias, *steps, *self.then, "")
        return fused


def fuse_activations(network: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Replaces convolutions of a network whose norms are folded by `FusedConv2d`, and their activations by nothing.

    Args:
        network: changed in place.
        pairs: names of each convolution, and of the ReLU or ReLU6 that it alone feeds, or an empty name. Several
            convolutions may feed one activation by turns; then all of them are listed.
    """
    found = [
        (name, then, network.get_submodule(name), network.get_submodule(then) if then else None) for name, then in pairs
    ]
    for name, then, convolution, activation in found:
        assert isinstance(convolution, nn.Conv2d)
        _put(network, name, FusedConv2d(convolution, activation))
        if then:
            _put(network, then, nn.Identity())


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
