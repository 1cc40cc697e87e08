"""Auxiliary support head (method.md 10, `L_aux`), from CyCTR: the query's own prototype must segment the supports.

Shapes: B batch, K shots, C embed dim, h w feature size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rifenet.models.head import Head, Residual
from rifenet.models.prototypes import masked_average


class AuxiliarySupportHead(nn.Module):
    """Segments the supports by a prototype of the query (method.md 10, `L_aux`); used in training only."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(dim, dim, 1, bias=False)
        self.merge = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.residual = Residual(dim)
        self.head = Head(dim, dropout)

    def forward(self, activated: Tensor, query: Tensor, query_weight: Tensor, support: Tensor) -> Tensor:
        """activated and query [B,C,h,w], query_weight [B,h,w], support [B,K,C,h,w] -> logits [B,K,2,h,w]."""
        prototype = masked_average(self.reduce(activated).relu() + query, query_weight)
        expanded = prototype[:, None, :, None, None].expand_as(support)
        merged = self.merge(torch.cat([support, expanded], 2).flatten(0, 1)).relu()
        logits: Tensor = self.head(self.residual(merged))
        return logits.unflatten(0, support.shape[:2])
