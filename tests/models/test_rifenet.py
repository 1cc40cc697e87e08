"""What holds for the whole network, whatever its options: a contract over ablations, shots, sizes and valid areas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import SMALL
from torch import Tensor

from rifenet.models import Prototype, RiFeNet, RiFeNetOutput, aligned_resize, build_model
from rifenet.models.backbones import Backbone
from rifenet.models.beyond.evidence_network import EvidenceOutput

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no local prototype": {"use_local": False},
    "no global prototype": {"use_global": False},
    "no prototypes": {"use_local": False, "use_global": False},
    "unrefined local prototype": {"local_refine": False},
    "no self-attention": {"self_attention": False},
    "no cross-attention": {"cross_attention": False},
    "no cycle": {"cycle": False},
    "no layer": {"layers": 0},
    "one layer": {"layers": 1},
    "no auxiliary head": {"aux": False},
    "evidence": {"evidence": True, "evidence_dim": 32, "high": (5, 7)},
    "guide self": {"guide": "self"},
    "guide none": {"guide": "none"},
    "resnet50, half width": {"backbone": "resnet50", "width": 0.125, "stride": 8},
    "dropout on attention weights": {"attention_dropout": 0.1},
}


def _model(seed: int = 0, **fields: Any) -> RiFeNet:
    torch.manual_seed(seed)
    model = build_model(**{**SMALL, **fields})
    assert isinstance(model, RiFeNet)
    _enliven(model.backbone)
    for parameter in model.parameters():
        if parameter.dim() == 4 and not parameter.any():  # a layer that starts at zero passes no gradient on
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _enliven(backbone: Backbone) -> None:
    # A random deep network maps every image to nearly the same features; spread batch-norm shifts keep them apart.
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.5)


def _episode(batch: int = 2, shots: int = 1, size: int = 97, unlabeled: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Photos with a smooth random object each; 255 in a corner of the masks."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(*shape: int) -> Tensor:
        coarse = torch.rand(*shape, 6, 6, generator=generator)
        fine = torch.nn.functional.interpolate(coarse.flatten(0, -4), size=(size, size), mode="bicubic")
        return fine.unflatten(0, shape[:-1]).clamp(0, 1)

    masks = [(smooth(batch, count, 1)[:, :, 0] > 0.5).to(torch.uint8) for count in (shots, 1)]
    for mask in masks:
        mask[..., :7, :7] = 255
    episode = {
        "support_images": smooth(batch, shots, 3),
        "support_masks": masks[0],
        "query_images": smooth(batch, 3),
        "query_masks": masks[1][:, 0],
    }
    if unlabeled:
        episode["unlabeled_weak"] = smooth(batch, unlabeled, 3)
        episode["unlabeled_strong"] = (episode["unlabeled_weak"] * 0.7 + 0.1).clamp(0, 1)
    return episode


def _run(model: RiFeNet, episode: dict[str, Tensor], **options: Any) -> RiFeNetOutput:
    output = model(**episode, **options)
    assert isinstance(output, RiFeNetOutput)
    return output


def test_prior_keys_are_features_of_the_whole_photo() -> None:
    """What the mask leaves out is seen, too; PFENet's code has the mask before the last stage."""
    model = _model(max_prior_keys=10_000).eval()
    episode = _episode(batch=1)
    image, mask = episode["support_images"], episode["support_masks"]
    context = model.encode_support(image, mask)
    high = model.encode_query(image[:, 0]).high[0].flatten(1)  # unit length, as those of a query
    foreground = aligned_resize((mask == 1).float(), (7, 7))[0, 0].flatten() > 0
    keys = context.prior_keys[0, 0][context.prior_valid[0, 0]]
    assert 0 < len(keys) < 49
    torch.testing.assert_close(keys.T, high[:, foreground])


