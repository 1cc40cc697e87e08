"""The evidence head: its similarities against a slow reference, what it starts as, and what it may never depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import evidence as slow
from reference import resize as slow_resize
from torch import Tensor, nn

from rifenet.config import ModelConfig
from rifenet.models import Features, Prototype, QueryFeatures, RiFeNet, RiFeNetOutput, SupportContext, build_model
from rifenet.models.beyond.evidence import (
    AffinityPropagation,
    EvidenceHead,
    EvidenceLogits,
    MaskedGroupNorm,
    similarity_maps,
    stage_units,
    support_keys,
)
from rifenet.models.beyond.evidence_network import EvidenceNetwork, EvidenceOutput
from rifenet.models.masks import SoftMasks
from rifenet.training.losses import mask_evidence

CLOSE = {"rtol": 0, "atol": 1e-5}
ALL = 10_000  # more keys than there are positions
STAGES = {"one stage": (6,), "three stages": (5, 3, 8)}
SMALL: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "pretrained": False,
    "stride": 16,
    "evidence": True,
    "embed_dim": 32,
    "heads": 4,
    "high": (5, 6, 7),
    "aux": False,
}
SIZE = 97  # a grid of 7 x 7, fine features of 25 x 25


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(*shape: int, seed: int = 0, common: float = 1.0) -> Tensor:
    """Random features [...,D,h,w]; the more they have in common, the larger are their cosines."""
    return torch.randn(*shape, generator=_generator(seed)) + common


def _soft(batch: int, shots: int, grid: tuple[int, int], seed: int = 0) -> SoftMasks:
    """Soft masks with certain, uncertain and ignored positions."""
    generator = _generator(seed)
    foreground = (torch.randn(batch, shots, *grid, generator=generator) * 0.8).clamp(0, 1)
    void = (torch.randn(batch, shots, *grid, generator=generator) * 0.8).clamp(0, 1).minimum(1 - foreground)
    assert ((foreground > 0) & (foreground < 1)).any()
    assert (void == 1).any()
    return SoftMasks(foreground, void)


def _wake(head: EvidenceHead) -> EvidenceHead:
    """Away from the start, where the last layers are zero: as after training."""
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
        for last in (head.estimate, head.decoder.classify):
            assert last.bias is not None
            nn.init.normal_(last.weight, std=0.3)
            nn.init.normal_(last.bias, std=0.3)
    return head


def _head(channels: tuple[int, ...] = (5, 3, 8), *, fresh: bool = False, assist_dropout: float = 0.5) -> EvidenceHead:
    torch.manual_seed(0)
    head = EvidenceHead(channels, 6, 7, dim=32, assist_dropout=assist_dropout)
    return (head if fresh else _wake(head)).eval()


def _inputs(batch: int, channels: tuple[int, ...], grid: tuple[int, int]) -> dict[str, Any]:
    high = _features(batch, 2, sum(channels), *grid, seed=1)
    return {
        "high": _features(batch, sum(channels), *grid),
        "valid": torch.ones(batch, *grid, dtype=torch.bool),
        "fine": _features(batch, 7, 2 * grid[0], 3 * grid[1], seed=2),
        "keys": support_keys(high, _soft(batch, 2, grid), channels, ALL),
        "features": _features(batch, 6, *grid, seed=3),
    }


def _model(*, fresh: bool = False, **fields: Any) -> RiFeNet:
    torch.manual_seed(0)
    model = build_model(**{**SMALL, **fields})
    assert isinstance(model, RiFeNet)
    # A random deep network maps every image to nearly the same features; spread batch-norm shifts keep them apart.
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.5)
    if isinstance(model, EvidenceNetwork) and not fresh:
        _wake(model.evidence)
    return model.eval()


def _episode(batch: int = 2, shots: int = 1) -> dict[str, Tensor]:
    """Photos with a smooth random object each; 255 in a corner of the masks."""
    generator = _generator(0)

    def smooth(*shape: int) -> Tensor:
        coarse = torch.rand(*shape, 6, 6, generator=generator)
        fine = F.interpolate(coarse.flatten(0, -4), size=(SIZE, SIZE), mode="bicubic")
        return fine.unflatten(0, shape[:-1]).clamp(0, 1)

    masks = (smooth(batch, shots, 1)[:, :, 0] > 0.5).to(torch.uint8)
    masks[..., :20, :20] = 255
    return {"support_images": smooth(batch, shots, 3), "support_masks": masks, "query_images": smooth(batch, 3)}


def _padded(batch: int) -> Tensor:
    valid = torch.ones(batch, SIZE, SIZE, dtype=torch.bool)
    valid[0, 60:] = False
    valid[-1, :, 40:] = False
    return valid


def _run(model: RiFeNet, episode: dict[str, Tensor], **options: Any) -> RiFeNetOutput:
    output = model(**episode, **options)
    assert isinstance(output, RiFeNetOutput)
    return output


def _evidence(model: RiFeNet, episode: dict[str, Tensor], **options: Any) -> EvidenceLogits:
    output = _run(model, episode, **options)
    assert isinstance(output, EvidenceOutput)
    evidence = output.evidence
    assert evidence is not None
    return evidence


def _difference(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


# The similarities


@pytest.mark.parametrize("channels", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("common", [1.0, 0.0], ids=["alike", "unlike"])
def test_maps_and_score_equal_the_reference(channels: tuple[int, ...], shots: int, common: float) -> None:
    grid = (4, 5)
    query = _features(2, sum(channels), 3, 4, common=common)
    support = _features(2, shots, sum(channels), *grid, seed=1, common=common)
    soft = _soft(2, shots, grid)
    keys = support_keys(support, soft, channels, ALL)
    maps, score = similarity_maps(stage_units(query, channels, 1), keys, channels)
    for b in range(2):
        expected = slow.similarity(
            *(_numpy(part[b]) for part in (query, support, soft.foreground, soft.void)), channels
        )
        np.testing.assert_allclose(_numpy(score[b, 0]), expected[1], **CLOSE)
        np.testing.assert_allclose(_numpy(maps[b]), expected[0], **CLOSE)


@pytest.mark.parametrize("cosine", [0.9, 0.0, -0.4, -0.9])
def test_the_share_of_a_vote_does_not_depend_on_how_unlike_the_query_is(cosine: float) -> None:
    """Both labels' keys are as unlike the query: the vote is undecided, however small its sums are."""
    beside = (1 - cosine**2) ** 0.5
    support = torch.tensor([[cosine, beside, 0.0], [cosine, 0.0, beside]]).T.view(1, 1, 3, 1, 2)
    foreground = torch.tensor([[[[1.0, 0.0]]]])
    keys = support_keys(support, SoftMasks(foreground, torch.zeros_like(foreground)), (3,), ALL)
    maps, _ = similarity_maps(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), keys, (3,))
    assert float(maps[0, 4, 0, 0]) == pytest.approx(0.5, abs=1e-5)


