"""What the network passes around: named tuples of tensors, batch first in every field.

Shapes: B batch, K shots, U unlabeled images, C embed dim, c local dim, D channels of the high features, h w feature
size, N = h*w, T support tokens, P prior keys a shot, L size of the local prototype, E keys of the evidence head.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rifenet.models.backbones import Features
from rifenet.models.beyond.evidence import EvidenceLogits

Images = Tensor | Features
"""Images [...,3,H,W], RGB in [0,1], or the backbone's features of them with the same leading dimensions."""


class SupportContext(NamedTuple):
    """All that `decode` needs of a learned class; every field has the batch first."""

    prototype: Tensor  # global support prototype, [B,C]
    tokens: Tensor  # [B,T,C]
    token_labels: Tensor  # [B,T] bool, true for foreground
    token_valid: Tensor  # [B,T] bool
    prior_keys: Tensor  # unit-length high features of the foreground, [B,K,P,D]
    prior_valid: Tensor  # [B,K,P] bool
    # Of the evidence head (`EvidenceKeys`); without one all three are empty.
    evidence_keys: Tensor  # [B,E,D]
    evidence_weights: Tensor  # [B,2,E]
    evidence_means: Tensor  # [B,2,D]


class QueryFeatures(NamedTuple):
    """All that `decode` needs of an image, whatever the class."""

    local: Tensor  # reduced low features, [B,c,h,w]; [B,0,h,w] without the local prototype
    projected: Tensor  # [B,C,h,w]
    high: Tensor  # unit length, [B,D,h,w]
    fine: Tensor  # fine features, [B,F,f,g]; F = 0 without the evidence head
    affinity: Tensor  # of its positions (`EvidenceHead.affinity`), [B,1,N,N]; N = 0 without the evidence head
    valid: Tensor  # [B,h,w] bool


class Decoded(NamedTuple):
    """Logits [B,2,h,w] and what other branches and pictures take from the way there."""

    logits: Tensor
    activated: Tensor  # [B,C,h,w]
    features: Tensor  # what the head classifies, [B,C,h,w]
    local: Tensor | None  # local prototype, [B,L]
    prior: Tensor  # [B,1,h,w]


class RiFeNetOutput(NamedTuple):
    """What `forward` returns, always; None for what was not asked for."""

    logits: Tensor  # query, [B,2,h,w]
    prior: Tensor  # [B,1,h,w]
    aux_logits: Tensor | None = None  # supports segmented by the query, [B,K,2,h,w]
    weak_logits: Tensor | None = None  # [B,U,2,h,w]
    strong_logits: Tensor | None = None  # [B,U,2,h,w]
    unlabeled_valid: Tensor | None = None  # [B,U,h,w] bool
    evidence: EvidenceLogits | None = None  # of the evidence head, for the query
    crossed: EvidenceLogits | None = None  # the same, of the first queries with the next episode's class


def check_support(images: Images, support_masks: Tensor, valid: Tensor | None) -> None:
    """Raises ValueError where supports and masks do not belong together (public entry of a model)."""
    shape = images.mid.shape[:2] if isinstance(images, Features) else images.shape[:2]
    if isinstance(images, Tensor) and (images.dim() != 5 or images.shape[2] != 3):
        raise ValueError(
            f"Expected support images as [B,K,3,H,W], but got {tuple(images.shape)}. Add the missing axis."
        )
    if support_masks.dim() != 4 or support_masks.shape[:2] != shape:
        raise ValueError(
            f"Expected support masks as [B,K,H,W] with B,K = {tuple(shape)}, but got {tuple(support_masks.shape)}."
        )
    if isinstance(images, Tensor) and images.shape[-2:] != support_masks.shape[-2:]:
        raise ValueError(
            f"Expected support masks of the images' size {tuple(images.shape[-2:])}, "
            f"but got {tuple(support_masks.shape[-2:])}. Resize the masks with nearest neighbour."
        )
    _check_valid("support", valid, support_masks.shape)


def check_query(images: Images, valid: Tensor | None) -> None:
    """Raises ValueError where a query and its valid mask do not belong together (public entry of a model)."""
    if isinstance(images, Features):
        return  # their image size is not known here
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected query images as [B,3,H,W], but got {tuple(images.shape)}. Add the missing axis.")
    _check_valid("query", valid, images.shape[:1] + images.shape[2:])


def _check_valid(branch: str, valid: Tensor | None, shape: tuple[int, ...]) -> None:
    if valid is not None and valid.shape != shape:
        raise ValueError(
            f"Expected {branch}_valid as {tuple(shape)}, one for each pixel, but got {tuple(valid.shape)}."
        )


def match_batches(features: QueryFeatures, context: SupportContext) -> tuple[QueryFeatures, SupportContext]:
    """Expands a batch of 1 on either side to the other's. Raises ValueError where the batches do not fit."""
    queries, contexts = features.projected.shape[0], context.prototype.shape[0]
    if queries == contexts:
        return features, context
    if 1 not in (queries, contexts):
        raise ValueError(
            f"Expected one context for all queries or one for each, but got {contexts} contexts for {queries} queries."
        )
    batch = max(queries, contexts)
    return (
        QueryFeatures(*(field.expand(batch, *field.shape[1:]) for field in features)),
        SupportContext(*(field.expand(batch, *field.shape[1:]) for field in context)),
    )
