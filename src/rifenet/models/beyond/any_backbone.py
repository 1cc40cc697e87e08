"""A head whose weights fit any backbone (beyond the paper): it sees centred and scaled similarities of its stages.

The evidence head (`evidence`) reads cosines as one backbone gives them, of three stages in a fixed order. Features of
another family lie elsewhere: all of a ResNet's have a cosine of 0.4 to 0.7, whatever they show. So here each stage is
first moved and scaled by its `Reference`, which comes from a few photos of anything. Neither a vector added to all
features of a stage nor a factor changes the result then. What the stages say is pooled by mean, largest and least
value, so their number and order do not matter. Edges come from the photo itself (`photo_edges`) and not from a stage.

Shapes: B batch, K shots, S stages, D their channels together, E support keys, N = h*w positions, c the head's channels,
h w feature size, f g size of the photo's own features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.models.backbones.photo_edges import CHANNELS
from rifenet.models.beyond.evidence import (
    EPS,
    LEAST_VOTE,
    VOTE_TEMPERATURE,
    AffinityPropagation,
    Block,
    EvidenceKeys,
    EvidenceLogits,
    FineDecoder,
    Normed,
)
from rifenet.models.resize import aligned_resize

DEVIATION = 0.15
"""Deviation of scaled similarities of unrelated positions, about that of EfficientNet-Lite's cosines."""
LARGEST = 2.0
"""Bound of scaled similarities: beyond it, a vote would outweigh all others by far."""
SAMPLE = 2048
"""Most positions whose similarities to each other tell their deviation."""
LEAST = 1e-4
POOLED = 4  # mean, largest and least of the stages, and the mean similarity of all


class Reference(NamedTuple):
    """What is known of a backbone's features, from photos of anything."""

    centre: Tensor
    """Mean of each channel, [D]."""
    scale: Tensor
    """Factor of each stage's cosines, [S]."""


