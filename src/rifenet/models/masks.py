"""Support masks on the feature grid, and the choice of support positions (method.md 5 and 8).

Shapes: B batch, K shots, H W image size, h w feature size, M positions to choose from, S slots to fill.

Masks hold 1 foreground, 0 background, 255 ignore; padding is ignored too. Positions are numbered row by row, chosen by
that number, and written into a fixed number of slots with a validity mask. No shape then depends on the data: the same
code runs eagerly, compiled and exported, and one batch holds large and small objects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rifenet import IGNORE
from rifenet.models.prototypes import pooling_matrix
from rifenet.models.resize import aligned_resize

TRAINING_SPREAD = ((0.6, 4.0), (0.6, 1.4))  # factors of the number of tokens, for one shot and for more (method.md 8)


class SoftMasks(NamedTuple):
    """Masks on the feature grid, both [B,K,h,w] in [0,1]; `void` is ignored pixels and padding."""

    foreground: Tensor
    void: Tensor


class Slots(NamedTuple):
    """Chosen positions [B,S] int64 among the M, and valid [B,S] bool, false for an empty slot."""

    positions: Tensor
    valid: Tensor


def valid_on_grid(valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Real pixels [...,H,W] bool on the feature grid, [...,h,w] bool: true where they have at least half the weight."""
    weight = aligned_resize(valid.flatten(0, -3).unsqueeze(1).float(), grid)  # [M,1,h,w]
    return weight[:, 0].unflatten(0, valid.shape[:-2]) >= 0.5


def real_positions(valid: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """`valid_on_grid`, [...,h,w] bool of the given `shape`; where `valid` is None, every position is real."""
    if valid is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return valid_on_grid(valid, (shape[-2], shape[-1]))


def soft_masks(masks: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> SoftMasks:
    """Resizes masks [B,K,H,W] (0, 1, 255) bilinearly to the grid; `valid` [B,K,H,W] bool marks real pixels.

    Bilinear sampling may miss a small object, so that the whole shot has no foreground. Its mask is then the share of
    each cell's area that the object covers.
    """
    foreground = (masks == 1).float()
    void = (masks == IGNORE).float() if valid is None else ((masks == IGNORE) | ~valid).float()
    maps = aligned_resize(torch.stack([foreground, void]).flatten(1, 2), grid)  # [2,B*K,h,w]
    sampled, void = maps.unflatten(1, masks.shape[:2]).unbind()
    rows, columns = (pooling_matrix(*sides, masks.device) for sides in zip(masks.shape[-2:], grid, strict=True))
    area = ((foreground @ columns.T).mT @ rows.T).mT / (rows.sum(1)[:, None] * columns.sum(1))
    missed = sampled.amax((-2, -1), keepdim=True) <= 0
    return SoftMasks(torch.where(missed, area, sampled), void)


def token_labels(masks: SoftMasks, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Foreground and background positions [B,K,h,w] bool of each shot; positions in neither are ignored or padding.

    A position is foreground if its soft mask is over 0.5. If there is none in a shot, the position with the largest
    soft mask is foreground (method.md 8).
    """
    foreground = masks.foreground > 0.5
    flat = masks.foreground.flatten(2)
    largest = (torch.arange(flat.shape[-1], device=flat.device) == flat.argmax(-1, keepdim=True)) & (flat > 0)
    none = ~foreground.flatten(2).any(-1)
    foreground = foreground | (largest & none[..., None]).view_as(foreground)
    background = ~foreground & valid & (masks.void <= 0.5)
    return foreground, background


def choose_evenly(candidates: Tensor, count: Tensor) -> Tensor:
    """Chooses `count` [B] of the true entries of `candidates` [B,M], every n-th one: [B,M] bool."""
    total = candidates.sum(1, keepdim=True).clamp(min=1)
    return _choose_by_rank(candidates, candidates.cumsum(1) - 1, torch.minimum(count[:, None], total), total)


def choose_randomly(candidates: Tensor, count: Tensor) -> Tensor:
    """Chooses `count` [B] of the true entries of `candidates` [B,M] at random from torch's generator: [B,M] bool."""
    noise = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2.0)
    rank = noise.argsort(1).argsort(1)
    return candidates & (rank < count[:, None])


def _choose_by_rank(candidates: Tensor, rank: Tensor, count: Tensor, total: Tensor) -> Tensor:
    def step(value: Tensor) -> Tensor:
        return torch.div(value * count, total, rounding_mode="floor")

    return candidates & (step(rank + 1) > step(rank))


def balanced_counts(foreground: Tensor, background: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """How many of the foreground and of the background positions, [B,M] bool each, fill `slots`: [B] each.

    Half of the slots each; if one side is short, the other fills up (method.md 8).
    """
    available_foreground, available_background = foreground.sum(1), background.sum(1)
    half = slots // 2
    from_foreground = torch.minimum(available_foreground, (slots - available_background).clamp(min=half))
    from_background = torch.minimum(available_background, slots - from_foreground)
    return from_foreground, from_background


def fill_slots(chosen: Tensor, slots: int) -> Slots:
    """Packs the chosen entries of [B,M] into `slots` slots, lowest position first. The rest are not valid."""
    positions = chosen.shape[1]
    slots = torch.sym_min(slots, positions)
    order = torch.arange(positions, device=chosen.device)
    index = torch.where(chosen, positions - order, -order).topk(slots, dim=1).indices
    return Slots(index, chosen.gather(1, index))


def choose_tokens(
    foreground: Tensor, background: Tensor, slots: int, *, spread: tuple[float, float] | None = None
) -> Slots:
    """Chooses support tokens among the foreground and the background positions of all shots, [B,M] bool each.

    Without `spread` it takes every n-th position. With `spread`, in training, it chooses at random, and scales `slots`
    by a random factor in `spread` (method.md 8).
    """
    choose = choose_evenly
    if spread is not None:
        choose = choose_randomly
        low, high = spread
        slots = max(2, 2 * int(slots / 2 * (low + (high - low) * torch.rand(()).item())))
    counts = balanced_counts(foreground, background, slots)
    return fill_slots(choose(foreground, counts[0]) | choose(background, counts[1]), slots)


def support_tokens(
    features: Tensor, soft: SoftMasks, valid: Tensor, slots: int, *, at_random: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Support tokens of all shots (method.md 8).

    Args:
        features: [B,K,C,h,w].
        soft: the shots' masks on the grid.
        valid: real positions [B,K,h,w] bool.
        slots: largest number of tokens, of both labels together.
        at_random: choose a random number of tokens at random, as in training.

    Returns:
        Tokens [B,T,C], which of them are foreground, and which of them exist, both [B,T] bool.
    """
    shots = features.shape[1]
    flat = features.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B,K*h*w,C]
    foreground, background = (label.flatten(1) for label in token_labels(soft, valid))
    chosen = choose_tokens(foreground, background, slots, spread=TRAINING_SPREAD[shots > 1] if at_random else None)
    return gather_positions(flat, chosen.positions), foreground.gather(1, chosen.positions), chosen.valid


def gather_positions(values: Tensor, index: Tensor) -> Tensor:
    """Takes rows `index` [B,S] of `values` [B,M,C]: [B,S,C]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
