"""The two attentions of the feature activation, in plain PyTorch (method.md 8).

Shapes: B batch, C embed dim, G heads, D = C/G channels a head, P points, N = h*w query positions, T support tokens.

`DeformableSelfAttention` is the single-level deformable attention of Deformable DETR; sampling is one `grid_sample`
over all heads and points, so no compiled operator is needed on any device. `CycleCrossAttention` masks the support
tokens whose round trip (token -> best query -> that query's best token) ends at the other label, as CyCTR does.

This file holds the plain equations. `kernels.py` holds equal forms that are much faster on a CPU or in an export.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models import kernels


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
    """In each head, a position attends to P learned points around itself; offsets are in feature pixels.

    Args:
        dim: C.
        heads: G.
        points: P.
        point_dropout: probability of dropout on the points' weights in training.
        value_dropout: probability of dropout on the values in training.
    """

    def __init__(
        self, dim: int, heads: int, points: int, *, point_dropout: float = 0.0, value_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.point_dropout, self.value_dropout = nn.Dropout(point_dropout), nn.Dropout(value_dropout)
        self.value = kernels.Linear(dim, dim)
        self.offsets = kernels.Linear(dim, heads * points * 2)
        self.weights = kernels.Linear(dim, heads * points)
        self.output = kernels.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        # Each head's points start on a ray, at distances 1..P, with equal weights: the first steps see a neighbourhood
        # and not one position P times.
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
        value = self.value_dropout(self.value(x)).masked_fill(~valid[..., None], 0.0)
        value = value.view(batch, height, width, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B*G,D,h,w]

        logits = self.weights(query).view(batch, length, self.heads, self.points)
        fast = kernels.runs_on_cpu_without_graph(x)
        weights = (kernels.short_softmax(logits) if fast else logits.softmax(-1)).transpose(1, 2)
        weights = self.point_dropout(weights)
        position = torch.arange(length, device=x.device)
        row = torch.div(position, width, rounding_mode="floor")
        # Float32, under autocast too: half precision cannot tell the positions of a large map apart.
        exact = x.dtype if x.dtype == torch.float64 else torch.float32
        centre = torch.stack([position - row * width, row], -1).to(exact)  # [N,2]: x, y
        # The sum runs on one row of all heads' and points' pairs: export runtimes are slow to repeat a pair.
        places = self.offsets(query).to(exact) + centre.repeat(1, self.heads * self.points)  # [B,N,G*P*2]
        places = places.view(batch, length, self.heads, self.points, 2).transpose(1, 2).flatten(0, 1)  # [B*G,N,P,2]

        mix = kernels.gathered_mix if fast else sample_and_mix
        mixed = mix(value.to(exact), places, weights.flatten(0, 1))  # [B*G,D,N]
        output: Tensor = self.output(mixed.reshape(batch, dim, length).transpose(1, 2))
        return output


def sample_and_mix(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of values [M,D,h,w] sampled bilinearly at P points for each of N positions: [M,D,N].

    Values outside the map are 0.

    Args:
        value: [M,D,h,w].
        places: x and y in pixels of the map, 0 at the centre of the first pixel, [M,N,P,2].
        weights: [M,N,P].
    """
    height, width = value.shape[-2:]
    size = torch.tensor([width, height], device=value.device, dtype=places.dtype).repeat(places.shape[2])
    scaled = (places.flatten(2) * (2 / size) + (1 / size - 1)).view_as(places)  # as rows: pair by pair is slower
    sampled = F.grid_sample(value, scaled, align_corners=False)  # [M,D,N,P]
    return (sampled * weights[:, None]).sum(-1)


