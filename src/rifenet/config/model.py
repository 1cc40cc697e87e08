"""Options of a model: the paper's network, and our additions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rifenet.config.checks import expect, one_of
from rifenet.config.network import NetworkConfig
from rifenet.config.options import about, about_option

RIVALS = ("pfenet", "hsnet", "cyctr")
"""Kinds of model that are heads of other papers."""
ANY_BACKBONE = "any_backbone"
"""The kind of model whose weights fit every backbone."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkConfig):
    """The model: the paper's network, and additions beyond the paper."""

    kind: str = "rifenet"
    """rifenet (the network), prototype (a baseline without training), or a head of another paper, to compare with:
    pfenet, hsnet or cyctr. Beyond the paper, any_backbone: a head that sees centred and scaled similarities of any
    number of stages (model.high), so that its weights fit every backbone. All but rifenet have no unlabeled branch."""
    evidence: bool = False
    """Beyond the paper: let the evidence head predict the mask. It compares the high features of query and support;
    the paper's network only assists it."""
    evidence_dim: int = 64
    """Beyond the paper: channels of the evidence head, a multiple of 32."""
    max_evidence_keys: int = field(default=2205, metadata=about(test=True))
    """Beyond the paper: most support positions, over all shots, that the evidence head compares with the query."""
    assist_dropout: float = field(default=0.5, metadata=about(answers=False))
    """Beyond the paper, training only: share of queries that the evidence head segments without help from the paper's
    network."""
    fine: int = 0
    """Beyond the paper: backbone stage whose features, at their own resolution, help the evidence head place edges; 0:
    the stage of stride 4."""
    support_views: int = field(default=1, metadata=about(test=True))
    """Beyond the paper: views of each support photo when a trained model learns a class. 1: the photo; 2: also its
    mirror image, or with support_closer a mirrored close-up of the object; 4: photo and close-up, each both ways."""
    support_closer: bool = field(default=False, metadata=about(test=True))
    """Beyond the paper: with support_views 2, the second view is a mirrored close-up of the object."""
    mask_threshold: float = field(default=0.5, metadata=about(test=True))
    """Beyond the paper: a pixel is in the mask from this probability on (between 0 and 1). No loss depends on it."""

    def __post_init__(self) -> None:
        one_of("model.kind", self.kind, ("rifenet", "prototype", ANY_BACKBONE, *RIVALS))
        super().__post_init__()
        expect(
            self.evidence_dim > 0 and self.evidence_dim % 32 == 0,
            "model.evidence_dim",
            self.evidence_dim,
            "a positive multiple of 32",
        )
        if self.kind in RIVALS and (self.evidence or self.support_views > 1 or self.head):
            raise ValueError(
                f"Expected model.kind {self.kind} as its paper has it, but model.evidence, model.support_views or"
                " model.head changes it. Leave them at their defaults."
            )
        if self.head and self.kind != "rifenet":
            raise ValueError(
                f"Expected model.head with model.kind rifenet only, but got {self.head} with {self.kind}. Leave it out."
            )
        if self.kind == ANY_BACKBONE and (self.evidence or self.fine):
            raise ValueError(
                "Expected model.kind any_backbone without model.evidence and model.fine, since its head takes the "
                "place of the evidence head and reads edges from the photo. Leave them at their defaults."
            )
        expect(self.support_views in (1, 2, 4), "model.support_views", self.support_views, "1, 2 or 4")
        if self.support_closer and self.support_views != 2:
            raise ValueError(
                "Expected model.support_views 2 with model.support_closer, which says what the second view is, but got "
                f"{self.support_views}. Set support_views to 2 or support_closer to false, also where a trained model's"
                " file has it on; 4 views have close-ups anyway."
            )
        expect(0 < self.mask_threshold < 1, "model.mask_threshold", self.mask_threshold, "between 0 and 1")
        expect(self.fine >= 0, "model.fine", self.fine, "0 or a stage")
        expect(self.max_evidence_keys >= 2, "model.max_evidence_keys", self.max_evidence_keys, "at least 2")
        expect(0 <= self.assist_dropout < 1, "model.assist_dropout", self.assist_dropout, "a probability in [0,1)")

    def with_one_view(self) -> ModelConfig:
        """The same, but a class is learned from its photos as they are."""
        return replace(self, support_views=1, support_closer=False)


TEST_OPTIONS = tuple(option.name for option in dataclasses.fields(ModelConfig) if about_option(option).test)
"""Options that no weight depends on, so a trained model may run with other values: the number of support tokens and
keys, the views of a support, and the mask threshold."""


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def with_test_options(config: ModelConfig, settings: Iterable[str]) -> ModelConfig:
    """`config` changed by `settings`, each `NAME=VALUE` with a name of `TEST_OPTIONS`.

    Raises ValueError for another name and for a value that the option does not accept.
    """
    kinds = {name: type(getattr(config, name)) for name in TEST_OPTIONS}
    readers = {name: _switch if kind is bool else kind for name, kind in kinds.items()}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = readers[name](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected NAME=VALUE, with a name among {', '.join(TEST_OPTIONS)} and a number (whole, except for "
                f"mask_threshold; true or false for support_closer), but got {setting!r}."
            ) from None
    return replace(config, **values)
