"""A frozen backbone without batch norms: each is folded into the convolution before it, once, not run every time.

A frozen batch norm is `x * scale + shift` for each channel, and so is part of a convolution with scaled filters and a
bias. The copy's filters lie in memory channels last, as the library's convolutions want them: given images in that
order, no layer has to reorder its input and output.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def fold_norms(network: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Folds batch norms of a frozen network, in float64; it computes the same to rounding.

    Args:
        network: changed in place.
        pairs: names of each batch norm and of the convolution whose output it alone takes.
    """
    for norm_name, name in list(pairs):
        convolution, norm = network.get_submodule(name), network.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(convolution, norm)
        parent, _, own = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
    to: Any = network.to  # its stubs do not know memory formats
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
