"""RiFeNet with the evidence head (beyond the paper): the network's features assist a head that sees similarities only.

Shapes: B batch, C embed dim, D channels of the high features, E keys of the evidence head, F channels of the fine
features, h w feature size, N = h*w, f g size of the fine features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rifenet.config import ModelConfig
from rifenet.models.backbones import Backbone, Features
from rifenet.models.beyond.evidence import EvidenceHead, EvidenceKeys, EvidenceLogits, support_keys
from rifenet.models.beyond.support_views import ViewedRiFeNet
from rifenet.models.masks import SoftMasks
from rifenet.models.structures import Decoded, QueryFeatures, RiFeNetOutput, Shots, SupportContext, match_batches


@dataclass(frozen=True, kw_only=True)
class EvidenceContext(SupportContext):
    """RiFeNet's `SupportContext` and the fields of `EvidenceKeys`."""

    evidence_keys: Tensor
    """[B,E,D]."""
    evidence_weights: Tensor
    """[B,2,E]."""
    evidence_means: Tensor
    """[B,2,D]."""


@dataclass(frozen=True, kw_only=True)
class EvidenceFeatures(QueryFeatures):
    """RiFeNet's `QueryFeatures` and the inputs of the evidence head."""

    fine: Tensor
    """Fine features, [B,F,f,g]."""
    affinity: Tensor | None = None
    """Cosines between its positions (`EvidenceHead.affinity`), [B,1,N,N]; None lets `decode` compute them."""


@dataclass
class EvidenceOutput(RiFeNetOutput):
    """What `forward` returns; fields of branches that did not run are None."""

    evidence: EvidenceLogits | None = None
    """Logits of the evidence head for the query."""
    crossed: EvidenceLogits | None = None
    """Logits of the evidence head for the first queries and the next episode's class."""


class EvidenceNetwork(ViewedRiFeNet):
    """RiFeNet whose evidence head gives the logits. Build it with `build_model(evidence=True)`."""

    context_type = EvidenceContext
    features_type = EvidenceFeatures

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        channels = backbone.high_stage_channels, config.embed_dim, backbone.fine_channels
        self.evidence = EvidenceHead(*channels, dim=config.evidence_dim, assist_dropout=config.assist_dropout)

    def decode(self, features: QueryFeatures, context: SupportContext) -> Tensor:
        """Segments: logits [B,2,f,g] (background, foreground) of the evidence head; see `RiFeNet.decode`."""
        return self._evidence(features, context, self.decode_all(features, context)).fine

    def _output(
        self, query: QueryFeatures, context: SupportContext, decoded: Decoded, crossed: int = 0
    ) -> EvidenceOutput:
        """The output of `forward` for the query, with the evidence head's logits.

        `crossed` is an argument of `forward`. The head also segments the first `crossed` queries for the next episode's
        class, which they may not show.
        """
        output = EvidenceOutput(decoded.logits, decoded.prior, evidence=self._evidence(query, context, decoded))
        if crossed:
            shown = query.map(lambda field: field[:crossed])
            others = context.map(lambda field: field.roll(-1, 0)[:crossed])
            output.crossed = self._evidence(shown, others, self.decode_all(shown, others))
        return output

    def _evidence(self, features: QueryFeatures, context: SupportContext, decoded: Decoded) -> EvidenceLogits:
        features, context = match_batches(features, context)
        assert isinstance(features, EvidenceFeatures)
        assert isinstance(context, EvidenceContext)
        keys = EvidenceKeys(context.evidence_keys, context.evidence_weights, context.evidence_means)
        maps = features.high, features.valid, features.fine
        logits: EvidenceLogits = self.evidence(*maps, keys, decoded.features, features.affinity)
        return logits

    def _query(self, features: Features, valid: Tensor | None, *, affinity: bool = True) -> EvidenceFeatures:
        query = super()._query(features, valid)
        cosines = self.evidence.affinity(query.high, query.valid) if affinity else None
        return EvidenceFeatures(**vars(query), fine=features.fine, affinity=cosines)

    def learn(self, shots: Shots) -> EvidenceContext:
        """The context of the class that `shots` show."""
        context = super().learn(shots)
        soft = SoftMasks(shots.foreground, shots.void)
        keys = support_keys(shots.high, soft, self.evidence.channels, self.config.max_evidence_keys)
        return EvidenceContext(**vars(context), **{f"evidence_{name}": field for name, field in keys._asdict().items()})
