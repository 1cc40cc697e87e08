"""Dataclasses of tensors that the network takes and returns; the batch is first in every field.

Shapes: B batch, K shots, U unlabeled images, C embed dim, c local dim, D channels of the high features, h w feature
size, N = h*w, T support tokens, P prior keys a shot, L size of the local prototype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from rifenet.models.backbones import Features

Images = Tensor | Features
"""Images [...,3,H,W], RGB in [0,1], or the backbone's features of them with the same leading dimensions."""

SomeTensors = TypeVar("SomeTensors", bound="Tensors")


@dataclass(frozen=True)
class Tensors:
    """Named tensors of one batch. A field of a part that the network lacks is None."""

    def named(self) -> dict[str, Tensor]:
        """The fields that are not None, by name, in their order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def map(self: SomeTensors, change: Callable[[Tensor], Tensor]) -> SomeTensors:
        """A copy with `change` applied to each tensor."""
        return replace(self, **{name: change(value) for name, value in self.named().items()})

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.named().values())


def joined(parts: Sequence[SomeTensors]) -> SomeTensors:
    """Shots that were encoded one by one, put together on the axis K, as if they had been encoded together.

    Each part holds V views of one shot. The views of a kind come one after the other, first those of the first kind.
    """
    named = [part.named() for part in parts]
    whole = {name: torch.stack([each[name] for each in named], 2).flatten(1, 2) for name in named[0]}
    return replace(parts[0], **whole)


@dataclass(frozen=True)
class Shots(Tensors):
    """What the network keeps of K annotated images; `RiFeNet.learn` makes a class of it, whatever else was encoded."""

    own: Tensor
    """Masked average of each image, [B,K,C]."""
    high: Tensor
    """High features, [B,K,D,h,w]."""
    foreground: Tensor
    """Soft mask, [B,K,h,w] in [0,1]."""
    void: Tensor
    """Ignored pixels and padding, [B,K,h,w] in [0,1]."""
    real: Tensor
    """Real positions, [B,K,h,w] bool."""
    merged: Tensor | None = None
    """After the interaction, [B,K,C,h,w]; None without cross-attention, which alone reads it."""


@dataclass(frozen=True)
class SupportContext(Tensors):
    """All that `decode` needs of a learned class."""

    prototype: Tensor
    """Global support prototype, [B,C]."""
    prior_keys: Tensor
    """Unit-length high features of the foreground, [B,K,P,D]."""
    prior_valid: Tensor
    """Which keys exist, [B,K,P] bool."""
    tokens: Tensor | None = None
    """[B,T,C]; None without cross-attention, the only part that reads tokens."""
    token_labels: Tensor | None = None
    """[B,T] bool, true for foreground."""
    token_valid: Tensor | None = None
    """[B,T] bool."""


@dataclass(frozen=True)
class QueryFeatures(Tensors):
    """All that `decode` needs of an image, whatever the class."""

    projected: Tensor
    """[B,C,h,w]."""
    high: Tensor
    """Unit length at each position, [B,D,h,w]."""
    valid: Tensor
    """[B,h,w] bool."""
    local: Tensor | None = None
    """Reduced low features, [B,c,h,w]; None without the local prototype."""


class Decoded(NamedTuple):
    """Logits [B,2,h,w] and the intermediate results that other branches and drawings of them need."""

    logits: Tensor
    activated: Tensor  # [B,C,h,w]
    features: Tensor  # what the head classifies, [B,C,h,w]
    local: Tensor | None  # local prototype, [B,L]
    prior: Tensor  # [B,1,h,w]


@dataclass
class RiFeNetOutput:
    """What `forward` returns; fields of branches that did not run are None."""

    logits: Tensor
    """Logits of the query, [B,2,h,w]."""
    prior: Tensor
    """Prior mask of the query, [B,1,h,w]."""
    aux_logits: Tensor | None = None
    """Logits of the supports, which the auxiliary head segments by the query's features, [B,K,2,h,w]."""
    weak_logits: Tensor | None = None
    """[B,U,2,h,w]."""
    strong_logits: Tensor | None = None
    """[B,U,2,h,w]."""
    unlabeled_valid: Tensor | None = None
    """[B,U,h,w] bool."""


def check_support(images: Images, support_masks: Tensor, valid: Tensor | None) -> None:
    """Raises ValueError if the shapes of supports, masks and valid masks do not fit each other."""
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
    """Raises ValueError if the shapes of queries and valid masks do not fit each other."""
    if isinstance(images, Features):
        return  # features do not tell the size of their images, so `valid` cannot be compared with it
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected query images as [B,3,H,W], but got {tuple(images.shape)}. Add the missing axis.")
    _check_valid("query", valid, images.shape[:1] + images.shape[2:])


def _check_valid(branch: str, valid: Tensor | None, shape: tuple[int, ...]) -> None:
    if valid is not None and valid.shape != shape:
        raise ValueError(
            f"Expected {branch}_valid as {tuple(shape)}, one for each pixel, but got {tuple(valid.shape)}."
        )


Query = TypeVar("Query", bound=Tensors)
Context = TypeVar("Context", bound=Tensors)


def match_batches(features: Query, context: Context) -> tuple[Query, Context]:
    """Expands a batch of 1 on either side to the other's. Raises ValueError if the batches do not fit."""
    queries, contexts = next(iter(features)).shape[0], next(iter(context)).shape[0]
    if queries == contexts:
        return features, context
    if 1 not in (queries, contexts):
        raise ValueError(
            f"Expected one context for all queries or one for each, but got {contexts} contexts for {queries} queries."
        )
    batch = max(queries, contexts)

    def expanded(field: Tensor) -> Tensor:
        return field.expand(batch, *field.shape[1:])

    return features.map(expanded), context.map(expanded)