def _sum(output: RiFeNetOutput) -> Tensor:
    logits = [output.logits, output.aux_logits, output.weak_logits, output.strong_logits]
    if isinstance(output, EvidenceOutput) and output.evidence is not None:
        logits += output.evidence
    return torch.stack([part.square().mean() for part in logits if part is not None]).sum()


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_runs_and_trains_every_parameter(name: str) -> None:
    model = _model(**ABLATIONS[name])
    model.train()
    output = _run(model, _episode(unlabeled=2))
    assert output.logits.shape[:2] == (2, 2)
    assert (output.aux_logits is None) == ("aux" in ABLATIONS[name])
    assert output.strong_logits is not None
    assert output.strong_logits.shape[:3] == (2, 2, 2)
    _sum(output).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith("backbone."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("shots", [1, 2, 5, 20])
@pytest.mark.parametrize("size", [(64, 64), (97, 130), (33, 33)])
def test_any_number_of_shots_and_any_size(shots: int, size: tuple[int, int]) -> None:
    model = _model().eval()
    images = torch.rand(1, shots, 3, *size)
    masks = (torch.rand(1, shots, *size) > 0.7).to(torch.uint8)
    with torch.inference_mode():
        features = model.encode_query(torch.rand(3, 3, *size))
        logits = model.decode(features, model.encode_support(images, masks))
    assert logits.shape == (3, 2, *model.backbone.grid(*size))
    assert torch.isfinite(logits).all()
    assert aligned_resize(logits, size).shape == (3, 2, *size)


def test_forward_is_encode_and_decode() -> None:
    model, episode = _model().eval(), _episode(shots=3)
    with torch.inference_mode():
        whole = _run(model, episode).logits
        context = model.encode_support(episode["support_images"], episode["support_masks"])
        parts = model.decode(model.encode_query(episode["query_images"]), context)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)


def test_evaluation_repeats_bit_for_bit_and_leaves_the_generator_alone() -> None:
    model, episode = _model().eval(), _episode(shots=2)
    with torch.inference_mode():
        before = torch.get_rng_state()
        first = _run(model, episode).logits
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(_run(model, episode).logits, first)


def test_a_batch_equals_its_members() -> None:
    model, episode = _model().eval(), _episode(batch=3, shots=2)
    valid = torch.ones(3, 97, 97, dtype=torch.bool)
    valid[1, 60:] = False
    valid[2, :, 40:] = False
    with torch.inference_mode():
        together = _run(model, episode, query_valid=valid).logits
        for i in range(3):
            alone = _run(model, {k: v[i : i + 1] for k, v in episode.items()}, query_valid=valid[i : i + 1]).logits
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_order_of_shots_does_not_matter() -> None:
    # Below the caps, where every position becomes a token: an even choice out of more would depend on the order.
    model, episode = _model(max_support_tokens=400, tokens_per_label=200).eval(), _episode(shots=3)
    order = [2, 0, 1]
    turned = {**episode, **{k: episode[k][:, order] for k in ("support_images", "support_masks")}}
    with torch.inference_mode():
        torch.testing.assert_close(_run(model, turned).logits, _run(model, episode).logits, rtol=1e-4, atol=1e-5)


def test_ignored_support_pixels_have_no_say() -> None:
    """Relabelling pixels as 255 takes them out of the prototype, the tokens and the prior's keys."""
    model, episode = _model().eval(), _episode()
    ignored = {**episode, "support_masks": torch.full_like(episode["support_masks"], 255)}
    ignored["support_masks"][:, :, 40:60, 40:60] = 1
    context = model.encode_support(ignored["support_images"], ignored["support_masks"])
    assert context.token_labels[context.token_valid].all()
    assert (context.prior_valid.sum(-1) <= 9).all()


def test_one_context_meets_many_queries_and_one_query_many_contexts() -> None:
    model, episode = _model().eval(), _episode(batch=3)
    with torch.inference_mode():
        contexts = model.encode_support(episode["support_images"], episode["support_masks"])
        features = model.encode_query(episode["query_images"])
        first_context = type(contexts)(*(field[:1] for field in contexts))
        first_query = type(features)(*(field[:1] for field in features))
        many_queries = model.decode(features, first_context)
        many_contexts = model.decode(first_query, contexts)
        assert many_queries.shape[0] == many_contexts.shape[0] == 3
        torch.testing.assert_close(many_queries[:1], many_contexts[:1], rtol=1e-4, atol=1e-5)
        two = contexts.map(lambda field: field[:2])
        with pytest.raises(ValueError, match="one context for all queries"):
            model.decode(features, two)


