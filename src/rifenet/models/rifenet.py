"""RiFeNet: three branches over one frozen backbone (paper, method; method.md 2-9).

Shapes: B batch, K shots, U unlabeled images, C embed dim, H W image size, h w feature size, N = h*w, T support tokens.

    support images, masks --encode_support--> SupportContext
    query images          --encode_query----> QueryFeatures
    QueryFeatures + SupportContext --decode--> logits [B,2,h,w]

The query, the weak and the strong unlabeled view all go through the same decode; the unlabeled branch adds no parameter
and exists only in a call of `forward` that is given unlabeled images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.config import ModelConfig
from rifenet.models import masks
from rifenet.models.activation import FeatureActivation
from rifenet.models.auxiliary import AuxiliarySupportHead
from rifenet.models.backbones import Backbone, Features
from rifenet.models.beyond.evidence import EvidenceHead, EvidenceKeys, EvidenceLogits, support_keys
from rifenet.models.beyond.support_views import viewed_features
from rifenet.models.head import Head, Residual, from_threshold, projection
from rifenet.models.interaction import QueryInteraction, SupportInteraction
from rifenet.models.prior import choose_keys, prior_mask
from rifenet.models.prototypes import LocalPrototype, masked_average
from rifenet.models.structures import (
    Decoded,
    Images,
    QueryFeatures,
    RiFeNetOutput,
    SupportContext,
    check_query,
    check_support,
    match_batches,
)

ACTIVATION_OPTIONS = (
    *("heads", "points", "ffn_ratio", "self_attention", "cross_attention", "cycle"),
    *("dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"),
)


class RiFeNet(nn.Module):
    """The network around a frozen backbone. Build it with `rifenet.models.build_model`."""

    metadata: dict[str, Any]
    """What the model's file says of it; set by `load_model`."""
    hash: str
    """Hash of the file's weights; set by `load_model`."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        dim = config.embed_dim
        self.support_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.query_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.local_prototype = None
        if config.use_local:
            self.local_prototype = LocalPrototype(
                backbone.low_channels, config.local_dim, config.local_grid, config.local_refine, config.proj_dropout
            )
        # Without cross-attention nothing reads support tokens, and there are none.
        self.support_interaction = SupportInteraction(dim) if config.cross_attention and config.layers else None
        local_size = self.local_prototype.size if self.local_prototype else 0
        self.query_interaction = QueryInteraction(dim, dim if config.use_global else 0, local_size)
        options = {name: getattr(config, name) for name in ACTIVATION_OPTIONS}
        self.activation = FeatureActivation(dim, config.layers, **options)
        self.activated_projection = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.ReLU(inplace=True))
        self.residual = Residual(dim)
        self.head = Head(dim, config.head_dropout)
        self.auxiliary = AuxiliarySupportHead(dim, config.head_dropout) if config.aux else None
        self.evidence = None
        if config.evidence:
            channels = backbone.high_stage_channels, dim, backbone.fine_channels
            self.evidence = EvidenceHead(*channels, dim=config.evidence_dim, assist_dropout=config.assist_dropout)

    def encode_support(
        self, support_images: Images, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> SupportContext:
        """Learns a class from K annotated images; the order of the shots does not matter.

        Args:
            support_images: [B,K,3,H,W] RGB in [0,1], or their `Features`.
            support_masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
            support_valid: real pixels [B,K,H,W] bool; None: all.

        Raises ValueError for shapes that do not fit.
        """
        check_support(support_images, support_masks, support_valid)
        shots = support_images, support_masks, support_valid
        return self._support(*viewed_features(self._encode, *shots, self.config.support_views))[0]

    def encode_query(self, query_images: Images, query_valid: Tensor | None = None) -> QueryFeatures:
        """Encodes images [B,3,H,W] (RGB in [0,1], or their `Features`), once for any number of classes.

        `query_valid` [B,H,W] bool marks real pixels; None: all. Raises ValueError for shapes that do not fit.
        """
        check_query(query_images, query_valid)
        features = query_images if isinstance(query_images, Features) else self._encode(query_images)
        return self._query(features, query_valid)

    def decode(self, features: QueryFeatures, context: SupportContext) -> Tensor:
        """Segments: logits [B,2,h,w] (background, foreground), or [B,2,f,g] of the evidence head where there is one.

        One context may meet many queries and one query many contexts: a batch of 1 on either side is expanded.
        """
        decoded = self.decode_all(features, context)
        logits = decoded.logits if self.evidence is None else self._evidence(features, context, decoded).fine
        return from_threshold(logits, self.config.mask_threshold)

    def decode_all(self, features: QueryFeatures, context: SupportContext, guide: Tensor | None = None) -> Decoded:
        """`decode` with the prior, the local prototype and the activated features.

        `guide` [B,L] takes the place of the query's own local prototype (method.md 7, unlabeled branch).
        """
        features, context = match_batches(features, context)
        prior = prior_mask(features.high, features.valid, context.prior_keys, context.prior_valid)
        prior = prior.to(features.projected.dtype)
        constants = [context.prototype] if self.config.use_global else []
        local = guide
        if self.local_prototype is not None:
            if local is None:
                local = self.local_prototype(features.local, prior, features.valid)
            constants.append(local)
        merged = self.query_interaction(features.projected, prior, constants)
        activated = self.activation(merged, features.valid, context.tokens, context.token_valid, context.token_labels)
        last = self.residual(self.activated_projection(activated))
        return Decoded(self.head(last), activated, last, local, prior)

    def _evidence(self, features: QueryFeatures, context: SupportContext, decoded: Decoded) -> EvidenceLogits:
        assert self.evidence is not None
        features, context = match_batches(features, context)
        keys = EvidenceKeys(context.evidence_keys, context.evidence_weights, context.evidence_means)
        affinity = features.affinity if features.affinity.shape[-1] else None  # graphs for export compute it here
        maps = features.high, features.valid, features.fine
        logits: EvidenceLogits = self.evidence(*maps, keys, decoded.features, affinity)
        return logits

    def forward(
        self,
        support_images: Images,
        support_masks: Tensor,
        query_images: Images,
        *,
        support_valid: Tensor | None = None,
        query_valid: Tensor | None = None,
        query_masks: Tensor | None = None,
        unlabeled_weak: Images | None = None,
        unlabeled_strong: Images | None = None,
        unlabeled_valid: Tensor | None = None,
        mutual: bool = False,
        crossed: int = 0,
    ) -> RiFeNetOutput:
        """All branches; every image goes through the backbone in one batch, without graph.

        Args:
            support_images: [B,K,3,H,W], or their `Features`.
            support_masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
            query_images: [B,3,H,W], or their `Features`.
            support_valid: [B,K,H,W] bool. None: all pixels are real; so for the others.
            query_valid: [B,H,W] bool.
            query_masks: [B,H,W]; given in training, the auxiliary head segments the supports by it.
            unlabeled_weak: [B,U,3,H,W], or `Features`; without it there is no unlabeled branch.
            unlabeled_strong: the strong views, in the same order.
            unlabeled_valid: [B,U,H,W] bool, for both views.
            mutual: keep a graph through the weak view too (method.md 12, row 2).
            crossed: so many first queries are also segmented by the evidence head for the next episode's class, which
                they may not show.
        """
        check_support(support_images, support_masks, support_valid)
        check_query(query_images, query_valid)
        images = [support_images, query_images]
        if unlabeled_weak is not None:
            assert unlabeled_strong is not None, "unlabeled images come in pairs of a weak and a strong view"
            images += [unlabeled_weak, unlabeled_strong]
        features = self._extract(images)
        context, projected = self._support(features[0], support_masks, support_valid)
        query = self._query(features[1], query_valid)
        decoded = self.decode_all(query, context)
        output = RiFeNetOutput(decoded.logits, decoded.prior)
        if self.evidence is not None:
            output = output._replace(evidence=self._evidence(query, context, decoded))
            if crossed:
                shown = QueryFeatures(*(field[:crossed] for field in query))
                others = SupportContext(*(field.roll(-1, 0)[:crossed] for field in context))
                output = output._replace(crossed=self._evidence(shown, others, self.decode_all(shown, others)))
        if query_masks is not None and self.auxiliary is not None:
            weight = masks.soft_masks(
                query_masks[:, None],
                None if query_valid is None else query_valid[:, None],
                (query.valid.shape[1], query.valid.shape[2]),
            ).foreground
            output = output._replace(
                aux_logits=self.auxiliary(decoded.activated, query.projected, weight[:, 0], projected)
            )
        if unlabeled_weak is not None:
            output = self._unlabeled(output, features[2], features[3], unlabeled_valid, context, decoded.local, mutual)
        return output

    def _unlabeled(
        self,
        output: RiFeNetOutput,
        weak: Features,
        strong: Features,
        valid: Tensor | None,
        context: SupportContext,
        query_local: Tensor | None,
        mutual: bool,
    ) -> RiFeNetOutput:
        """Both views through the query's path, guided as `config.guide` says (method.md 7)."""
        batch, count = weak.mid.shape[:2]
        context = SupportContext(*(field.repeat_interleave(count, 0) for field in context))
        guide = None
        if query_local is not None and self.config.guide != "self":
            guide = query_local.repeat_interleave(count, 0)
            guide = guide if self.config.guide == "query" else torch.zeros_like(guide)
        flat_valid = None if valid is None else valid.flatten(0, 1)

        def decode(view: Features) -> tuple[Tensor, Tensor]:
            features = self._query(Features(*(level.flatten(0, 1) for level in view)), flat_valid, evidence=False)
            logits = self.decode_all(features, context, guide).logits
            return logits.unflatten(0, (batch, count)), features.valid.unflatten(0, (batch, count))

        with torch.set_grad_enabled(mutual and torch.is_grad_enabled()):
            weak_logits, grid_valid = decode(weak)
        strong_logits, _ = decode(strong)
        return output._replace(weak_logits=weak_logits, strong_logits=strong_logits, unlabeled_valid=grid_valid)

    def _encode(self, images: Tensor) -> Features:
        return self._extract([images])[0]

    def _extract(self, images: list[Images]) -> list[Features]:
        """Features of each group of images, leading dimensions kept; all images in one pass of the backbone."""
        if all(isinstance(group, Features) for group in images):
            return [group for group in images if isinstance(group, Features)]
        groups = [group for group in images if isinstance(group, Tensor)]
        assert len(groups) == len(images), "either all groups are images or all are features"
        flat = [group.flatten(0, -4) for group in groups]
        features = self.backbone(torch.cat(flat) if len(flat) > 1 else flat[0])
        split = [level.split([len(group) for group in flat]) for level in features]
        return [
            Features(*(level[i].unflatten(0, group.shape[:-3]) for level in split)) for i, group in enumerate(groups)
        ]

    def _query(self, features: Features, valid: Tensor | None, evidence: bool = True) -> QueryFeatures:
        batch, _, height, width = features.mid.shape
        on_grid = _grid_valid(valid, (batch, height, width), features.mid.device)
        reduced = features.low[:, :0] if self.local_prototype is None else self.local_prototype.reduce(features.low)
        high, affinity = F.normalize(features.high.float(), dim=1), on_grid[:, None, :0, :0].float()
        if self.evidence is not None and evidence:
            affinity = self.evidence.affinity(high, on_grid)
        return QueryFeatures(reduced, self.query_projection(features.mid), high, features.fine, affinity, on_grid)

    def _support(
        self, features: Features, support_masks: Tensor, valid: Tensor | None
    ) -> tuple[SupportContext, Tensor]:
        """The context, and the raw projected features [B,K,C,h,w] for the auxiliary head."""
        batch, shots, _, height, width = features.mid.shape
        soft = masks.soft_masks(support_masks, valid, (height, width))
        on_grid = _grid_valid(valid, (batch, shots, height, width), support_masks.device)
        projected = self.support_projection(features.mid.flatten(0, 1)).unflatten(0, (batch, shots))
        own = masked_average(projected, soft.foreground)  # [B,K,C]
        cap = torch.sym_max(self.config.max_prior_keys // shots, 1)
        keys, keys_valid = choose_keys(features.high, soft.foreground > 0, cap)
        evidence = EvidenceKeys(*[own[:, :0]] * 3)
        if self.evidence is not None:
            evidence = support_keys(features.high, soft, self.evidence.channels, self.config.max_evidence_keys)
        tokens, labels, tokens_valid = self._tokens(projected, own, masks.token_labels(soft, on_grid))
        context = SupportContext(own.mean(1), tokens, labels, tokens_valid, keys, keys_valid, *evidence)
        return context, projected

    def _tokens(self, projected: Tensor, own: Tensor, labels: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Support tokens [B,T,C], which are foreground and which exist, both [B,T] bool."""
        batch, shots = own.shape[:2]
        if self.support_interaction is None:
            none = labels[0].flatten(1)[:, :0]
            return own[:, :0], none, none
        merged = self.support_interaction(projected.flatten(0, 1), own.flatten(0, 1)).unflatten(0, (batch, shots))
        flat = merged.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B,K*N,C]
        foreground, background = labels[0].flatten(1), labels[1].flatten(1)
        slots = masks.choose_tokens(
            foreground,
            background,
            torch.sym_min(2 * self.config.tokens_per_label * shots, self.config.max_support_tokens),
            spread=masks.TRAINING_SPREAD[shots > 1] if self.training and self.config.random_tokens else None,
        )
        return masks.gather_positions(flat, slots.positions), foreground.gather(1, slots.positions), slots.valid


def _grid_valid(valid: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if valid is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return masks.valid_on_grid(valid, (shape[-2], shape[-1]))
