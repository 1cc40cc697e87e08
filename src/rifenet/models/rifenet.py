"""RiFeNet: three branches over one frozen backbone (paper, method; method.md 2-9).

Shapes: B batch, K shots, U unlabeled images, C embed dim, H W image size, h w feature size, N = h*w, T support tokens.

    support images, masks --encode_support--> SupportContext   (encode_shots, then learn)
    query images          --encode_query----> QueryFeatures
    QueryFeatures + SupportContext --decode--> logits [B,2,h,w]

The query, the weak and the strong unlabeled view all go through the same decode. An unlabeled view is decoded with
the local prototype of the labeled query, its guide. The weak view's logits become the pseudo-label of the strong view,
so by default they carry no gradient. The unlabeled branch adds no parameter. It runs if `forward` gets unlabeled
images.

A position or pixel is *real* if it lies in the image, and not in the padding around it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rifenet.config import NetworkConfig
from rifenet.models.activation import FeatureActivation
from rifenet.models.auxiliary import AuxiliarySupportHead
from rifenet.models.backbones import Backbone, Features
from rifenet.models.head import Head, Residual, projection
from rifenet.models.interaction import QueryInteraction, SupportInteraction
from rifenet.models.masks import SoftMasks, real_positions, soft_masks, support_tokens
from rifenet.models.prior import choose_keys, prior_mask
from rifenet.models.prototypes import LocalPrototype, masked_average
from rifenet.models.structures import (
    Decoded,
    EncodedShots,
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
    """Metadata of the model's file; set by `load_model`."""
    hash: str
    """Identifies the model: its tensors, the options that change its answers, its calibration. Set by `load_model`."""
    weights_hash: str
    """Hash of the file's tensors alone; set by `load_model`."""
    trained_over: str  # hash of the backbone of its training; `load_model` sets it where the file holds a rounded copy
    context_type: type[SupportContext] = SupportContext
    features_type: type[QueryFeatures] = QueryFeatures

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config: Any = config
        self.backbone = backbone
        dim = config.embed_dim
        self.support_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.query_projection = projection(backbone.mid_channels, dim, config.proj_dropout)
        self.local_prototype = None
        if config.use_local:
            self.local_prototype = LocalPrototype(
                backbone.low_channels, config.local_dim, config.local_grid, config.local_refine, config.proj_dropout
            )
        # Only cross-attention reads support tokens: without it, or without layers, there are none.
        self.support_interaction = SupportInteraction(dim) if config.cross_attention and config.layers else None
        local_size = self.local_prototype.size if self.local_prototype else 0
        self.query_interaction = QueryInteraction(dim, dim if config.use_global else 0, local_size)
        options = {name: getattr(config, name) for name in ACTIVATION_OPTIONS}
        self.activation = FeatureActivation(dim, config.layers, **options)
        self.activated_projection = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.ReLU(inplace=True))
        self.residual = Residual(dim)
        self.head: nn.Module = Head(dim, config.head_dropout)
        self.auxiliary = AuxiliarySupportHead(dim, config.head_dropout) if config.aux else None

    def encode_support(
        self, support_images: Images, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> SupportContext:
        """Learns a class from K annotated images.

        The order of the shots only matters where a cap (`max_support_tokens`) makes the choice of positions.

        Args:
            support_images: [B,K,3,H,W] RGB in [0,1], or their `Features`.
            support_masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
            support_valid: real pixels [B,K,H,W] bool; None: all.

        Raises ValueError for shapes that do not fit.
        """
        return self.learn(self.encode_shots(support_images, support_masks, support_valid))

    def encode_shots(
        self, support_images: Images, support_masks: Tensor, support_valid: Tensor | None = None
    ) -> EncodedShots:
        """The costly part of `encode_support`, with its arguments. No shot depends on the others.

        So shots may be encoded one by one, joined and learned from: that equals `encode_support`, up to rounding.
        """
        check_support(support_images, support_masks, support_valid)
        return self._shots(self._encode(support_images), support_masks, support_valid)[0]

    def learn(self, shots: EncodedShots) -> SupportContext:
        """The context of the class that `shots` show."""
        count = shots.own.shape[1]
        cap = torch.sym_max(self.config.max_prior_keys // count, 1)
        keys, keys_valid = choose_keys(shots.high, shots.foreground > 0, cap)
        context = SupportContext(shots.own.mean(1), keys, keys_valid)
        if shots.merged is None:
            return context
        slots = torch.sym_min(2 * self.config.tokens_per_label * count, self.config.max_support_tokens)
        soft = SoftMasks(shots.foreground, shots.void)
        tokens, labels, valid = support_tokens(
            shots.merged, soft, shots.real, slots, at_random=self.training and self.config.random_tokens
        )
        return replace(context, tokens=tokens, token_labels=labels, token_valid=valid)

    def encode_query(self, query_images: Images, query_valid: Tensor | None = None) -> QueryFeatures:
        """Encodes images [B,3,H,W] (RGB in [0,1], or their `Features`), once for any number of classes.

        `query_valid` [B,H,W] bool marks real pixels; None: all. Raises ValueError for shapes that do not fit.
        """
        check_query(query_images, query_valid)
        return self._query(self._encode(query_images), query_valid)

    def decode(self, features: QueryFeatures, context: SupportContext) -> Tensor:
        """Segments: logits [B,2,h,w] (background, foreground).

        A batch of 1 on either side is expanded: one context serves many queries, or one query meets many contexts.
        """
        return self.decode_all(features, context).logits

    def decode_all(self, features: QueryFeatures, context: SupportContext, guide: Tensor | None = None) -> Decoded:
        """As `decode`; the result also has the prior, the local prototype and the features before the head.

        `guide` [B,L] is used as the local prototype instead of the one that `features` give: an unlabeled image is
        decoded with the labeled query's (method.md 7).
        """
        features, context = match_batches(features, context)
        prior = prior_mask(features.high, features.valid, context.prior_keys, context.prior_valid)
        prior = prior.to(features.projected.dtype)
        local = guide
        if self.local_prototype is not None and local is None:
            local = self.local_prototype(features.local, prior, features.valid)
        prototypes = [context.prototype] if self.config.use_global else []
        if local is not None:
            prototypes.append(local)
        merged = self.query_interaction(features.projected, prior, prototypes)
        activated = self.activation(merged, features.valid, context.tokens, context.token_valid, context.token_labels)
        last = self.residual(self.activated_projection(activated))
        return Decoded(self.head(last), activated, last, local, prior)

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
        **further: Any,
    ) -> RiFeNetOutput:
        """Runs the branches whose inputs are given; the backbone encodes all images in one batch, without gradients.

        Args:
            support_images: [B,K,3,H,W], or their `Features`.
            support_masks: [B,K,H,W], 1 foreground, 0 background, 255 ignore.
            query_images: [B,3,H,W], or their `Features`.
            support_valid: [B,K,H,W] bool. None, here and below: all pixels are real.
            query_valid: [B,H,W] bool.
            query_masks: [B,H,W]; with them, the auxiliary head segments the supports by the average of the query's
                features under its true mask.
            unlabeled_weak: [B,U,3,H,W], or `Features`; None skips the unlabeled branch.
            unlabeled_strong: the strong view of each, of the same geometry, in the same order.
            unlabeled_valid: [B,U,H,W] bool, for the weak and the strong view.
            mutual: let gradients flow through the weak view too (method.md 12, row 2).
            further: arguments that a subclass adds; RiFeNet itself takes none.
        """
        check_support(support_images, support_masks, support_valid)
        check_query(query_images, query_valid)
        images = [support_images, query_images]
        if unlabeled_weak is not None:
            assert unlabeled_strong is not None, "unlabeled images come in pairs of a weak and a strong view"
            images += [unlabeled_weak, unlabeled_strong]
        features = self._extract(images)
        shots, projected = self._shots(features[0], support_masks, support_valid)
        context = self.learn(shots)
        query = self._query(features[1], query_valid)
        decoded = self.decode_all(query, context)
        output = self._output(query, context, decoded, **further)
        if query_masks is not None and self.auxiliary is not None:
            real = None if query_valid is None else query_valid[:, None]
            weight = soft_masks(query_masks[:, None], real, (query.valid.shape[1], query.valid.shape[2])).foreground
            aux_logits = self.auxiliary(decoded.activated, query.projected, weight[:, 0], projected)
            output = replace(output, aux_logits=aux_logits)
        if unlabeled_weak is not None:
            pair = features[2], features[3]
            weak, strong, real = self._unlabeled(*pair, unlabeled_valid, context, decoded.local, mutual)
            output = replace(output, weak_logits=weak, strong_logits=strong, unlabeled_valid=real)
        return output

    def _output(self, query: QueryFeatures, context: SupportContext, decoded: Decoded) -> RiFeNetOutput:
        """What `forward` says of the labeled query; a subclass adds its own. `forward` fills in the other branches."""
        return RiFeNetOutput(decoded.logits, decoded.prior)

    def _unlabeled(
        self,
        weak: Features,
        strong: Features,
        valid: Tensor | None,
        context: SupportContext,
        query_local: Tensor | None,
        mutual: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes each unlabeled view as a query of its own (method.md 7).

        Its local prototype is chosen by `config.guide`: the labeled query's, the view's own, or zeros.

        Returns the logits of weak and strong view, [B,U,2,h,w] each, and which positions are real, [B,U,h,w] bool.
        """
        batch, count = weak.mid.shape[:2]
        context = context.map(lambda field: field.repeat_interleave(count, 0))
        guide = None
        if query_local is not None and self.config.guide != "self":
            guide = query_local.repeat_interleave(count, 0)
            guide = guide if self.config.guide == "query" else torch.zeros_like(guide)
        flat_valid = None if valid is None else valid.flatten(0, 1)

        def decode(view: Features) -> tuple[Tensor, Tensor]:
            # Not the `_query` of a subclass: what it adds would be computed for nothing, since only its head reads it.
            features = RiFeNet._query(self, Features(*(level.flatten(0, 1) for level in view)), flat_valid)
            logits = self.decode_all(features, context, guide).logits
            return logits.unflatten(0, (batch, count)), features.valid.unflatten(0, (batch, count))

        with torch.set_grad_enabled(mutual and torch.is_grad_enabled()):
            weak_logits, on_grid = decode(weak)
        strong_logits, _ = decode(strong)
        return weak_logits, strong_logits, on_grid

    def _encode(self, images: Images) -> Features:
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

    def _query(self, features: Features, valid: Tensor | None) -> QueryFeatures:
        batch, _, height, width = features.mid.shape
        return QueryFeatures(
            projected=self.query_projection(features.mid),
            high=F.normalize(features.high.float(), dim=1),
            valid=real_positions(valid, (batch, height, width), features.mid.device),
            local=None if self.local_prototype is None else self.local_prototype.reduce(features.low),
        )

    def _shots(self, features: Features, support_masks: Tensor, valid: Tensor | None) -> tuple[EncodedShots, Tensor]:
        """The shots, and their projected features before the interaction, [B,K,C,h,w], for the auxiliary head."""
        batch, count, _, height, width = features.mid.shape
        soft = soft_masks(support_masks, valid, (height, width))
        on_grid = real_positions(valid, (batch, count, height, width), support_masks.device)
        projected = self.support_projection(features.mid.flatten(0, 1)).unflatten(0, (batch, count))
        own = masked_average(projected, soft.foreground)
        shots = EncodedShots(own, features.high, soft.foreground, soft.void, on_grid)
        if self.support_interaction is not None:
            merged = self.support_interaction(projected.flatten(0, 1), own.flatten(0, 1))
            shots = replace(shots, merged=merged.unflatten(0, (batch, count)))
        return shots, projected
