"""Folds each batch norm of a frozen backbone into the convolution before it, which saves running it.

A frozen batch norm is `x * scale + shift` for each channel. A convolution with scaled filters and a bias computes the
same. Folding also stores the filters channels last, the order that the library's convolutions want. Given images in
this order, no layer has to reorder its input and output.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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
        parent, _, own = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
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
