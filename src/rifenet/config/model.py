"""Options of a model: the paper's network, and what goes beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rifenet.config.checks import expect, one_of
from rifenet.config.network import NetworkConfig
from rifenet.config.options import about, about_option


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkConfig):
    """A model: the paper's network (`NetworkConfig`), and what goes beyond it."""

    kind: str = "rifenet"
    """rifenet, or prototype: the training-free baseline of protocols.md 5."""
    evidence: bool = False
    """Beyond the paper: a head that segments by the similarity of high features, which the network assists
    (rifenet.models.beyond.evidence); its logits are then the model's."""
    evidence_dim: int = 64
    """Channels of the evidence head, a multiple of 32."""
    max_evidence_keys: int = field(default=2205, metadata=about(test=True))
    """Cap on the evidence head's support positions over all shots."""
    assist_dropout: float = field(default=0.5, metadata=about(answers=False))
    """Training only: share of queries that the evidence head segments without the network's features."""
    fine: int = 0
    """Backbone stage, at its own resolution, by which the evidence head places edges; 0: the one of stride 4."""
    support_views: int = field(default=1, metadata=about(test=True))
    """Beyond the paper: views from which a class is learned (rifenet.models.beyond.support_views). 1: its photos as
    they are; 2: also mirrored; 4: also a closer look at the object, both ways. Training has no such views."""
    mask_threshold: float = field(default=0.5, metadata=about(test=True))
    """Beyond the paper: probability from which on a pixel is in the mask, in (0,1). No loss depends on it."""

    def __post_init__(self) -> None:
        one_of("model.kind", self.kind, ("rifenet", "prototype"))
        super().__post_init__()
        expect(
            self.evidence_dim > 0 and self.evidence_dim % 32 == 0,
            "model.evidence_dim",
            self.evidence_dim,
            "a positive multiple of 32",
        )
        expect(self.support_views in (1, 2, 4), "model.support_views", self.support_views, "1, 2 or 4")
        expect(0 < self.mask_threshold < 1, "model.mask_threshold", self.mask_threshold, "between 0 and 1")
        expect(self.fine >= 0, "model.fine", self.fine, "0 or a stage")
        expect(self.max_evidence_keys >= 2, "model.max_evidence_keys", self.max_evidence_keys, "at least 2")
        expect(0 <= self.assist_dropout < 1, "model.assist_dropout", self.assist_dropout, "a probability in [0,1)")


TEST_OPTIONS = tuple(option.name for option in dataclasses.fields(ModelConfig) if about_option(option).test)
"""Options that no weight depends on, and that a trained model may have otherwise: how much is learned of a class, and
from which probability on a pixel is in its mask."""


def with_test_options(config: ModelConfig, settings: Iterable[str]) -> ModelConfig:
    """`config` with `TEST_OPTIONS` as `settings` say, each `NAME=VALUE`.

    Raises ValueError for another name, or for a value that the field does not take.
    """
    kinds = {name: type(getattr(config, name)) for name in TEST_OPTIONS}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = kinds[name](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected NAME=VALUE with a number and one of {', '.join(TEST_OPTIONS)} (whole numbers, but for "
                f"mask_threshold), but got {setting!r}."
            ) from None
    return replace(config, **values)