@pytest.mark.parametrize("name", ["full", "evidence"])
def test_decode_gives_the_networks_own_logits_whatever_the_masks_threshold(name: str) -> None:
    model, episode = _model(**ABLATIONS[name]).eval(), _episode()

    def logits() -> Tensor:
        with torch.inference_mode():
            context = model.encode_support(episode["support_images"], episode["support_masks"])
            return model.decode(model.encode_query(episode["query_images"]), context)

    plain = logits()
    model.config = replace(model.config, mask_threshold=0.2)
    assert torch.equal(logits(), plain)


def test_the_backbone_never_wakes_up() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    _sum(_run(model, _episode(unlabeled=1))).backward()
    assert not any(module.training for module in model.backbone.modules())
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_all_images_go_through_the_backbone_in_one_batch() -> None:
    model, batches = _model(), []
    model.backbone.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
    _run(model, _episode(batch=2, shots=3, unlabeled=2))
    assert batches == [2 * (3 + 1 + 2 + 2)]


def test_features_may_stand_for_images() -> None:
    model, episode = _model().eval(), _episode(shots=2, unlabeled=1)
    encoded = dict(episode)
    for name in ("support_images", "query_images", "unlabeled_weak", "unlabeled_strong"):
        flat = model.backbone(episode[name].flatten(0, -4))
        encoded[name] = type(flat)(*(level.unflatten(0, episode[name].shape[:-3]) for level in flat))
    with torch.inference_mode():
        for ours, theirs in zip(*(vars(_run(model, each)).values() for each in (encoded, episode)), strict=True):
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class TestUnlabeledBranch:
    """method.md 2 and 7: the query's path, guided by the query, without a parameter of its own."""

    def test_it_adds_no_parameter(self) -> None:
        names = {guide: set(_model(guide=guide).state_dict()) for guide in ("query", "self", "none")}
        assert names["query"] == names["self"] == names["none"]

    def test_it_is_absent_without_unlabeled_images(self) -> None:
        """Every module runs once for the query; a call with unlabeled images is needed for more."""
        model, calls = _model().eval(), []
        model.head.register_forward_hook(lambda *_: calls.append("head"))
        model.activation.register_forward_hook(lambda *_: calls.append("activation"))
        output = _run(model, {k: v for k, v in _episode().items() if k != "query_masks"})
        assert calls == ["activation", "head"]
        assert output.weak_logits is output.strong_logits is output.aux_logits is None
        calls.clear()
        _run(model, _episode(unlabeled=1))
        assert calls.count("head") == 3

    def test_it_is_the_query_path(self) -> None:
        """An unlabeled image guided by itself is segmented exactly as if it were the query."""
        model = _model(guide="self").eval()
        episode = _episode(unlabeled=1)
        output = _run(model, episode)
        as_query = _run(model, {**episode, "query_images": episode["unlabeled_weak"][:, 0]})
        assert output.weak_logits is not None
        torch.testing.assert_close(output.weak_logits[:, 0], as_query.logits, rtol=1e-4, atol=1e-5)

    def test_the_guide_is_the_labeled_query(self) -> None:
        """With guide=query, another labeled query changes the unlabeled prediction; with self and none it does not."""
        episode = _episode(unlabeled=1)
        other = {**episode, "query_images": _episode(seed=7)["query_images"]}
        for guide, changes in (("query", True), ("self", False), ("none", False)):
            model = _model(guide=guide).eval()
            first, second = _run(model, episode).weak_logits, _run(model, other).weak_logits
            assert first is not None
            assert second is not None
            assert (not torch.allclose(first, second, rtol=1e-4, atol=1e-5)) == changes, guide

    def test_no_gradient_through_the_weak_view_unless_mutual(self) -> None:
        model = _model()
        output = _run(model, _episode(unlabeled=1))
        assert output.weak_logits is not None
        assert output.strong_logits is not None
        assert not output.weak_logits.requires_grad
        assert output.strong_logits.requires_grad
        mutual = _run(model, _episode(unlabeled=1), mutual=True)
        assert mutual.weak_logits is not None
        assert mutual.weak_logits.requires_grad


