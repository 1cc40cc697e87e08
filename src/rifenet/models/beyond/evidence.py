"""Evidence head (beyond the paper): segments the query by its similarity to the support.

A network that sees the semantic features of a dozen classes learns those classes and does worse on others
(docs/lab/evidence_head.md). This head sees similarities only, which mean the same for every class:
- of each query position to the support's foreground and background, for each backbone stage;
- of the query's positions to each other;
- of each query position to the query's own foreground and background, after a first estimate.

The head starts as the training-free score (`models.matching`) and learns to correct it. RiFeNet's activated features
assist it. Training drops them in a share of the episodes, so that the head never depends on them. Fine backbone
features place the edges at their own resolution.

Keys, means and norms leave padding out. Convolutions see zeros there, as they do beyond the border.

Shapes: B batch, K shots, S stages, D their channels together, E support keys, N = h*w positions, M similarity maps,
c the head's channels, h w feature size, f g size of the fine features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models import kernels, masks
from rifenet.models.masks import SoftMasks
from rifenet.models.resize import aligned_resize

VOTE_TEMPERATURE = 20.0
ANCHOR_SCALE = 20.0  # brings typical matching scores of 0.1 to the size of trained logits
GROUPS = 8
HEADS = 4
EPS = 1e-12
LEAST_VOTE = 1e-20  # far below the vote of a key with cosine -1


class EvidenceKeys(NamedTuple):
    """Support keys of the head; the batch is first in every field."""

    keys: Tensor  # unit length in each stage, [B,E,D]
    weights: Tensor  # of each key as background and as foreground, [B,2,E] in [0,1]; 0 in empty slots
    means: Tensor  # masked averages of all positions, background and foreground, [B,2,D]


class EvidenceLogits(NamedTuple):
    """Logits (background, foreground)."""

    fine: Tensor  # [B,2,f,g]
    coarse: Tensor  # the first estimate, [B,2,h,w]


def stage_units(high: Tensor, channels: tuple[int, ...], dim: int) -> Tensor:
    """High features with each stage's channels (in `dim`) scaled to unit length at each position, same shape."""
    return torch.cat([F.normalize(stage.float(), dim=dim) for stage in high.split(channels, dim=dim)], dim)


def support_keys(high: Tensor, soft: SoftMasks, channels: tuple[int, ...], cap: int) -> EvidenceKeys:
    """Keys of supports high [B,K,D,h,w]: all positions that are not ignored, or `cap` of them, half for each label."""
    return chosen_keys(stage_units(high, channels, 2), soft, cap)


def chosen_keys(high_units: Tensor, soft: SoftMasks, cap: int) -> EvidenceKeys:
    """As `support_keys`, of features that have unit length in each stage, [B,K,D,h,w]."""
    units = high_units.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B,K*N,D]
    foreground = soft.foreground.flatten(1)
    background = (1 - foreground - soft.void.flatten(1)).clamp(min=0)
    both = torch.stack([background, foreground], 1)
    share = both / both.sum(2, keepdim=True).clamp(min=EPS)
    slots = masks.choose_tokens(
        foreground > 0, (foreground <= 0) & (background > 0), torch.sym_min(cap, foreground.shape[1])
    )
    weights = both.gather(2, slots.positions[:, None].expand(-1, 2, -1)) * slots.valid[:, None]
    with torch.autocast(units.device.type, enabled=False):  # training must see the same similarities as evaluation
        means = share @ units
    return EvidenceKeys(masks.gather_positions(units, slots.positions), weights, means)


