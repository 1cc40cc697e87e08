"""A frozen backbone without batch norms: each is folded into the convolution before it, once, not run every time.

A frozen batch norm is `x * scale + shift` for each channel, and so is part of a convolution with scaled filters and a
bias. The copy's filters lie in memory channels last, as the library's convolutions want them: given images in that
order, no layer has to reorder its input and output.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from rifenet.models.backbones.base import Backbone


def folded(backbone: Backbone) -> Backbone:
    """A copy of `backbone` that computes the same to rounding; folded in float64, filters channels last."""
    twin = copy.deepcopy(backbone)
    for norm_name, name in list(backbone.norms()):
        convolution, norm = twin.get_submodule(name), twin.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(convolution, norm)
        parent, _, own = norm_name.rpartition(".")
        setattr(twin.get_submodule(parent), own, nn.Identity())
    return twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stubs


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