def test_random_tokens_in_training_only() -> None:
    model, episode = _model(tokens_per_label=8), _episode()
    arguments = (episode["support_images"], episode["support_masks"])
    model.train()
    sizes = {model.encode_support(*arguments).tokens.shape[1] for _ in range(12)}
    assert len(sizes) > 1
    model.eval()
    assert {model.encode_support(*arguments).tokens.shape[1] for _ in range(3)} == {16}
    fixed = _model(tokens_per_label=8, random_tokens=False, proj_dropout=0.0).train()
    assert torch.equal(fixed.encode_support(*arguments).tokens, fixed.encode_support(*arguments).tokens)


def test_token_labels_belong_to_their_tokens() -> None:
    """method.md 12, row 7: paint the foreground into the features and read it back from the tokens."""
    model = _model(tokens_per_label=12, proj_dropout=0.0)
    model.train()
    labels = torch.zeros(1, 2, 97, 97, dtype=torch.uint8)
    labels[:, :, 30:70, 20:60] = 1
    grid = model.backbone.grid(97, 97)
    painted = torch.nn.functional.interpolate(labels.float(), size=grid, mode="bilinear", align_corners=True) > 0.5
    with torch.no_grad():
        model.support_interaction.merge.weight.zero_()
        model.support_interaction.merge.weight[0, 0] = 1.0
        model.support_projection[0].weight.zero_()
        model.support_projection[0].weight[0, 0] = 1.0
    channels = (model.backbone.low_channels, model.backbone.mid_channels, model.backbone.high_channels)
    from rifenet.models import Features

    levels = [torch.zeros(1, 2, count, *grid) for count in channels]
    levels[1][:, :, 0] = painted.float()
    levels[2][:] = 1.0
    context = model.encode_support(Features(*levels, levels[0][:, :, :0]), labels)
    assert torch.equal(context.tokens[..., 0][context.token_valid] > 0.5, context.token_labels[context.token_valid])


@pytest.mark.parametrize("masks", ["empty", "all 255", "one pixel", "full"])
def test_extreme_masks_give_finite_logits(masks: str) -> None:
    model, episode = _model().eval(), _episode(shots=2)
    support = torch.zeros_like(episode["support_masks"])
    if masks == "all 255":
        support[:] = 255
    if masks == "one pixel":
        support[:, :, 50, 50] = 1
    if masks == "full":
        support[:] = 1
    with torch.inference_mode():
        output = _run(model, {**episode, "support_masks": support, "query_masks": support[:, 0]})
    assert torch.isfinite(output.logits).all()
    assert output.aux_logits is not None
    assert torch.isfinite(output.aux_logits).all()


def test_wrong_shapes_are_refused_with_a_sentence() -> None:
    model, episode = _model(), _episode()
    with pytest.raises(ValueError, match=r"\[B,K,3,H,W\]"):
        model.encode_support(episode["support_images"][:, 0], episode["support_masks"])
    with pytest.raises(ValueError, match="support masks as"):
        model.encode_support(episode["support_images"], episode["support_masks"][:, 0])
    with pytest.raises(ValueError, match="images' size"):
        model.encode_support(episode["support_images"], episode["support_masks"][..., :-1])


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of query, self, none"):
        build_model(**{**SMALL, "guide": "other"})
    with pytest.raises(ValueError, match="efficientnet_lite2"):
        build_model(backbone="vgg16")


def test_prototype_baseline_finds_a_coloured_object() -> None:
    """The training-free baseline on rendered photos: a red square against noise, found in another place."""
    torch.manual_seed(0)
    model = build_model(kind="prototype", backbone="efficientnet_lite0", stride=8).eval()
    assert isinstance(model, Prototype)
    assert not any(parameter.requires_grad for parameter in model.parameters())

    def photo(top: int, left: int) -> tuple[Tensor, Tensor]:
        image, mask = torch.rand(3, 129, 129) * 0.3, torch.zeros(129, 129, dtype=torch.uint8)
        image[0, top : top + 48, left : left + 48] = 1.0
        mask[top : top + 48, left : left + 48] = 1
        return image, mask

    (image, mask), (query, truth) = photo(16, 16), photo(64, 56)
    with torch.inference_mode():
        context = model.encode_support(image[None, None], mask[None, None])
        logits = aligned_resize(model.decode(model.encode_query(query[None]), context), (129, 129))
    found = logits[0, 1] > logits[0, 0]
    assert ((found & (truth == 1)).sum() / (found | (truth == 1)).sum()) > 0.5