@torch.no_grad()
def cycle_consistent(
    query: Tensor, keys: Tensor, query_valid: Tensor, token_valid: Tensor, token_labels: Tensor
) -> Tensor:
    """Which support tokens are cycle-consistent, so that their round trip ends at their own label: [B,G,T] bool.

    For token j of a head: i = its best valid query position, k = the best valid token of i; j stays if k has j's label.
    Ties go to the lowest index. The strongest pair of a head always stays, so no head loses all its tokens.

    Args:
        query: [B,G,N,D].
        keys: [B,G,T,D].
        query_valid: [B,N] bool.
        token_valid: [B,T] bool.
        token_labels: [B,T] bool, true for foreground.
    """
    # One head at a time: the affinity of all heads would be the largest tensor of the network. In float32:
    # half-precision similarities tie too often for an argmax.
    with torch.autocast(query.device.type, enabled=False):
        heads = zip(query.float().unbind(1), keys.float().unbind(1), strict=True)
        kept = [_returns_to_its_label(*head, query_valid, token_valid, token_labels) for head in heads]
    return torch.stack(kept, 1)


def _returns_to_its_label(
    query: Tensor, keys: Tensor, query_valid: Tensor, token_valid: Tensor, labels: Tensor
) -> Tensor:
    """One head of `cycle_consistent`: query [B,N,D], keys [B,T,D] -> [B,T] bool."""
    find = most_alike
    if torch.compiler.is_exporting():
        find = kernels.most_alike_by_blocks
    elif kernels.runs_eagerly_on_cpu(query):
        find = kernels.most_alike_by_maxima
    best_query = find(keys, query, query_valid)[..., None]
    there = query.gather(1, best_query.expand(-1, -1, query.shape[-1]))  # [B,T,D]
    best_token = find(there, keys, token_valid)  # [B,T]
    return (labels.gather(1, best_token) == labels) & token_valid


def most_alike(asked: Tensor, among: Tensor, valid: Tensor) -> Tensor:
    """Index [B,T] of the valid row of `among` [B,M,D] with the largest product with each row of `asked` [B,T,D].

    Ties go to the first row.
    """
    products = asked @ among.transpose(1, 2)
    return products.masked_fill(~valid[:, None], -torch.inf).argmax(-1)


class CycleCrossAttention(nn.Module):
    """Attention from query positions to support tokens, without bias terms.

    Args:
        dim: C.
        heads: G.
        cycle: mask tokens that are not cycle-consistent.
        dropout: probability of dropout on the attention weights in training.
        value_dropout: probability of dropout on the values in training.
        cycle_dropout: share of cycle-inconsistent tokens that training lets through.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cycle: bool,
        dropout: float = 0.0,
        *,
        value_dropout: float = 0.0,
        cycle_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.cycle, self.dropout, self.cycle_dropout = heads, cycle, dropout, cycle_dropout
        self.value_dropout = nn.Dropout(value_dropout)
        self.query = kernels.Linear(dim, dim, bias=False)
        self.key = kernels.Linear(dim, dim, bias=False)
        self.value = kernels.Linear(dim, dim, bias=False)
        self.output = kernels.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor, tokens: Tensor, token_valid: Tensor, token_labels: Tensor) -> Tensor:
        """Attends from x [B,N,C] to tokens [B,T,C]; valid [B,N], token_valid and token_labels [B,T] are bool."""
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, x), (self.key, tokens), (self.value, tokens))
        )
        keep = exists = token_valid[:, None].expand(-1, self.heads, -1)
        if self.cycle:
            keep = cycle_consistent(query, key, valid, token_valid, token_labels)
            if self.training and self.cycle_dropout:
                keep = keep | (exists & (torch.rand(keep.shape, device=keep.device) < self.cycle_dropout))
        exporting = torch.compiler.is_exporting()
        attend = kernels.attention_in_full if exporting else F.scaled_dot_product_attention
        mixed = attend(
            query,
            key,
            self.value_dropout(value),
            attn_mask=keep[:, :, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        # Without any usable token (everything ignored) softmax gives NaN; such a support adds 0.
        mixed = torch.where(keep.any(-1)[:, :, None, None], mixed, 0.0)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output
