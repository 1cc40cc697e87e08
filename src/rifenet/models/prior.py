"""Prior mask (method.md 5): where the query looks like the support's foreground, without learned parameters.

Shapes: B batch, K shots, P keys a shot, D channels of the high features, h w feature size, N = h*w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rifenet.models.kernels import product, runs_eagerly_on_cpu
from rifenet.models.masks import choose_evenly, fill_slots, gather_positions

EPS = 1e-7


def choose_keys(high: Tensor, of_label: Tensor, cap: int) -> tuple[Tensor, Tensor]:
    """Keys of the prior: unit-length high features of some positions of each shot, every n-th where there are too many.

    Args:
        high: high features of the supports, [B,K,D,h,w].
        of_label: positions to choose from, [B,K,h,w] bool.
        cap: largest number of keys a shot (P is at most the smaller of `cap` and h*w).

    Returns:
        Keys [B,K,P,D], and which of them exist, [B,K,P] bool. In eager mode on a CPU, P is the number of keys of the
        fullest shot, because an empty slot would cost every query as much as a full one.
    """
    batch, shots = high.shape[:2]
    candidates = of_label.flatten(0, 1).flatten(1)
    chosen = choose_evenly(candidates, torch.full((batch * shots,), cap, device=high.device))
    if runs_eagerly_on_cpu(high):
        cap = max(int(chosen.sum(1).max()), 1)
    slots = fill_slots(chosen, cap)
    keys = gather_positions(high.flatten(0, 1).flatten(2).transpose(1, 2).float(), slots.positions)
    return F.normalize(keys, dim=-1).unflatten(0, (batch, shots)), slots.valid.unflatten(0, (batch, shots))


def prior_mask(high: Tensor, valid: Tensor, keys: Tensor, keys_valid: Tensor) -> Tensor:
    """Largest cosine similarity of each query position to a support foreground position, normalised to [0,1].

    Args:
        high: unit-length high features of the query, [B,D,h,w].
        valid: real positions of the query, [B,h,w] bool.
        keys: unit-length high features of the supports' foreground, [B,K,P,D].
        keys_valid: which keys exist, [B,K,P] bool.

    Returns:
        [B,1,h,w] in [0,1]: clamped at 0, min-max normalised over the valid positions, averaged over the shots. It is 0
        at padded positions. A shot without keys counts in the average with 0.
    """
    batch, _, height, width = high.shape
    with torch.autocast(high.device.type, enabled=False):  # in half precision, training would see another prior
        # A key of zeros has similarity 0, which the clamp below makes the least. Keys are fewer than similarities.
        keys = keys.masked_fill(~keys_valid[..., None], 0.0)
        similarity = product(high.flatten(2).transpose(1, 2), keys.flatten(1, 2))  # [B,N,K*P]
    best = similarity.unflatten(2, (keys.shape[1], -1)).amax(3).clamp(min=0)  # [B,N,K]
    real = valid.flatten(1)[..., None]  # [B,N,1]
    low = best.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    top = best.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    normalised = ((best - low) / (top - low + EPS)).masked_fill(~real, 0.0)
    return normalised.mean(2).view(batch, 1, height, width)
