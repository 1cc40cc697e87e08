"""Fast variants of the equations in `attention.py`, and the conditions under which they run.

Each equals its plain equation up to rounding, ties included; `tests/models/test_kernels.py` compares them.

    eager, on a CPU            the search for the best token goes block by block; without autograd, deformable sampling
                               is one weighted gather, a short softmax is written out, and products of float32
                               matrices run in oneDNN; linear layers run there with autograd, too
    exported graph             both attentions avoid argmax over long rows and logits of minus infinity, which are slow
                               in ONNX runtimes
    anywhere else              the plain equations

Shapes: B batch, G heads, D channels a head, P points, N query positions, T support tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WEIGHT = 1e-30  # least sum of a query's weights; without any valid token the sum is smaller
BLOCK = 64


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether operations on `x` run eagerly on a CPU, so that they need not fit a graph or another device."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())


def runs_on_cpu_without_graph(x: Tensor) -> bool:
    """Whether operations on `x` run eagerly on a CPU without autograd."""
    return not torch.is_grad_enabled() and runs_eagerly_on_cpu(x)


@cache
def has_onednn() -> bool:
    """Whether this build of torch can run a product in oneDNN, on a processor where that was measured to pay."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def runs_in_onednn(*factors: Tensor) -> bool:
    """Whether `product` takes oneDNN for these factors: without autograd."""
    return not torch.is_grad_enabled() and takes_onednn(*factors)


def takes_onednn(*factors: Tensor) -> bool:
    """Whether oneDNN multiplies these factors faster; `Linear` takes it with or without autograd."""
    plain = all(each.dtype == torch.float32 and runs_eagerly_on_cpu(each) for each in factors)
    allowed = bool(torch.backends.mkldnn.enabled) and not torch.is_autocast_enabled("cpu")
    return plain and allowed and has_onednn()


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """`rows @ columns.mT`, rows [B,N,D], columns [B,M,D], a batch of 1 on either side expanded: [B,N,M].

    The library behind `@` runs at a quarter to a half of oneDNN's speed on processors of another maker than its own.
    """
    if not runs_in_onednn(rows, columns):
        return rows @ columns.transpose(1, 2)
    batch = max(len(rows), len(columns))
    pairs = zip(rows.expand(batch, -1, -1), columns.expand(batch, -1, -1), strict=True)
    found = [_onednn_product(*pair) for pair in pairs]
    return found[0][None] if batch == 1 else torch.stack(found)


WIDTH = 384
"""Columns of a product that oneDNN multiplies at a time: much longer rows do not fit the processor's cache."""


def _onednn_product(rows: Tensor, columns: Tensor) -> Tensor:
    parts = zip(rows.split(WIDTH, 1), columns.split(WIDTH, 1), strict=True)
    total = None
    for part in parts:
        own = _onednn_linear(*part, None)
        total = own if total is None else total.add_(own)
    assert total is not None
    return total


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    # Rows of a weight that do not follow one another would run in the library's slow reference code.
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.contiguous(), bias, then, [], "")
    return y


class Linear(nn.Linear):
    """`nn.Linear` that runs in oneDNN where `product` does, and in training, too."""

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Maps x [...,D] to [...,E]; `relu` follows with a ReLU."""
        if not takes_onednn(x, self.weight):
            y = super().forward(x)
            return y.relu_() if relu else y
        if not torch.is_grad_enabled():
            return _onednn_linear(x, self.weight, self.bias, "relu" if relu else "none")
        trained: Tensor = _TrainedLinear.apply(x, self.weight, self.bias)
        return trained.relu() if relu else trained  # autograd allows nothing in place here


class _TrainedLinear(torch.autograd.Function):
    """A linear layer x [...,D], weight [E,D], bias [E] -> [...,E] whose three products run in oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = slope.reshape(-1, slope.shape[-1]).contiguous()
        to_x = _onednn_linear(rows, weight.t(), None).view_as(x) if for_x else None
        flat = x.reshape(-1, x.shape[-1])
        to_weight = _onednn_linear(rows.t().contiguous(), flat.t(), None) if for_weight else None
        return to_x, to_weight, rows.sum(0) if for_bias else None


def weighted_by_cosines(cosines: Tensor, sharpness: Tensor, values: Tensor) -> Tensor:
    """Sums [B,N,d] of values [B,N,d] under the powers of sharpened cosines [B,N,N], without a softmax's division.

    The largest cosine of a position is that to itself, so that no power overflows, and no pass is needed to find it.
    Values hold a column of ones, whose sum the caller divides by.
    """
    own = cosines.diagonal(dim1=1, dim2=2)[..., None]
    return product(torch.sub(cosines, own).mul_(sharpness).exp_(), values.transpose(1, 2))