def similarity_maps(units: Tensor, keys: EvidenceKeys, channels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Similarity of query positions to the support's two labels.

    Each stage gives five maps. Several stages together give five more:
    - the largest cosine to a foreground key, and that to a background key, clamped at 0;
    - the cosine to the foreground mean, and that to the background mean;
    - the foreground's share in a vote of all keys, weighted by `exp(20 * cosine)`, with equal weight for both labels.

    A foreground key has at least half of the largest foreground weight. A background key has a weight above 0.5.

    Args:
        units: query features, unit length in each stage, [B,D,h,w].
        keys: keys of the supports.
        channels: channels of each stage.

    Returns:
        Maps [B,M,h,w], cosines in [-1,1] and shares in [0,1], and the training-free score [B,1,h,w] in [-2,2]: cosine
        to the foreground mean minus cosine to the background mean, over all stages.
    """
    flat = units.flatten(2).transpose(1, 2)
    scaled = keys.keys * VOTE_TEMPERATURE  # scales the keys and not their pairs with all positions
    parts = list(zip(*(x.split(channels, 2) for x in (flat, scaled, keys.means)), strict=True))
    to_means = [query @ F.normalize(mean, dim=2).transpose(1, 2) for query, _, mean in parts]  # [B,N,2] each
    if len(parts) > 1:
        # Each stage of a key has unit length, so the cosine over all stages is the mean of the stages' cosines. Means
        # of keys lack unit length and need their own product.
        to_means.append(flat @ F.normalize(keys.means, dim=2).transpose(1, 2) / math.sqrt(len(parts)))
    background, foreground = keys.weights[:, 0], keys.weights[:, 1]  # [B,E]
    is_foreground = (foreground > 0) & (foreground >= 0.5 * foreground.amax(1, keepdim=True))
    labels = torch.stack([is_foreground, background > 0.5], 1)  # [B,2,E]
    share = (keys.weights / keys.weights.sum(2, keepdim=True).clamp(min=EPS)).transpose(1, 2)  # [B,E,2]
    pairs = [(query, key) for query, key, _ in parts]
    find = _by_label_in_place if kernels.runs_in_onednn(flat, keys.keys) else _by_label
    maps = []
    for (largest, votes), to_mean in zip(find(pairs, labels, share), to_means, strict=True):
        cosines = largest / VOTE_TEMPERATURE
        maps += [cosines[:, 0].clamp(min=-1), cosines[:, 1].clamp(min=0), to_mean[..., 1], to_mean[..., 0]]
        maps.append(votes[..., 1] / votes.sum(2).clamp(min=LEAST_VOTE))
    score = to_means[-1][..., 1:] - to_means[-1][..., :1]
    grid = units.shape[-2:]
    return torch.stack(maps, 1).unflatten(2, grid), score.transpose(1, 2).unflatten(2, grid)


Pairs = list[tuple[Tensor, Tensor]]
"""Query positions [B,N,d] and scaled keys [B,E,d] of each stage, d its channels."""
PENALTY = 4 * VOTE_TEMPERATURE
"""Taken off the exponents of keys that do not have a label, which keeps them from being the largest."""


def _by_label(pairs: Pairs, labels: Tensor, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, for each stage and for all together, the largest exponents [B,2,N] and the votes [B,N,2] of two labels.

    Args:
        pairs: of each stage.
        labels: which keys are foreground and which are background, [B,2,E] bool.
        share: of each key in the votes for background and foreground, [B,E,2].
    """
    exponents = [query @ key.transpose(1, 2) for query, key in pairs]  # [B,N,E] each
    if len(pairs) > 1:
        exponents.append(sum(exponents[1:], exponents[0]) / len(pairs))
    penalties = (~labels[:, :, None]).float() * PENALTY  # subtracting is faster than masking
    for exponent in exponents:
        yield torch.stack([(exponent - each).amax(2) for each in penalties.unbind(1)], 1), exponent.exp() @ share


def _by_label_in_place(pairs: Pairs, labels: Tensor, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """`_by_label` with keys in the order of their labels, so that a label is a slice, and one map of exponents a stage.

    The keys lie as: foreground, both, background, neither. They are few beside their pairs with all positions.
    """
    order = torch.tensor([3, 0, 2, 1])[labels[:, 0] + 2 * labels[:, 1]].argsort(1)
    counts = torch.stack([labels[:, 0].sum(1), (labels[:, 0] & labels[:, 1]).sum(1), labels[:, 1].sum(1)], 1).tolist()
    found = []
    for number, (foreground, both, background) in enumerate(counts):
        slices = slice(0, foreground), slice(foreground - both, foreground - both + background)
        own = min(number, len(pairs[0][0]) - 1)
        sorted_pairs = [(query[own], key[number, order[number]]) for query, key in pairs]
        found.append(list(_of_one(sorted_pairs, slices, share[number, order[number]])))
    for level in zip(*found, strict=True):
        largest, votes = zip(*level, strict=True)
        yield torch.stack(largest), torch.stack(votes)


def _of_one(pairs: Pairs, slices: tuple[slice, slice], share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """`_by_label` of one class whose labels are slices of its keys."""
    total = None
    for query, key in pairs:
        exponent = kernels.product(query[None], key[None])[0]
        if len(pairs) > 1:
            total = exponent.clone() if total is None else total.add_(exponent)
        yield _largest_and_votes(exponent, slices, share)
    if total is not None:
        yield _largest_and_votes(total.div_(len(pairs)), slices, share)


def _largest_and_votes(exponent: Tensor, slices: tuple[slice, slice], share: Tensor) -> tuple[Tensor, Tensor]:
    """Largest exponents [2,N] of the slices, and votes [N,2], of exponents [N,E], which are overwritten."""
    nothing = exponent.new_full(exponent.shape[:1], -PENALTY)
    largest = [exponent[:, own].amax(1) if own.stop > own.start else nothing for own in slices]
    weights = exponent.exp_()
    # A product with two columns is faster as two products with one.
    return torch.stack(largest), torch.stack([torch.mv(weights, each) for each in share.unbind(1)], 1)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm over real positions; padding becomes 0."""

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]  # also takes the real positions
        """Maps x [B,c,h,w] to the same shape; real [B,1,h,w] is 1 or 0."""
        with torch.autocast(x.device.type, enabled=False):
            groups, weight = x.float().unflatten(1, (self.num_groups, -1)), real.float()[:, :, None]
            count = (weight.sum((3, 4), keepdim=True) * groups.shape[2]).clamp(min=1)
            centred = (groups - (groups * weight).sum((2, 3, 4), keepdim=True) / count) * weight
            variance = centred.square().sum((2, 3, 4), keepdim=True) / count
            normed = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
            return (normed * self.weight[:, None, None] + self.bias[:, None, None]) * real


class Normed(nn.Module):
    """Convolution and group norm: [B,inputs,h,w] -> [B,outputs,h,w], zero in padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = MaskedGroupNorm(GROUPS, outputs)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Maps x [B,inputs,h,w], zero in padding; real [B,1,h,w]."""
        normed: Tensor = self.norm(self.convolution(x), real)
        return normed


class Block(nn.Module):
    """ReLU(x + two 3x3 convolutions with group norm): [B,c,h,w] -> [B,c,h,w]."""

    def __init__(self, dim: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = Normed(dim, dim, 3, dilation)
        self.second = Normed(dim, dim, 3, dilation)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Maps x [B,c,h,w] to [B,c,h,w]; real [B,1,h,w]."""
        return (x + self.second(self.first(x, real).relu_(), real)).relu_()


class AffinityPropagation(nn.Module):
    """Spreads features to positions that look alike: attention whose logits are the backbone's cosines.

    Each head learns only the sharpness of its attention, so that it cannot prefer the look of any class.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.linspace(math.log(5), math.log(40), HEADS))
        self.value = nn.Conv2d(dim, dim, 1, bias=False)
        self.merge = Normed(dim, dim)

    def forward(self, x: Tensor, affinity: Tensor, real: Tensor) -> Tensor:
        """Maps x [B,c,h,w] to [B,c,h,w]; affinity [B,1,N,N], 0 for keys that are padding; real [B,1,h,w]."""
        value = self.value(x).flatten(2).unflatten(1, (HEADS, -1))  # [B,4,c/4,N]
        keys = real.flatten(2)[:, None].expand(-1, HEADS, -1, -1)
        value = torch.cat([value * keys, keys], 2).transpose(2, 3)
        # One head at a time: the weights of all heads would be the network's largest tensor and exceed the CPU's cache.
        mix = kernels.weighted_by_cosines if kernels.runs_in_onednn(affinity, value) else _weighted
        heads = zip(self.sharpness.exp(), value.unbind(1), strict=True)
        mixed = torch.stack([mix(affinity[:, 0], sharp, own) for sharp, own in heads], 1)
        # The division removes the weights of padding. A logit of minus infinity would underflow, which is slow in
        # exports.
        mixed = mixed[..., :-1] / mixed[..., -1:].clamp(min=EPS)
        spread = mixed.transpose(2, 3).flatten(1, 2).view_as(x)
        merged: Tensor = self.merge.norm(x + self.merge.convolution(spread), real)
        return merged.relu_()


def _weighted(affinity: Tensor, sharpness: Tensor, values: Tensor) -> Tensor:
    """Means [B,N,d] of values [B,N,d] under the softmax of sharpened cosines [B,N,N]."""
    return (affinity * sharpness).softmax(2) @ values


class FineDecoder(nn.Module):
    """Upsamples from the feature grid to the fine features' grid in two steps: [B,c,h,w], [B,F,f,g] -> [B,1,f,g]."""

    def __init__(self, dim: int, fine_channels: int) -> None:
        super().__init__()
        self.middle = nn.ModuleList([Normed(dim, dim // 2, 3), Normed(dim // 2, dim // 2, 3)])
        self.reduce = Normed(fine_channels, GROUPS)
        self.last = nn.ModuleList([Normed(dim // 2 + GROUPS, dim // 4, 3), Normed(dim // 4, dim // 4, 3)])
        self.classify = nn.Conv2d(dim // 4, 1, 1)

    def forward(self, x: Tensor, fine: Tensor, real: Tensor) -> Tensor:
        """Maps x [B,c,h,w], fine features [B,F,f,g] and real [B,1,h,w] to a score [B,1,f,g]."""
        height, width = fine.shape[-2:]
        half = ((height + 1) // 2, (width + 1) // 2)
        real_half, real_fine = ((aligned_resize(real, size) >= 0.5).to(real.dtype) for size in (half, (height, width)))
        x = aligned_resize(x, half)
        for layer in self.middle:
            x = layer(x * real_half, real_half).relu_()
        x = torch.cat([aligned_resize(x, (height, width)), self.reduce(fine, real_fine)], 1)
        for layer in self.last:
            x = layer(x * real_fine, real_fine).relu_()
        score: Tensor = self.classify(x)
        return score


class EvidenceHead(nn.Module):
    """The evidence head; the module's docstring describes it.

    Args:
        channels: channels of each stage in the high features, in their order.
        assist_channels: channels of RiFeNet's features, which assist the head.
        fine_channels: channels of the fine features.
        dim: c, a multiple of 32.
        assist_dropout: share of training queries that the head segments without RiFeNet's features.
    """

    def __init__(
        self, channels: tuple[int, ...], assist_channels: int, fine_channels: int, *, dim: int, assist_dropout: float
    ) -> None:
        super().__init__()
        self.channels, self.assist_dropout = channels, assist_dropout
        levels = len(channels) + (len(channels) > 1)
        self.enter = Normed(5 * levels, dim)
        self.spread = nn.ModuleList(AffinityPropagation(dim) for _ in range(2))
        self.first = Block(dim)
        self.assist = nn.Conv2d(assist_channels, dim, 1, bias=False)
        self.estimate = nn.Conv2d(dim, 1, 1)
        self.enter_own = Normed(dim + 2 * levels + 1, dim)
        self.second = nn.ModuleList([Block(dim, dilation=2), Block(dim)])
        self.decoder = FineDecoder(dim, fine_channels)
        for last in (self.estimate, self.decoder.classify):  # the head starts as the training-free score
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def affinity(self, high: Tensor, valid: Tensor) -> Tensor:
        """Cosines [B,1,N,N] of high features [B,D,h,w], mean over the stages; 0 where valid [B,h,w] bool is false."""
        with torch.autocast(high.device.type, enabled=False):  # training must see the same similarities as evaluation
            flat = stage_units(high, self.channels, 1).flatten(2) * valid.flatten(1)[:, None]
            rows = flat.transpose(1, 2)
            return (kernels.product(rows, rows) / len(self.channels))[:, None]

    def forward(
        self,
        high: Tensor,
        valid: Tensor,
        fine: Tensor,
        keys: EvidenceKeys,
        features: Tensor,
        affinity: Tensor | None = None,
    ) -> EvidenceLogits:
        """Segments queries.

        Args:
            high: high features [B,D,h,w] of any length.
            valid: real positions [B,h,w] bool.
            fine: fine features [B,F,f,g].
            keys: support keys of the class.
            features: RiFeNet's features [B,C,h,w].
            affinity: result of `affinity(high, valid)`; None computes it.
        """
        real = valid[:, None].to(features.dtype)
        affinity = self.affinity(high, valid) if affinity is None else affinity
        with torch.autocast(high.device.type, enabled=False):  # training must see the same similarities as evaluation
            units = stage_units(high, self.channels, 1)
            maps, score = similarity_maps(units, keys, self.channels)
        x = self.enter((maps * 4 - 2) * real, real).relu_()
        x = self.first(self.spread[0](x, affinity, real), real)
        assist = self.assist(features * real)
        if self.training:
            assist = assist * (torch.rand(len(x), 1, 1, 1, device=x.device) >= self.assist_dropout)
        x = x + assist
        coarse = self.estimate(x) + score * ANCHOR_SCALE
        with torch.autocast(high.device.type, enabled=False):
            own = self._own_maps(units, coarse.float(), real.float())
        x = torch.cat([x, own, coarse.sigmoid()], 1) * real
        x = self.spread[1](self.enter_own(x, real).relu_(), affinity, real)
        x = self.second[1](self.second[0](x, real), real)
        refined = self.decoder(x, fine, real) + aligned_resize(coarse, (fine.shape[-2], fine.shape[-1]))
        return EvidenceLogits(*(torch.cat([-value, value], 1) / 2 for value in (refined, coarse)))

    def _own_maps(self, units: Tensor, coarse: Tensor, real: Tensor) -> Tensor:
        """Scaled cosines [B,2*levels,h,w] to the query's own background and foreground, by the first estimate."""
        probability = coarse.sigmoid()
        weights = torch.cat([1 - probability, probability], 1).square() * real  # [B,2,h,w]
        flat = units.flatten(2)
        means = weights.flatten(2) @ flat.transpose(1, 2)  # [B,2,D]
        parts = list(zip(flat.split(self.channels, 1), means.split(self.channels, 2), strict=True))
        maps = [F.normalize(mean, dim=2) @ unit for unit, mean in parts]  # [B,2,N] each
        if len(parts) > 1:
            maps.append(F.normalize(means, dim=2) @ flat / math.sqrt(len(parts)))
        return (torch.cat(maps, 1) * 4 - 2).unflatten(2, units.shape[-2:])