def test_maps_by_hand() -> None:
    """Foreground (1, 0) and, at less than half its weight, (-1, 0); background (0, 1); (0, -1) is ignored."""
    support = torch.tensor([[2.0, -3.0, 0.0, 0.0], [0.0, 0.0, 5.0, -1.0]]).view(1, 1, 2, 1, 4)
    soft = SoftMasks(torch.tensor([[[[1.0, 0.25, 0.0, 0.0]]]]), torch.tensor([[[[0.0, 0.75, 0.0, 1.0]]]]))
    keys = support_keys(support, soft, (2,), ALL)
    query = torch.tensor([[1.0, 0.0, -1.0], [0.0, -1.0, 0.0]]).view(1, 2, 1, 3)
    maps, score = similarity_maps(query, keys, (2,))
    near, apart, against = 1.0, np.exp(-20), np.exp(-40)
    forward = 0.8 * near + 0.2 * against
    backward = 0.2 * near + 0.8 * against
    expected = [
        [1, 0, -1],
        [0, 0, 0],
        [1, 0, -1],
        [0, -1, 0],
        [forward / (forward + apart), apart / (apart + against), backward / (backward + apart)],
    ]
    np.testing.assert_allclose(_numpy(maps[0, :, 0]), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(_numpy(score[0, 0, 0]), [1, 1, -1], rtol=0, atol=1e-6)


def test_a_class_without_background_or_without_foreground_has_finite_maps() -> None:
    for value in (0.0, 1.0):
        foreground = torch.full((1, 1, 3, 3), value)
        keys = support_keys(
            _features(1, 1, 6, 3, 3, seed=1), SoftMasks(foreground, torch.zeros_like(foreground)), (6,), ALL
        )
        maps, score = similarity_maps(stage_units(_features(1, 6, 3, 3), (6,), 1), keys, (6,))
        assert torch.isfinite(maps).all()
        assert torch.isfinite(score).all()
        assert (maps[0, 4] > 0.99).all() if value else (maps[0, 4] < 0.01).all()


@pytest.mark.parametrize("cap", [2, 8, 21])
def test_few_keys_are_positions_with_their_own_weights_and_leave_the_means_alone(cap: int) -> None:
    channels, grid, shots = (5, 3, 8), (4, 5), 3
    support, soft = _features(2, shots, 16, *grid), _soft(2, shots, grid)
    few, every = (support_keys(support, soft, channels, count) for count in (cap, ALL))
    assert few.keys.shape == (2, cap, 16)
    assert few.weights.shape == (2, 2, cap)
    assert every.keys.shape == (2, shots * 20, 16)
    torch.testing.assert_close(few.means, every.means, rtol=0, atol=0)
    for b in range(2):
        at = [(k, i, j) for k in range(shots) for i in range(grid[0]) for j in range(grid[1])]
        units = np.stack([np.concatenate(slow.levels(_numpy(support[b, k, :, i, j]), channels)[:3]) for k, i, j in at])
        taken = []
        for key, (background, foreground) in zip(_numpy(few.keys[b]), _numpy(few.weights[b].T), strict=True):
            distance = np.abs(units - key).max(1)
            assert distance.min() < 1e-5
            taken.append(at[int(distance.argmin())])
            f, v = float(soft.foreground[b][taken[-1]]), float(soft.void[b][taken[-1]])
            assert foreground == pytest.approx(f, abs=1e-6)
            assert background == pytest.approx(max(1 - f - v, 0), abs=1e-6)
        assert len(set(taken)) == cap
        of_foreground = int((few.weights[b, 1] > 0).sum())
        assert of_foreground == cap // 2
        assert (few.weights[b, 0][few.weights[b, 1] == 0] > 0).all()  # the other half shows background


def test_ignored_positions_are_no_keys() -> None:
    support, soft = _features(1, 2, 6, 4, 5), _soft(1, 2, (4, 5))
    ignored = soft.void == 1
    other = torch.where(ignored[:, :, None], _features(1, 2, 6, 4, 5, seed=9), support)
    query = stage_units(_features(1, 6, 3, 3, seed=4), (6,), 1)
    one, two = (similarity_maps(query, support_keys(high, soft, (6,), ALL), (6,)) for high in (support, other))
    assert not torch.equal(support, other)
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("channels", STAGES.values(), ids=STAGES)
def test_own_maps_equal_the_reference(channels: tuple[int, ...]) -> None:
    head, query = _head(channels), _features(1, sum(channels), 3, 4)
    coarse, valid = _features(1, 1, 3, 4, seed=5, common=0.0), torch.ones(3, 4, dtype=torch.bool)
    valid[:, 3] = False
    got = head._own_maps(stage_units(query, channels, 1), coarse, valid[None, None].float())
    expected = slow.own_maps(_numpy(query[0]), _numpy(coarse[0, 0].sigmoid()), _numpy(valid) > 0, channels)
    np.testing.assert_allclose(_numpy(got[0]), expected * 4 - 2, rtol=0, atol=4e-5)


def test_the_refinement_reads_the_first_estimate_and_what_the_query_says_of_it() -> None:
    channels = (5, 3, 8)
    head, inputs = _head(channels), _inputs(1, channels, (4, 5))
    inputs["valid"][:, :, 3:] = False
    seen: list[Tensor] = []
    head.enter_own.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    probability = _difference(head(**inputs).coarse)[0].sigmoid()
    own = slow.own_maps(_numpy(inputs["high"][0]), _numpy(probability), _numpy(inputs["valid"][0]) > 0, channels)
    assert seen[0].shape == (1, 32 + 8 + 1, 4, 5)
    real = _numpy(inputs["valid"][0])
    np.testing.assert_allclose(_numpy(seen[0][0, -1]), _numpy(probability) * real, **CLOSE)
    np.testing.assert_allclose(_numpy(seen[0][0, 32:-1]), (own * 4 - 2) * real, rtol=0, atol=4e-5)
    assert (seen[0][..., 3:] == 0).all()


def test_the_length_of_the_features_has_no_influence() -> None:
    head, inputs = _head(), _inputs(2, (5, 3, 8), (3, 4))
    lengths = torch.rand(2, 3, 3, 4, generator=_generator(7)) + 0.5  # one for each stage and position
    longer = inputs["high"] * torch.cat(
        [lengths[:, i : i + 1].expand(-1, n, -1, -1) for i, n in enumerate((5, 3, 8))], 1
    )
    for one, two in zip(head(**inputs), head(**{**inputs, "high": longer}), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


# The affinity


def test_affinity_propagation_equals_the_reference() -> None:
    torch.manual_seed(0)
    layer = AffinityPropagation(16)
    nn.init.normal_(layer.merge.norm.weight)
    nn.init.normal_(layer.merge.norm.bias)
    x, real = _features(1, 16, 3, 4, common=0.0), torch.ones(12, dtype=torch.bool)
    real[9:] = False
    units = F.normalize(_features(12, 5, seed=1), dim=1)
    cosines = units @ units.T
    got = layer(x, cosines.masked_fill(~real, -1000.0)[None, None], real.view(1, 1, 3, 4).float())
    flat = _numpy(x[0].flatten(1))
    attended = slow.spread(
        flat,
        _numpy(cosines),
        _numpy(real) > 0,
        np.exp(_numpy(layer.sharpness)),
        _numpy(layer.value.weight[:, :, 0, 0]),
    )
    merged = flat + _numpy(layer.merge.convolution.weight[:, :, 0, 0]) @ attended
    norm = layer.merge.norm
    normed = slow.group_norm(merged, 8, _numpy(norm.weight), _numpy(norm.bias), _numpy(real) > 0)
    np.testing.assert_allclose(_numpy(got[0].flatten(1)), np.maximum(normed, 0), **CLOSE)


def test_sharpness_runs_from_5_to_40_at_first() -> None:
    sharpness = AffinityPropagation(16).sharpness.exp()
    np.testing.assert_allclose(_numpy(sharpness), [5, 10, 20, 40], rtol=1e-5)


# What the head starts as


@pytest.mark.parametrize("channels", STAGES.values(), ids=STAGES)
def test_a_fresh_head_is_the_training_free_score(channels: tuple[int, ...]) -> None:
    inputs = _inputs(2, channels, (4, 5))
    fine, coarse = _head(channels, fresh=True)(**inputs)
    _, score = similarity_maps(stage_units(inputs["high"], channels, 1), inputs["keys"], channels)
    assert torch.equal(_difference(coarse), 20 * score[:, 0])
    assert score.std() > 0.01
    assert fine.shape == (2, 2, 8, 15)
    for b in range(2):
        expected = slow_resize.bilinear_align_corners(20 * _numpy(score[b]), 8, 15)
        np.testing.assert_allclose(_numpy(_difference(fine)[b]), expected[0], **CLOSE)


def test_a_fresh_model_is_the_prototype_baseline() -> None:
    model, episode = _model(fresh=True), _episode(shots=3)
    baseline = build_model(kind="prototype", **{name: SMALL[name] for name in ("backbone", "pretrained", "stride")})
    assert isinstance(baseline, Prototype)
    assert baseline.backbone.used_stages == SMALL["high"]
    baseline.backbone.load_state_dict(model.backbone.state_dict())
    supports = episode["support_images"], episode["support_masks"]
    with torch.inference_mode():
        fine = model.decode(model.encode_query(episode["query_images"]), model.encode_support(*supports))
        scores = _difference(
            baseline.eval().decode(baseline.encode_query(episode["query_images"]), baseline.encode_support(*supports))
        )
    assert fine.shape == (2, 2, 25, 25)
    for b in range(2):
        expected = slow_resize.bilinear_align_corners(20 * _numpy(scores[b : b + 1]), 25, 25)
        np.testing.assert_allclose(_numpy(_difference(fine)[b]), expected[0], rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.01


def test_a_model_away_from_its_start_is_not_the_training_free_score() -> None:
    """Else the tests below would show nothing."""
    for name, changed, score in zip(
        ("fine", "coarse"), _evidence(_model(), _episode()), _evidence(_model(fresh=True), _episode()), strict=True
    ):
        assert (changed - score).std() > 0.1, name


# What holds for the whole model


def test_the_order_of_shots_does_not_matter() -> None:
    # Below the caps, where every position becomes a token: an even choice out of more would depend on the order.
    model, episode = _model(tokens_per_label=200, max_support_tokens=400), _episode(shots=3)
    turned = {**episode, **{k: episode[k][:, [2, 0, 1]] for k in ("support_images", "support_masks")}}
    with torch.inference_mode():
        for one, two in zip(_evidence(model, episode), _evidence(model, turned), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_a_batch_equals_its_members() -> None:
    model, episode, valid = _model(), _episode(batch=3, shots=2), _padded(3)
    with torch.inference_mode():
        together = _evidence(model, episode, query_valid=valid)
        for i in range(3):
            alone = {name: field[i : i + 1] for name, field in episode.items()}
            member = _evidence(model, alone, query_valid=valid[i : i + 1])
            for one, two in zip(together, member, strict=True):
                torch.testing.assert_close(one[i : i + 1], two, rtol=1e-5, atol=1e-5)


def test_decode_is_the_fine_evidence_repeats_and_leaves_the_generator_alone() -> None:
    model, episode = _model(), _episode(shots=2)
    with torch.inference_mode():
        context = model.encode_support(episode["support_images"], episode["support_masks"])
        before = torch.get_rng_state()
        first = model.decode(model.encode_query(episode["query_images"]), context)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(model.decode(model.encode_query(episode["query_images"]), context), first)
        torch.testing.assert_close(_evidence(model, episode).fine, first, rtol=1e-5, atol=1e-5)


def test_one_context_meets_many_queries() -> None:
    model, episode = _model(), _episode(batch=3)
    with torch.inference_mode():
        contexts = model.encode_support(episode["support_images"], episode["support_masks"])
        queries = model.encode_query(episode["query_images"])
        many = model.decode(queries, contexts.map(lambda field: field[:1]))
        for i in range(3):
            alone = queries.map(lambda field, i=i: field[i : i + 1])
            one = model.decode(alone, contexts.map(lambda field: field[:1]))
            torch.testing.assert_close(many[i : i + 1], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crossed", [1, 3])
def test_crossed_is_the_next_episodes_class(crossed: int) -> None:
    model, episode = _model(), _episode(batch=3, shots=2)
    with torch.inference_mode():
        output = _run(model, episode, query_valid=_padded(3), crossed=crossed)
        contexts = model.encode_support(episode["support_images"], episode["support_masks"])
        queries = model.encode_query(episode["query_images"], _padded(3))
        assert output.crossed is not None
        assert output.evidence is not None
        assert len(output.crossed.fine) == len(output.crossed.coarse) == crossed
        for i in range(crossed):
            following = (i + 1) % 3
            query = queries.map(lambda field, i=i: field[i : i + 1])
            context = contexts.map(lambda field, i=following: field[i : i + 1])
            expected = model._evidence(query, context, model.decode_all(query, context))
            for got, one in zip(output.crossed, expected, strict=True):
                torch.testing.assert_close(got[i : i + 1], one, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(output.crossed.fine[i : i + 1], model.decode(query, context), **CLOSE)
        assert (output.crossed.fine - output.evidence.fine[:crossed]).abs().max() > 0.1


def test_without_evidence_there_is_none_of_it() -> None:
    model, episode = _model(evidence=False), _episode(batch=2, shots=2)
    with torch.inference_mode():
        context = model.encode_support(episode["support_images"], episode["support_masks"])
        query = model.encode_query(episode["query_images"])
        output = _run(model, episode)
        assert type(context) is SupportContext
        assert type(query) is QueryFeatures
        assert type(output) is RiFeNetOutput
        with pytest.raises(TypeError, match="crossed"):
            _run(model, episode, crossed=1)
        torch.testing.assert_close(model.decode(query, context), output.logits, **CLOSE)


# Padding


def test_padding_is_no_evidence() -> None:
    """What lies behind `valid` enters no mean of the query and is attended to by no position."""
    channels, grid = (5, 3, 8), (4, 5)
    head, valid = _head(channels), torch.ones(1, *grid, dtype=torch.bool)
    valid[:, :, 3:] = False
    high, coarse = _features(1, 16, *grid), _features(1, 1, *grid, seed=1)
    behind = ~valid[:, None]
    other_high = torch.where(behind, _features(1, 16, *grid, seed=2), high)
    other_coarse = torch.where(behind, -coarse, coarse)
    units, other_units = (stage_units(features, channels, 1) for features in (high, other_high))
    one = head._own_maps(units, coarse, valid[:, None].float())
    two = head._own_maps(other_units, other_coarse, valid[:, None].float())
    assert torch.equal(one[:, :, valid[0]], two[:, :, valid[0]])
    assert not torch.equal(one, two)


def test_padding_is_not_attended_to() -> None:
    layer, real = AffinityPropagation(32), torch.ones(20, dtype=torch.bool)
    real[14:] = False

    def run(seed: int) -> Tensor:
        x, units = _features(1, 32, 4, 5, common=0.0), F.normalize(_features(20, 5), dim=1)
        x.flatten(2)[:, :, ~real] = _features(1, 32, 6, seed=seed)
        units[~real] = F.normalize(_features(6, 5, seed=seed), dim=1)
        affinity = (units @ units.T).masked_fill(~real, -1000.0)[None, None]
        spread: Tensor = layer(x, affinity, real.view(1, 1, 4, 5).float())
        return spread.flatten(2)

    one, two = run(8), run(9)
    torch.testing.assert_close(one[:, :, real], two[:, :, real], rtol=0, atol=1e-6)
    assert (one[:, :, ~real] == 0).all()


@pytest.mark.parametrize("shape", [(4, 5), (7, 3), (1, 9)])
def test_masked_group_norm_equals_the_reference(shape: tuple[int, int]) -> None:
    norm = MaskedGroupNorm(4, 12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, real = _features(2, 12, *shape, common=0.0) * 3 + 2, torch.rand(2, 1, *shape, generator=_generator(3)) < 0.6
    got = norm(x, real.float())
    for one, mask, result in zip(x, real, got, strict=True):
        slowly = slow.group_norm(
            _numpy(one.flatten(1)), 4, _numpy(norm.weight), _numpy(norm.bias), _numpy(mask.flatten()) > 0
        )
        np.testing.assert_allclose(_numpy(result.flatten(1)), slowly, **CLOSE)
    everywhere = norm(x, torch.ones_like(real).float())
    torch.testing.assert_close(everywhere, F.group_norm(x, 4, norm.weight, norm.bias), rtol=1e-5, atol=1e-5)


def test_padding_changes_no_logit_of_real_positions() -> None:
    """Nothing behind `valid` reaches the first estimate, nor the fine one but by the last resizing."""
    head, inputs = _head(), _inputs(2, (5, 3, 8), (4, 6))
    inputs["valid"][:, :, 4:] = False
    other = dict(inputs)
    behind = ~inputs["valid"][:, None]
    for name in ("high", "features"):
        noise = torch.rand(inputs[name].shape, generator=_generator(11)) * 4
        other[name] = torch.where(behind, noise, inputs[name])
    one, two = head(**inputs), head(**other)
    torch.testing.assert_close(one.coarse[:, :, :, :4], two.coarse[:, :, :, :4], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(one.coarse[:, :, :, 4:], two.coarse[:, :, :, 4:])


def test_the_head_hides_the_similarities_of_padding_from_its_first_layer() -> None:
    head, inputs = _head(), _inputs(2, (5, 3, 8), (4, 5))
    inputs["valid"][0, 2:] = False
    seen: list[Tensor] = []
    affinities: list[Tensor] = []
    head.enter.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for layer in head.spread:
        layer.register_forward_pre_hook(lambda _, given: affinities.append(given[1]))
    head(**inputs)
    hidden = ~inputs["valid"]
    assert (seen[0].permute(0, 2, 3, 1)[hidden] == 0).all()
    assert (seen[0].permute(0, 2, 3, 1)[~hidden].abs().sum(1) > 0).all()
    assert len(affinities) == 2
    for affinity in affinities:
        to = affinity[:, 0].transpose(1, 2)  # [B, key, query]
        assert (to[hidden.flatten(1)] == 0).all()
        assert (to[~hidden.flatten(1)].abs() < 1.001).all()


# Training


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_training_drops_the_assistance_of_a_share_of_the_queries(share: float) -> None:
    count, channels = 600, (5, 3)
    head, inputs = _head(channels, assist_dropout=share), _inputs(count, channels, (2, 2))
    with torch.inference_mode():
        helped = head(**inputs).coarse
        alone = head(**{**inputs, "features": torch.zeros_like(inputs["features"])}).coarse
        head.train()
        torch.manual_seed(0)
        trained = head(**inputs).coarse
    is_helped, is_alone = ((trained - other).abs().amax((1, 2, 3)) < 1e-5 for other in (helped, alone))
    assert (is_helped ^ is_alone).all()
    assert abs(int(is_alone.sum()) - share * count) <= 4 * (share * (1 - share) * count) ** 0.5


def test_a_query_without_assistance_does_not_depend_on_the_network() -> None:
    head, inputs = _head(assist_dropout=1.0).train(), _inputs(2, (5, 3, 8), (3, 4))
    one, two = (head(**{**inputs, "features": _features(2, 6, 3, 4, seed=seed)}) for seed in (3, 4))
    assert torch.equal(one.fine, two.fine)
    assert torch.equal(one.coarse, two.coarse)
    head.eval()
    one, two = (head(**{**inputs, "features": _features(2, 6, 3, 4, seed=seed)}) for seed in (3, 4))
    assert not torch.allclose(one.fine, two.fine)
    assert not torch.allclose(one.coarse, two.coarse)


@pytest.mark.parametrize("padded", [False, True])
def test_every_parameter_of_the_head_learns_and_the_backbone_does_not(padded: bool) -> None:
    model, episode = _model(fresh=True, assist_dropout=0.0).train(), _episode(shots=2)
    assert isinstance(model, EvidenceNetwork)
    mask = (episode["query_images"][:, 0] > 0.5).to(torch.uint8)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(2):  # the first step leaves the zero start, behind which nothing learns
        optimizer.zero_grad()
        fine, coarse = _evidence(model, episode, query_valid=_padded(2) if padded else None)
        loss = sum(
            mask_evidence(F.interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=True), mask)
            for logits in (fine, coarse)
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
    for name, parameter in model.evidence.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
        assert torch.isfinite(parameter).all(), name
    for name, parameter in model.backbone.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name


def test_a_query_that_is_all_padding_keeps_its_gradients_finite() -> None:
    head, inputs = _head().train(), _inputs(2, (5, 3, 8), (3, 4))
    inputs["valid"][0] = False
    fine, coarse = head(**inputs)
    (fine.square().mean() + coarse.square().mean()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_mixed_precision_sees_the_similarities_of_evaluation() -> None:
    """A fresh model has nothing but the similarities, which are the same in training."""
    model, episode = _model(fresh=True), _episode(shots=2)
    with torch.inference_mode():
        support, query = (
            model.backbone(images.flatten(0, -4)) for images in (episode["support_images"], episode["query_images"])
        )
        support = Features(*(level.unflatten(0, (2, 2)) for level in support))
        features = {**episode, "support_images": support, "query_images": query}
        full = _evidence(model, features).coarse  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = _evidence(model, features).coarse  # type: ignore[arg-type]
    torch.testing.assert_close(mixed.float(), full, rtol=0, atol=1e-4)


# Options


@pytest.mark.parametrize("dim", [0, -32, 16, 48])
def test_the_heads_width_is_a_multiple_of_32(dim: int) -> None:
    with pytest.raises(ValueError, match=r"model\.evidence_dim"):
        ModelConfig(evidence_dim=dim)


def test_the_fine_stage_is_one_of_the_backbone() -> None:
    with pytest.raises(ValueError, match=r"model\.fine"):
        ModelConfig(fine=-1)
    with pytest.raises(ValueError, match="fine"):
        build_model(**SMALL, fine=8)
    with pytest.raises(ValueError, match="fine"):
        build_model(**{**SMALL, "high": (5,)}, fine=6)  # a stage, but behind the last one that is computed
    assert _model(fine=3).backbone.fine_channels == 40
    assert _model().backbone.fine_channels == 24


@pytest.mark.parametrize(("fine", "size"), [(1, 49), (2, 25), (3, 13), (5, 7)])
def test_logits_have_the_size_of_the_fine_features(fine: int, size: int) -> None:
    with torch.inference_mode():
        evidence = _evidence(_model(fine=fine), _episode())
    assert evidence.fine.shape == (2, 2, size, size)
    assert evidence.coarse.shape == (2, 2, 7, 7)


# The loss


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _masks(*shape: int) -> Tensor:
    """Masks with ignored pixels; the second shows no foreground."""
    drawn = torch.randint(0, 3, shape, generator=_generator(0))
    masks = torch.tensor([0, 1, 255], dtype=torch.uint8)[drawn]
    masks[1][masks[1] == 1] = 0
    return masks


def test_loss_equals_the_reference() -> None:
    logits, masks = _logits(4, 2, 7, 5), _masks(4, 7, 5)
    masks[3] = 255
    expected = [slow.mask_evidence(_numpy(logits[b]), masks[b].numpy()) for b in range(4)]
    assert float(mask_evidence(logits, masks)) == pytest.approx(np.mean(expected), abs=1e-9)
    assert expected[3] == 0
    for b in range(4):
        assert float(mask_evidence(logits[b : b + 1], masks[b : b + 1])) == pytest.approx(expected[b], abs=1e-9)


def test_closed_forms_of_the_loss() -> None:
    mask = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    sure = torch.where(torch.stack([mask == 0, mask == 1], 1), 50.0, -50.0)
    assert float(mask_evidence(sure, mask)) == pytest.approx(0, abs=1e-6)
    empty = torch.zeros(1, 2, 2, dtype=torch.uint8)
    nothing = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert float(mask_evidence(nothing, empty)) == pytest.approx(0, abs=1e-6)
    # All of it taken for foreground: 100 of cross-entropy a pixel, and 1 - 1 / (4 + 1).
    assert float(mask_evidence(-nothing, empty)) == pytest.approx(100.8, abs=1e-3)
    # p = 0.5 everywhere: log 2, and 1 - (2 * 1 + 1) / (3 * 0.25 + 2 + 1).
    half = np.log(2) + 1 - 3 / 3.75
    assert float(mask_evidence(torch.zeros(1, 2, 2, 2), mask)) == pytest.approx(half, abs=1e-6)


def test_ignored_pixels_have_no_influence_and_no_gradient() -> None:
    logits, masks = _logits(3, 2, 6, 6).requires_grad_(), _masks(3, 6, 6)
    loss = mask_evidence(logits, masks)
    loss.backward()
    ignored = (masks == 255)[:, None].expand_as(logits)
    assert ignored.any()
    assert logits.grad is not None
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0
    changed = torch.where(ignored, _logits(3, 2, 6, 6, seed=9), logits)
    assert float(mask_evidence(changed, masks).detach()) == float(loss.detach())
    assert torch.autograd.gradcheck(lambda x: mask_evidence(x, masks), logits)
