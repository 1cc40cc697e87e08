"""The two attentions of the feature activation, in plain PyTorch (method.md 8).

Shapes: B batch, C embed dim, G heads, D = C/G channels a head, P points, N = h*w query positions, T support tokens.

`DeformableSelfAttention` is the single-level deformable attention of Deformable DETR; sampling is one `grid_sample`
over all heads and points, so no compiled operator is needed on any device. `CycleCrossAttention` masks the support
tokens whose round trip (token -> best query -> that query's best token) ends at the other label, as CyCTR does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Two-dimensional sine position encoding [h*w,C]: rows in the first half of the channels, columns in the second."""
    half = channels // 2
    index = torch.arange(half, device=device)
    frequency = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(size: int) -> Tensor:  # [size,half]
        angle = (torch.arange(1, size + 1, device=device) / size * (2 * math.pi))[:, None] / frequency
        return torch.where(index % 2 == 0, angle.sin(), angle.cos())

    rows = encode(height)[:, None].expand(height, width, half)
    columns = encode(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], -1).flatten(0, 1)


class DeformableSelfAttention(nn.Module):
    """Each position attends to P learned points a head around itself; offsets are in feature pixels.

    Args:
        dim: C.
        heads: G.
        points: P.
    """

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.value = nn.Linear(dim, dim)
        self.offsets = nn.Linear(dim, heads * points * 2)
        self.weights = nn.Linear(dim, heads * points)
        self.output = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        # Points start on a ray a head, at distance 1..P, and are weighted alike: the first steps see a
        # neighbourhood instead of one position P times.
        nn.init.zeros_(self.offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        self.offsets.bias.data = (ray[:, None] * distance[None, :, None]).flatten()
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, x: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attends from query [B,N,C], with position, to x [B,N,C] on the grid (h, w); valid [B,N] is bool."""
        batch, length, dim = x.shape
        height, width = grid
        value = self.value(x).masked_fill(~valid[..., None], 0.0)
        value = value.view(batch, height, width, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B*G,D,h,w]

        offsets = self.offsets(query).view(batch, length, self.heads, self.points, 2).transpose(1, 2)
        weights = self.weights(query).view(batch, length, self.heads, self.points).softmax(-1).transpose(1, 2)
        position = torch.arange(length, device=x.device)
        centre = torch.stack([position % width, torch.div(position, width, rounding_mode="floor")], -1)  # [N,2]: x, y
        scale = torch.tensor([width, height], device=x.device, dtype=x.dtype)
        location = (centre[:, None] + offsets.flatten(0, 1) + 0.5) * (2 / scale) - 1  # [B*G,N,P,2]

        sampled = F.grid_sample(value, location.to(value.dtype), align_corners=False)  # [B*G,D,N,P]
        mixed = (sampled * weights.flatten(0, 1)[:, None]).sum(-1)  # [B*G,D,N]
        output: Tensor = self.output(mixed.view(batch, dim, length).transpose(1, 2))
        return output


@torch.no_grad()
def cycle_consistent(
    query: Tensor, keys: Tensor, query_valid: Tensor, token_valid: Tensor, token_labels: Tensor
) -> Tensor:
    """Which support tokens come back to their own label: [B,G,T] bool.

    For token j of a head: i = its best valid query position, k = the best valid token of i; j stays where k has j's
    label. Ties go to the lowest index. The strongest pair of a head always stays, so no head loses all its tokens.

    Args:
        query: [B,G,N,D].
        keys: [B,G,T,D].
        query_valid: [B,N] bool.
        token_valid: [B,T] bool.
        token_labels: [B,T] bool, true for foreground.
    """
    affinity = keys @ query.transpose(-2, -1)  # [B,G,T,N]
    affinity.masked_fill_(~query_valid[:, None, None], -torch.inf)
    best_query = affinity.argmax(-1, keepdim=True)  # [B,G,T,1]
    there = query.gather(2, best_query.expand(-1, -1, -1, query.shape[-1]))  # [B,G,T,D]
    back = there @ keys.transpose(-2, -1)  # [B,G,T,T]
    best_token = back.masked_fill_(~token_valid[:, None, None], -torch.inf).argmax(-1)  # [B,G,T]
    labels = token_labels[:, None].expand_as(best_token)
    return (labels.gather(2, best_token) == labels) & token_valid[:, None]


class CycleCrossAttention(nn.Module):
    """Attention from query positions to support tokens, without bias terms.

    Args:
        dim: C.
        heads: G.
        cycle: mask tokens that are not cycle-consistent.
        dropout: probability of dropout on the attention weights in training.
    """

    def __init__(self, dim: int, heads: int, cycle: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.cycle, self.dropout = heads, cycle, dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor, tokens: Tensor, token_valid: Tensor, token_labels: Tensor) -> Tensor:
        """Attends from x [B,N,C] to tokens [B,T,C]; valid [B,N], token_valid and token_labels [B,T] are bool."""
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, x), (self.key, tokens), (self.value, tokens))
        )
        keep = token_valid[:, None].expand(-1, self.heads, -1)
        if self.cycle:
            keep = cycle_consistent(query, key, valid, token_valid, token_labels)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=keep[:, :, None], dropout_p=self.dropout if self.training else 0.0
        )
        # A support without a single usable token (everything ignored) has nothing to add; softmax over nothing is NaN.
        mixed = torch.where(keep.any(-1)[:, :, None, None], mixed, 0.0)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output