def short_softmax(x: Tensor) -> Tensor:
    """`x.softmax(-1)`, four times as fast where the last dimension is short."""
    powers = (x - x.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def gathered_mix(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """`attention.sample_and_mix` as one weighted gather, which stores no sampled values: [M,D,N].

    Each position sums the 4 P corners around its points. A corner's weight is the point's weight times the corner's
    bilinear share.
    """
    maps, _, height, width = value.shape
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
    index = torch.cat(corners, -1).nan_to_num(0).long() + first  # [M,N,4P]; a NaN place has share 0
    table = value.flatten(2).transpose(1, 2).flatten(0, 1)  # [M*h*w,D]
    mixed = F.embedding_bag(
        index.flatten(0, 1), table, mode="sum", per_sample_weights=torch.cat(shares, -1).flatten(0, 1).to(table.dtype)
    )
    return mixed.unflatten(0, (maps, -1)).transpose(1, 2)


def most_alike_by_maxima(asked: Tensor, among: Tensor, valid: Tensor) -> Tensor:
    """`attention.most_alike` with `first_maximum` for its argmax."""
    # `baddbmm` starts from 0, or -inf at padding, which saves a second pass over the product.
    return first_maximum(torch.baddbmm(barred(valid, among), asked, among.transpose(1, 2)))


def most_alike_by_blocks(asked: Tensor, among: Tensor, valid: Tensor) -> Tensor:
    """`attention.most_alike` for exported graphs, whose runtime has a slow argmax.

    The runtime also needs a second pass to add to a product. One more channel therefore holds the 0 or -inf of each row
    of `among`, and the product adds it.
    """
    length = among.shape[1]
    more = (length + BLOCK - 1) // BLOCK * BLOCK - length
    bars = barred(F.pad(valid, (0, more)), among).transpose(1, 2)
    among = torch.cat([F.pad(among, (0, 0, 0, more)), bars], 2)
    products = F.pad(asked, (0, 1), value=1.0) @ among.transpose(1, 2)
    blocks = products.unflatten(2, (-1, BLOCK))  # [B,T,M/BLOCK,BLOCK]
    start = blocks.amax(3).argmax(2)
    inside = blocks.gather(2, start[..., None, None].expand(-1, -1, 1, BLOCK))[:, :, 0].argmax(2)
    return start * BLOCK + inside


def first_maximum(x: Tensor) -> Tensor:
    """`x.argmax(-1)` of [...,M], the first of equals.

    On a CPU, `argmax` takes sixteen times as long as `amax`. This function takes the maximum of each block, and then
    runs `argmax` on the one block that holds the largest.
    """
    length = x.shape[-1]
    if length < 4 * BLOCK:
        return x.argmax(-1)
    whole = length - length % BLOCK
    maxima = x[..., :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
    if whole < length:
        maxima = torch.cat([maxima, x[..., whole:].amax(-1, keepdim=True)], -1)
    start = maxima.argmax(-1, keepdim=True) * BLOCK
    places = (start + torch.arange(BLOCK, device=x.device)).clamp(max=length - 1)
    return start[..., 0] + x.gather(-1, places).argmax(-1)


def barred(valid: Tensor, like: Tensor) -> Tensor:
    """[B,1,M] of the type of `like`: 0 where `valid` [B,M] bool, -inf elsewhere."""
    return torch.zeros_like(valid, dtype=like.dtype).masked_fill(~valid, -torch.inf)[:, None]


def attention_in_full(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`scaled_dot_product_attention` for exported graphs, masks [B,G,1,T], without a logit of minus infinity.

    The weight of such a logit underflows, which makes a runtime's softmax eight times as slow. Here each masked key
    becomes the mean of the valid keys, whose logit is never the largest. Dividing by the sum of the valid weights
    removes the masked weights again. The heads run one after the other, so that the weights stay in the processor's
    cache.
    """
    counts = attn_mask.transpose(2, 3).to(query.dtype)  # [B,G,T,1]
    mean = (key * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp(min=1)
    key = key * counts + mean * (1 - counts)
    value = torch.cat([value * counts, counts], 3)
    heads = zip((query * query.shape[-1] ** -0.5).unbind(1), key.unbind(1), value.unbind(1), strict=True)
    mixed = torch.stack([F.dropout((q @ k.transpose(1, 2)).softmax(2), dropout_p) @ v for q, k, v in heads], 1)
    return mixed[..., :-1] / mixed[..., -1:].clamp(min=LEAST_WEIGHT)
