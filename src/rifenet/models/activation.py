"""Feature activation (paper, feature activation; method.md 8): a transformer that highlights the target in the query.

Shapes: B batch, C embed dim, N = h*w query positions, T support tokens.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rifenet.models.attention import CycleCrossAttention, DeformableSelfAttention, sine_position
from rifenet.models.kernels import Linear


class FeedForward(nn.Module):
    """LayerNorm(x + FFN(x)), the FFN `ratio` times as wide, without bias terms: [B,N,C] -> [B,N,C]."""

    def __init__(self, dim: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.expand = Linear(dim, dim * ratio, bias=False)
        self.reduce = Linear(dim * ratio, dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B,N,C] to [B,N,C]."""
        hidden = self.dropout(self.expand(x, relu=True))
        y: Tensor = self.norm(x + self.dropout(self.reduce(hidden)))
        return y


class ActivationLayer(nn.Module):
    """Self-attention, FFN, cross-attention, FFN, each with residual and LayerNorm; either attention can be off."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        points: int,
        ffn_ratio: int,
        self_attention: bool,
        cross_attention: bool,
        cycle: bool,
        dropout: float,
        attention_dropout: float,
        point_dropout: float,
        value_dropout: float,
        cycle_dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.self_attention = self.cross_attention = None
        if self_attention:
            self.self_attention = DeformableSelfAttention(
                dim, heads, points, point_dropout=point_dropout, value_dropout=value_dropout
            )
            self.self_norm = nn.LayerNorm(dim)
            self.self_ffn = FeedForward(dim, ffn_ratio, dropout)
        if cross_attention:
            self.cross_attention = CycleCrossAttention(
                dim, heads, cycle, attention_dropout, value_dropout=value_dropout, cycle_dropout=cycle_dropout
            )
            self.cross_norm = nn.LayerNorm(dim)
            self.cross_ffn = FeedForward(dim, ffn_ratio, dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        valid: Tensor,
        grid: tuple[int, int],
        tokens: Tensor,
        token_valid: Tensor,
        token_labels: Tensor,
    ) -> Tensor:
        """Activates x [B,N,C]; position [N,C], valid [B,N], tokens [B,T,C], token_valid and token_labels [B,T]."""
        if self.self_attention is not None:
            attended = self.self_attention(x + position, x, valid, grid)
            x = self.self_ffn(self.self_norm(x + self.dropout(attended)))
        if self.cross_attention is not None:
            attended = self.cross_attention(x, valid, tokens, token_valid, token_labels)
            x = self.cross_ffn(self.cross_norm(x + self.dropout(attended)))
        return x


class FeatureActivation(nn.Module):
    """`layers` activation layers over the query map; options as in `ActivationLayer`.

    With `checkpointed`, autograd keeps only each layer's input, and the backward pass computes the layer again with the
    same dropout. This takes less memory, and a third more time in the layers.
    """

    def __init__(self, dim: int, layers: int, **options: int | float | bool) -> None:
        super().__init__()
        self.checkpointed = False
        self.layers = nn.ModuleList(ActivationLayer(dim, **options) for _ in range(layers))  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor, tokens: Tensor, token_valid: Tensor, token_labels: Tensor) -> Tensor:
        """Activates x [B,C,h,w], valid [B,h,w] bool, by support tokens [B,T,C]; padded positions become 0."""
        grid = (x.shape[2], x.shape[3])
        position = sine_position(*grid, x.shape[1], x.device).to(x.dtype)
        real = valid.flatten(1)
        flat = x.flatten(2).transpose(1, 2)
        again = self.checkpointed and torch.is_grad_enabled()
        for layer in self.layers:
            run = partial(checkpoint, layer, use_reentrant=False) if again else layer
            flat = run(flat, position, real, grid, tokens, token_valid, token_labels)
        return flat.transpose(1, 2).unflatten(2, grid) * valid[:, None].to(x.dtype)