def reference_of(high: Tensor, valid: Tensor, channels: tuple[int, ...]) -> Reference:
    """The reference of features high [R,D,h,w] of R >= 2 photos with real positions valid [R,h,w] bool.

    The scale makes the similarities of positions in different photos deviate by `DEVIATION`; their mean is close to 0,
    since the features are centred. Every n-th position takes part if there are more than `SAMPLE`.
    """
    real = valid.flatten()
    rows = high.float().permute(0, 2, 3, 1).flatten(0, 2)[real]  # [M,D]
    photo = torch.arange(len(high), device=high.device)[:, None, None].expand_as(valid).flatten()[real]
    centre = rows.mean(0)
    every = -(-len(rows) // SAMPLE)
    rows, photo = (rows - centre)[::every], photo[::every]
    other = photo[:, None] != photo
    scale = []
    for stage in rows.split(channels, 1):
        units = F.normalize(stage, dim=1)
        scale.append(DEVIATION / (units @ units.T)[other].std().clamp(min=LEAST))
    return Reference(centre, torch.stack(scale))


def centred_units(high: Tensor, centre: Tensor, channels: tuple[int, ...], dim: int) -> Tensor:
    """High features minus `centre` [D], of unit length in each stage (channels in `dim`) and position, same shape."""
    shape = [1] * high.dim()
    shape[dim] = -1
    centred = high.float() - centre.view(shape)
    return torch.cat([F.normalize(stage, dim=dim) for stage in centred.split(channels, dim)], dim)


def scaled_similarities(first: Tensor, second: Tensor, scale: Tensor, channels: tuple[int, ...]) -> list[Tensor]:
    """Scaled cosines of each stage between positions [B,N,D] and [B,E,D], then their mean: S + 1 of [B,N,E]."""
    stages = zip(first.split(channels, 2), second.split(channels, 2), scale.unbind(), strict=True)
    each = [(one * factor @ other.transpose(1, 2)).clamp(max=LARGEST) for one, other, factor in stages]
    return [*each, sum(each[1:], each[0]) / len(each)]


def pooled(maps: list[Tensor]) -> Tensor:
    """Maps [B,m,h,w] of each stage and, last, of all together: [B,4*m,h,w], whatever the number of stages."""
    stages = torch.stack(maps[:-1])
    return torch.cat([stages.mean(0), stages.amax(0), stages.amin(0), maps[-1]], 1)


def evidence_maps(similarities: list[Tensor], to_means: list[Tensor], keys: EvidenceKeys) -> list[Tensor]:
    """Five maps [B,5,N] of each stage and of all together; see `evidence.similarity_maps`.

    Args:
        similarities: of query positions to keys, S + 1 of [B,N,E].
        to_means: of query positions to the background's and the foreground's mean, S + 1 of [B,N,2].
        keys: keys of the supports.
    """
    background, foreground = keys.weights[:, None, 0], keys.weights[:, None, 1]  # [B,1,E]
    is_foreground = (foreground > 0) & (foreground >= 0.5 * foreground.amax(2, keepdim=True))
    penalties = [(~each).float() * (4 * LARGEST) for each in (is_foreground, background > 0.5)]
    share = (keys.weights / keys.weights.sum(2, keepdim=True).clamp(min=EPS)).transpose(1, 2)  # [B,E,2]
    made = []
    for each, to_mean in zip(similarities, to_means, strict=True):
        largest = [(each - penalty).amax(2).clamp(min=-LARGEST) for penalty in penalties]
        votes = (each * VOTE_TEMPERATURE).exp() @ share
        vote = votes[..., 1] / votes.sum(2).clamp(min=LEAST_VOTE)
        made.append(torch.stack([*largest, to_mean[..., 1], to_mean[..., 0], vote], 1))
    return made


class AnyBackboneHead(nn.Module):
    """The head; the module's docstring describes it.

    Args:
        channels: channels of each stage in the high features, in their order. No weight depends on them.
        dim: c, a multiple of 32.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, channels: tuple[int, ...], *, dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("centre", torch.zeros(sum(channels)))
        self.register_buffer("scale", torch.ones(len(channels)))
        self.enter = Normed(5 * POOLED, dim)
        self.spread = nn.ModuleList(AffinityPropagation(dim) for _ in range(2))
        self.first = Block(dim)
        self.estimate = nn.Conv2d(dim, 1, 1)
        self.anchor = nn.Parameter(torch.tensor([20.0, 0.0]))  # factor and bias of the training-free score
        self.enter_own = Normed(dim + 2 * POOLED + 1, dim)
        self.second = nn.ModuleList([Block(dim, dilation=2), Block(dim)])
        self.decoder = FineDecoder(dim, CHANNELS)
        for last in (self.estimate, self.decoder.classify):  # the head starts as the training-free score
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def refer(self, reference: Reference) -> None:
        """Takes the reference of the backbone."""
        self.centre.copy_(reference.centre)
        self.scale.copy_(reference.scale)

    def units(self, high: Tensor, dim: int) -> Tensor:
        """`centred_units` by the head's reference."""
        with torch.autocast(high.device.type, enabled=False):  # training must see the same similarities as evaluation
            return centred_units(high, self.centre, self.channels, dim)

    def affinity(self, units: Tensor, valid: Tensor) -> Tensor:
        """Similarities [B,1,N,N] of units [B,D,h,w], mean over the stages; valid [B,h,w] bool marks real positions.

        They are moved so that the largest, that of a position to itself, is 1: for attention, only differences count.
        """
        with torch.autocast(units.device.type, enabled=False):
            flat = units.flatten(2).transpose(1, 2) * valid.flatten(1)[..., None]
            similarities = scaled_similarities(flat, flat, self.scale, self.channels)[-1]
            return (similarities + 1 - self.scale.clamp(max=LARGEST).mean())[:, None]

    def forward(
        self, units: Tensor, valid: Tensor, fine: Tensor, keys: EvidenceKeys, affinity: Tensor | None = None
    ) -> EvidenceLogits:
        """Segments queries.

        Args:
            units: features of `units`, [B,D,h,w].
            valid: real positions [B,h,w] bool.
            fine: the photo's own features [B,8,f,g].
            keys: support keys of the class.
            affinity: result of `affinity(units, valid)`; None computes it.
        """
        grid = (units.shape[-2], units.shape[-1])
        real = valid[:, None].float()
        affinity = self.affinity(units, valid) if affinity is None else affinity
        with torch.autocast(units.device.type, enabled=False):
            flat = units.flatten(2).transpose(1, 2)  # [B,N,D]
            similarities = scaled_similarities(flat, keys.keys, self.scale, self.channels)
            to_means = self._to_means(flat, keys.means)
            maps = pooled([each.unflatten(2, grid) for each in evidence_maps(similarities, to_means, keys)])
        score = (to_means[-1][..., 1] - to_means[-1][..., 0]).unflatten(1, grid)[:, None]
        x = self.enter((maps * 4 - 2) * real, real).relu_()
        x = self.first(self.spread[0](x, affinity, real), real)
        coarse = (self.estimate(x) + score * self.anchor[0] + self.anchor[1]) * real  # else padding reaches the edge
        with torch.autocast(units.device.type, enabled=False):
            own = self._own_maps(flat, coarse.float(), real)
        x = torch.cat([x, own, coarse.sigmoid()], 1) * real
        x = self.spread[1](self.enter_own(x, real).relu_(), affinity, real)
        x = self.second[1](self.second[0](x, real), real)
        size = (fine.shape[-2], fine.shape[-1])
        refined = self.decoder(x, standardised(fine, real), real) + aligned_resize(coarse, size)
        return EvidenceLogits(*(torch.cat([-value, value], 1) / 2 for value in (refined, coarse)))

    def _to_means(self, flat: Tensor, means: Tensor) -> list[Tensor]:
        """Scaled cosines of positions [B,N,D] to averages of units, background and foreground [B,2,D]."""
        each = torch.cat([F.normalize(mean, dim=2) for mean in means.split(self.channels, 2)], 2)
        return scaled_similarities(flat, each, self.scale, self.channels)

    def _own_maps(self, flat: Tensor, coarse: Tensor, real: Tensor) -> Tensor:
        """Similarities [B,8,h,w] to the query's own background and foreground, by the first estimate."""
        probability = coarse.sigmoid()
        weights = torch.cat([1 - probability, probability], 1).square() * real  # [B,2,h,w]
        own = self._to_means(flat, weights.flatten(2) @ flat)
        return pooled([each.transpose(1, 2).unflatten(2, coarse.shape[-2:]) for each in own]) * 4 - 2


def standardised(fine: Tensor, real: Tensor) -> Tensor:
    """Maps [B,F,f,g] of mean 0 and deviation 1 over the real positions; real [B,1,h,w] is 1 or 0. 0 in padding."""
    weight = (aligned_resize(real, (fine.shape[-2], fine.shape[-1])) >= 0.5).to(fine.dtype)
    count = weight.sum((2, 3), keepdim=True).clamp(min=1)
    centred = (fine - (fine * weight).sum((2, 3), keepdim=True) / count) * weight
    deviation = (centred.square().sum((2, 3), keepdim=True) / count).sqrt()
    return centred / (deviation + 0.01)
