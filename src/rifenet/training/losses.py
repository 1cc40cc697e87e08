"""Losses of method.md 10, outside the model: logits and targets in, named scalars out.

Shapes: B batch, K shots, U unlabeled images, H W image size, h w feature size.

    L = L_query + w_aux * L_aux + beta * L_self

and, where the evidence head is on (beyond the paper), `+ L_evidence + L_crossed`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rifenet import IGNORE

EPS = 1e-7


def dice(probability: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Dice loss `1 - 2*sum(p*t) / (sum(p^2) + sum(t^2))`, summed over the channels, mean over the batch.

    Args:
        probability: [B,2,H,W] in [0,1], channels background and foreground.
        target: the same shape, in [0,1].
        weight: [B,H,W] of 0 and 1; a position of weight 0 is in no sum.

    Returns:
        A scalar in [0,2].
    """
    weight = weight[:, None]
    probability, target = probability * weight, target * weight
    overlap = (probability * target).sum((2, 3))
    size = probability.square().sum((2, 3)) + target.square().sum((2, 3))
    return (1 - 2 * overlap / (size + EPS)).sum(1).mean()


def mask_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """Dice of logits [B,2,H,W] against masks [B,H,W] (1 foreground, 0 background, 255 in no sum)."""
    target = torch.stack([mask == 0, mask == 1], 1).to(logits.dtype)
    return dice(logits.sigmoid(), target, (mask != IGNORE).to(logits.dtype))


def pseudo_label(logits: Tensor, *, hard: bool, confidence: float) -> tuple[Tensor, Tensor]:
    """Detached pseudo-label of logits [B,2,h,w]: target [B,2,h,w] in [0,1] and weight [B,h,w] of 0 and 1.

    The label is the sigmoid probability (method.md 12, row 3); `hard` takes the larger channel as 1 and the other as 0;
    positions whose larger probability is below `confidence` weigh 0.
    """
    probability = logits.detach().sigmoid()
    weight = (probability.amax(1) >= confidence).to(logits.dtype)
    if hard:
        foreground = probability[:, 1] > probability[:, 0]
        probability = torch.stack([~foreground, foreground], 1).to(logits.dtype)
    return probability, weight


def consistency(
    weak: Tensor, strong: Tensor, valid: Tensor, *, mutual: bool = False, hard: bool = False, confidence: float = 0.0
) -> Tensor:
    """Self-supervised loss of the unlabeled branch: the strong view must agree with the weak view's pseudo-label.

    Args:
        weak: logits of the weak views, [B,U,2,h,w].
        strong: logits of the strong views, [B,U,2,h,w].
        valid: real positions, [B,U,h,w] bool.
        mutual: mean of both directions, each target detached. False: only the weak view teaches.
        hard: see `pseudo_label`.
        confidence: see `pseudo_label`.
    """
    weak, strong, real = weak.flatten(0, 1), strong.flatten(0, 1), valid.flatten(0, 1).to(strong.dtype)

    def teach(student: Tensor, teacher: Tensor) -> Tensor:
        target, weight = pseudo_label(teacher, hard=hard, confidence=confidence)
        return dice(student.sigmoid(), target, weight * real)

    if mutual:
        return (teach(strong, weak) + teach(weak, strong)) / 2
    return teach(strong, weak)


def mask_evidence(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy plus Dice of the foreground alone, for masks that may show no foreground at all.

    Args:
        logits: [B,2,H,W]; the foreground's probability is the softmax of the two.
        mask: [B,H,W], 1 foreground, 0 background, 255 in no sum.

    Returns:
        A scalar, the mean over images of two terms: the mean cross-entropy over an image's pixels, plus
        `1 - (2*sum(p*t) + 1) / (sum(p^2) + sum(t^2) + 1)`. Without foreground, the second is 0 for p = 0 only.
    """
    weight, target = (mask != IGNORE).to(logits.dtype), (mask == 1).to(logits.dtype)
    difference = logits[:, 1] - logits[:, 0]
    entropy = F.binary_cross_entropy_with_logits(difference, target, weight, reduction="none").sum((1, 2))
    probability = difference.sigmoid() * weight
    overlap = (probability * target).sum((1, 2))
    size = probability.square().sum((1, 2)) + target.sum((1, 2))
    return (entropy / weight.sum((1, 2)).clamp(min=1) + 1 - (2 * overlap + 1) / (size + 1)).mean()


def total(terms: dict[str, Tensor], w_aux: float, beta: float) -> Tensor:
    """Sum of the terms present: L_query + w_aux * L_aux + beta * L_self, and any others as they are."""
    weights = {"aux": w_aux, "self": beta}
    return torch.stack([weights.get(name, 1.0) * value for name, value in terms.items()]).sum()
