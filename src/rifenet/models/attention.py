"""The two attentions of the feature activation, in plain PyTorch (method.md 8).

Shapes: B batch, C embed dim, G heads, D = C/G channels a head, P points, N = h*w query positions, T support tokens.

`DeformableSelfAttention` is the single-level deformable attention of Deformable DETR; sampling is one `grid_sample`
over all heads and points (on a CPU one weighted gather), so no compiled operator is needed on any device.
`CycleCrossAttention` masks the support tokens whose round trip (token -> best query -> that query's best token) ends at
the other label, as CyCTR does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models.kernels import runs_eagerly_on_cpu

LEAST_WEIGHT = 1e-30  # sum of a query's weights; only where no token counts is it less


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
        point_dropout: probability of dropout on the points' weights in training.
        value_dropout: probability of dropout on the values in training.
    """

    def __init__(
        self, dim: int, heads: int, points: int, *, point_dropout: float = 0.0, value_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.point_dropout, self.value_dropout = nn.Dropout(point_dropout), nn.Dropout(value_dropout)
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
        value = self.value_dropout(self.value(x)).masked_fill(~valid[..., None], 0.0)
        value = value.view(batch, height, width, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B*G,D,h,w]

        weights = _softmax(self.weights(query).view(batch, length, self.heads, self.points)).transpose(1, 2)
        weights = self.point_dropout(weights)
        position = torch.arange(length, device=x.device)
        row = torch.div(position, width, rounding_mode="floor")
        # In float32 under autocast too: half precision cannot tell positions of a large map apart.
        exact = x.dtype if x.dtype == torch.float64 else torch.float32
        centre = torch.stack([position - row * width, row], -1).to(exact)  # [N,2]: x, y
        # Added while all heads' and points' pairs are one row: runtimes of exports are slow to repeat a pair.
        places = self.offsets(query).to(exact) + centre.repeat(1, self.heads * self.points)  # [B,N,G*P*2]
        places = places.view(batch, length, self.heads, self.points, 2).transpose(1, 2).flatten(0, 1)  # [B*G,N,P,2]

        mixed = sample_and_mix(value.to(exact), places, weights.flatten(0, 1))  # [B*G,D,N]
        output: Tensor = self.output(mixed.reshape(batch, dim, length).transpose(1, 2))
        return output


def _softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension; without a graph in a way that is four times as fast where it is short."""
    if torch.is_grad_enabled() or not runs_eagerly_on_cpu(x):
        return x.softmax(-1)
    powers = (x - x.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def sample_and_mix(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of values [M,D,h,w] sampled bilinearly at P points for each of N positions: [M,D,N].

    Outside the map are zeros. Without a graph, on a CPU, it is one fused gather: each position sums the 4 P corners
    around its points, weighed by the point's weight and the corner's share, and no sampled value is ever stored.

    Args:
        value: [M,D,h,w].
        places: x and y in pixels of the map, 0 at the centre of the first, [M,N,P,2].
        weights: [M,N,P].
    """
    maps, _, height, width = value.shape
    if torch.is_grad_enabled() or not runs_eagerly_on_cpu(value):
        size = torch.tensor([width, height], device=value.device, dtype=places.dtype).repeat(places.shape[2])
        scaled = (places.flatten(2) * (2 / size) + (1 / size - 1)).view_as(places)  # as rows: pair by pair is slower
        sampled = F.grid_sample(value, scaled, align_corners=False)  # [M,D,N,P]
        return (sampled * weights[:, None]).sum(-1)
    x, y = places.unbind(-1)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    corners, shares = [], []
    for down in (0, 1):
        row, row_share = top + down, (lower_share if down else 1 - lower_share) * weights
        for right in (0, 1):
            column, share = left + right, row_share * (right_share if right else 1 - right_share)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            corners.append(row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            shares.append(share * inside)
    first = torch.arange(maps, device=value.device)[:, None, None] * (height * width)
    index = torch.cat(corners, -1).nan_to_num(0).long() + first  # [M,N,4P]; what is not a number has a share of none
    table = value.flatten(2).transpose(1, 2).flatten(0, 1)  # [M*h*w,D]
    mixed = F.embedding_bag(
        index.flatten(0, 1), table, mode="sum", per_sample_weights=torch.cat(shares, -1).flatten(0, 1).to(table.dtype)
    )
    return mixed.unflatten(0, (maps, -1)).transpose(1, 2)


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
    # One head at a time, in float32: the full affinity of all heads would be the largest tensor of the network, and
    # half-precision similarities tie too often for an argmax.
    with torch.autocast(query.device.type, enabled=False):
        heads = zip(query.float().unbind(1), keys.float().unbind(1), strict=True)
        kept = [_returns_to_its_label(*head, query_valid, token_valid, token_labels) for head in heads]
    return torch.stack(kept, 1)


def _returns_to_its_label(
    query: Tensor, keys: Tensor, query_valid: Tensor, token_valid: Tensor, labels: Tensor
) -> Tensor:
    """One head of `cycle_consistent`: query [B,N,D], keys [B,T,D] -> [B,T] bool."""
    best_query = _most_alike(keys, query, query_valid)[..., None]
    there = query.gather(1, best_query.expand(-1, -1, query.shape[-1]))  # [B,T,D]
    best_token = _most_alike(there, keys, token_valid)  # [B,T]
    return (labels.gather(1, best_token) == labels) & token_valid


def _most_alike(asked: Tensor, among: Tensor, valid: Tensor) -> Tensor:
    """Which valid one of `among` [B,M,D] has the largest product with each of `asked` [B,T,D]: [B,T], the first."""
    if torch.compiler.is_exporting():
        return _most_alike_by_blocks(asked, among, valid)
    # The product starts from 0 or -inf instead of having its padding filled in another pass over it.
    return first_maximum(torch.baddbmm(_barred(valid, among), asked, among.transpose(1, 2)))


def _most_alike_by_blocks(asked: Tensor, among: Tensor, valid: Tensor, block: int = 64) -> Tensor:
    """The same for exported graphs, whose runtime adds nothing to a product for free, and has a slow argmax, too."""
    length = among.shape[1]
    more = (length + block - 1) // block * block - length
    barred = _barred(F.pad(valid, (0, more)), among).transpose(1, 2)
    among = torch.cat([F.pad(among, (0, 0, 0, more)), barred], 2)
    products = F.pad(asked, (0, 1), value=1.0) @ among.transpose(1, 2)
    blocks = products.unflatten(2, (-1, block))  # [B,T,M/block,block]
    start = blocks.amax(3).argmax(2)
    inside = blocks.gather(2, start[..., None, None].expand(-1, -1, 1, block))[:, :, 0].argmax(2)
    return start * block + inside


def first_maximum(x: Tensor, block: int = 64) -> Tensor:
    """`x.argmax(-1)` of [...,M], the first of equals.

    On a CPU the search for an index takes sixteen times as long as that for a maximum. So there it goes through the
    maxima of blocks, and then through the one block that holds the largest.
    """
    length = x.shape[-1]
    if not runs_eagerly_on_cpu(x) or length < 4 * block:
        return x.argmax(-1)
    whole = length - length % block
    maxima = x[..., :whole].unflatten(-1, (-1, block)).amax(-1)
    if whole < length:
        maxima = torch.cat([maxima, x[..., whole:].amax(-1, keepdim=True)], -1)
    start = maxima.argmax(-1, keepdim=True) * block
    places = (start + torch.arange(block, device=x.device)).clamp(max=length - 1)
    return start[..., 0] + x.gather(-1, places).argmax(-1)


def _barred(valid: Tensor, like: Tensor) -> Tensor:
    """[B,1,M]: 0 where `valid` [B,M], -inf elsewhere."""
    return torch.zeros_like(valid, dtype=like.dtype).masked_fill(~valid, -torch.inf)[:, None]


def _attention_in_full(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`scaled_dot_product_attention` for exported graphs, masks [B,G,1,T], without a logit of minus infinity.

    The weight of such a logit underflows, which makes a runtime's softmax eight times as slow. Here a masked key is the
    mean of the others, so that its logit is never the largest, and its weight is taken off again: each weight is
    divided by the sum of those that count. A head at a time, so that the weights stay in the processor's cache.
    """
    counts = attn_mask.transpose(2, 3).to(query.dtype)  # [B,G,T,1]
    mean = (key * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp(min=1)
    key = key * counts + mean * (1 - counts)
    value = torch.cat([value * counts, counts], 3)
    heads = zip((query * query.shape[-1] ** -0.5).unbind(1), key.unbind(1), value.unbind(1), strict=True)
    mixed = torch.stack([F.dropout((q @ k.transpose(1, 2)).softmax(2), dropout_p) @ v for q, k, v in heads], 1)
    return mixed[..., :-1] / mixed[..., -1:].clamp(min=LEAST_WEIGHT)


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
        keep = exists = token_valid[:, None].expand(-1, self.heads, -1)
        if self.cycle:
            keep = cycle_consistent(query, key, valid, token_valid, token_labels)
            if self.training and self.cycle_dropout:
                keep = keep | (exists & (torch.rand(keep.shape, device=keep.device) < self.cycle_dropout))
        attend = _attention_in_full if torch.compiler.is_exporting() else F.scaled_dot_product_attention
        mixed = attend(
            query,
            key,
            self.value_dropout(value),
            attn_mask=keep[:, :, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        # A support without a single usable token (everything ignored) has nothing to add; softmax over nothing is NaN.
        mixed = torch.where(keep.any(-1)[:, :, None, None], mixed, 0.0)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output
