"""Every formula of the network against the slow, independent numpy version in tests/reference, within 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import attention as slow_attention
from reference import interaction as slow_interaction
from reference import prior as slow_prior
from reference import prototypes as slow_prototypes
from reference import resize as slow_resize
from reference import tokens as slow_tokens
from torch import Tensor

from rifenet.models import masks
from rifenet.models.attention import CycleCrossAttention, DeformableSelfAttention, cycle_consistent, sine_position
from rifenet.models.interaction import QueryInteraction, SupportInteraction
from rifenet.models.prior import prior_mask
from rifenet.models.prototypes import LocalPrototype, grid_average, masked_average
from rifenet.models.resize import aligned_resize

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize(("shots", "grid", "support_grid"), [(1, (5, 6), (5, 6)), (3, (4, 7), (6, 5))])
def test_prior_mask(shots: int, grid: tuple[int, int], support_grid: tuple[int, int]) -> None:
    query, support = _random(8, *grid), _random(shots, 8, *support_grid, seed=1)
    weight = _random(shots, *support_grid, seed=2).clamp(min=0)
    if shots > 1:
        weight[1] = 0  # a shot without foreground counts as 0 in the mean
    valid = torch.ones(grid, dtype=torch.bool)
    valid[:, -2:] = False
    keys = torch.nn.functional.normalize(support.flatten(2).transpose(1, 2), dim=-1)[None]
    got = prior_mask(
        torch.nn.functional.normalize(query, dim=0)[None], valid[None], keys, (weight > 0).flatten(1)[None]
    )
    expected = slow_prior.prior_mask(_numpy(query), _numpy(valid), _numpy(support), _numpy(weight))
    np.testing.assert_allclose(_numpy(got[0, 0]), expected, **CLOSE)
    assert got.max() > 0.5
    assert (got[0, 0][~valid] == 0).all()


def test_prior_of_a_constant_map_is_zero() -> None:
    query = torch.ones(1, 4, 3, 3) / 2
    keys = query.flatten(2).transpose(1, 2)[:, None]
    real = torch.ones(1, 3, 3, dtype=torch.bool)
    got = prior_mask(query, real, keys, torch.ones(1, 1, 9, dtype=torch.bool))
    assert got.abs().max() == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3), (60, 60)])
def test_soft_masks_are_bilinear(size: tuple[int, int]) -> None:
    mask = (_random(1, 2, 23, 17) > 0.3).to(torch.uint8)
    mask[0, 1, :4] = 255
    soft = masks.soft_masks(mask, None, size)
    for shot in range(2):
        both = np.stack([_numpy(mask[0, shot] == 1), _numpy(mask[0, shot] == 255)]).astype(np.float64)
        expected = slow_resize.bilinear_align_corners(both, *size)
        if expected[0].any():
            np.testing.assert_allclose(_numpy(soft.foreground[0, shot]), expected[0], **CLOSE)
        np.testing.assert_allclose(_numpy(soft.void[0, shot]), expected[1], **CLOSE)


def test_upsample_is_bilinear_with_aligned_corners() -> None:
    logits = _random(1, 2, 5, 4)
    expected = slow_resize.bilinear_align_corners(_numpy(logits[0]), 33, 25)
    np.testing.assert_allclose(_numpy(aligned_resize(logits, (33, 25))[0]), expected, **CLOSE)


def test_an_object_between_the_samples_keeps_its_area() -> None:
    mask = torch.zeros(1, 1, 473, 473, dtype=torch.uint8)
    mask[0, 0, 101, 204] = 1  # no sample of a 60 x 60 grid touches this pixel
    soft = masks.soft_masks(mask, None, (60, 60))
    assert soft.foreground.sum() > 0
    foreground, _ = masks.token_labels(soft, torch.ones(1, 1, 60, 60, dtype=torch.bool))
    assert foreground.sum() == 1


@pytest.mark.parametrize("seed", range(4))
def test_token_labels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    foreground = torch.rand(2, 3, 5, 5, generator=generator, dtype=torch.float64) * (0.4 if seed == 0 else 1.0)
    void = torch.rand(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, 3, 5, 5, generator=generator) > 0.2
    got = masks.token_labels(masks.SoftMasks(foreground, void), valid)
    for b in range(2):
        for k in range(3):
            expected = slow_tokens.labels(_numpy(foreground[b, k]), _numpy(void[b, k]), _numpy(valid[b, k]))
            np.testing.assert_array_equal(_numpy(got[0][b, k]), expected[0])
            np.testing.assert_array_equal(_numpy(got[1][b, k]), expected[1])


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7, 13, 40])
def test_choose_evenly(count: int) -> None:
    candidates = _random(3, 40) > 0.2
    chosen = masks.choose_evenly(candidates, torch.full((3,), count))
    for row in range(3):
        expected = slow_tokens.select_evenly(_numpy(candidates[row]), count)
        np.testing.assert_array_equal(np.flatnonzero(_numpy(chosen[row])), expected)


def test_choose_randomly_takes_candidates_only_and_each_now_and_then() -> None:
    candidates = (_random(1, 40) > 0.2).expand(200, -1)
    torch.manual_seed(0)
    chosen = masks.choose_randomly(candidates, torch.full((200,), 5))
    assert not (chosen & ~candidates).any()
    assert (chosen.sum(1) == 5).all()
    assert (chosen.any(0) == candidates[0]).all()


@pytest.mark.parametrize(("foreground", "background"), [(50, 50), (3, 50), (50, 4), (3, 4), (0, 9)])
def test_balanced_counts(foreground: int, background: int) -> None:
    rows = torch.arange(120)[None]
    got = masks.balanced_counts(rows < foreground, rows < background, 20)
    assert (int(got[0]), int(got[1])) == slow_tokens.counts(foreground, background, 20)


def test_fill_slots_keeps_order_and_marks_empty_slots() -> None:
    chosen = torch.tensor([[False, True, True, False, True], [False, False, False, True, False]])
    slots = masks.fill_slots(chosen, 4)
    assert slots.positions[0, :3].tolist() == [1, 2, 4]
    assert slots.positions[1, 0] == 3
    assert slots.valid.tolist() == [[True, True, True, False], [True, False, False, False]]


@pytest.mark.parametrize("shots", [1, 4])
def test_global_prototype(shots: int) -> None:
    features, weight = _random(shots, 6, 4, 5), _random(shots, 4, 5, seed=1).clamp(min=0)
    weight[-1] = 0 if shots > 1 else weight[-1]
    got = masked_average(features, weight).mean(0)
    expected = slow_prototypes.global_prototype(_numpy(features), _numpy(weight))
    np.testing.assert_allclose(_numpy(got), expected, **CLOSE)


@pytest.mark.parametrize("grid", [(60, 60), (21, 21), (7, 5), (4, 4), (2, 3)])
def test_grid_average(grid: tuple[int, int]) -> None:
    features = _random(2, 3, *grid)
    valid = torch.ones(2, *grid, dtype=torch.bool)
    valid[1, grid[0] // 2 :] = False
    got = grid_average(features, valid, 4)
    for b in range(2):
        expected = slow_prototypes.grid_pool(_numpy(features[b]), _numpy(valid[b]), 4)
        np.testing.assert_allclose(_numpy(got[b]), expected, **CLOSE)


def test_local_prototype() -> None:
    torch.manual_seed(0)
    module = LocalPrototype(5, 8, 4, refine=True, dropout=0.0).double()
    reduced, prior = _random(2, 8, 9, 11).relu(), _random(2, 1, 9, 11, seed=3).sigmoid()
    valid = torch.ones(2, 9, 11, dtype=torch.bool)
    valid[0, :, 8:] = False
    convolution, excitation = module.refine
    for b in range(2):
        expected = slow_prototypes.local_prototype(
            _numpy(reduced[b]),
            _numpy(prior[b, 0]),
            _numpy(valid[b]),
            4,
            _numpy(convolution.weight[:, :, 0, 0]),
            _numpy(excitation.squeeze.weight),
            _numpy(excitation.excite.weight),
        )
        np.testing.assert_allclose(_numpy(module(reduced, prior, valid)[b]), expected, **CLOSE)


@pytest.mark.parametrize(("use_global", "use_local"), [(True, True), (True, False), (False, True), (False, False)])
def test_query_interaction_equals_the_literal_concatenation(use_global: bool, use_local: bool) -> None:
    torch.manual_seed(0)
    module = QueryInteraction(6, 6 if use_global else 0, 10 if use_local else 0).double()
    projected, prior = _random(2, 6, 4, 3), _random(2, 1, 4, 3, seed=1).sigmoid()
    whole, local = _random(2, 6, seed=2), _random(2, 10, seed=3)
    constants = [value for value, used in ((whole, use_global), (local, use_local)) if used]
    got = module(projected, prior, constants)
    for b in range(2):
        expected = slow_interaction.query_merge(
            _numpy(projected[b]),
            _numpy(whole[b]) if use_global else None,
            _numpy(local[b]) if use_local else None,
            _numpy(prior[b, 0]),
            _numpy(module.merge.weight[:, :, 0, 0]),
        )
        np.testing.assert_allclose(_numpy(got[b]), expected, **CLOSE)


def test_support_interaction_equals_the_literal_concatenation() -> None:
    torch.manual_seed(0)
    module = SupportInteraction(6).double()
    projected, own = _random(2, 6, 4, 3), _random(2, 6, seed=2)
    for b in range(2):
        expected = slow_interaction.support_merge(
            _numpy(projected[b]), _numpy(own[b]), _numpy(module.merge.weight[:, :, 0, 0])
        )
        np.testing.assert_allclose(_numpy(module(projected, own)[b]), expected, **CLOSE)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (6, 4)])
def test_sine_position(grid: tuple[int, int]) -> None:
    expected = slow_attention.sine_position(*grid, 16)
    got = sine_position(*grid, 16, torch.device("cpu")).T.unflatten(1, grid)
    np.testing.assert_allclose(_numpy(got), expected, **CLOSE)


def _deformable(grid: tuple[int, int]) -> tuple[DeformableSelfAttention, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    module = DeformableSelfAttention(8, heads=2, points=3).double()
    for layer in (module.offsets, module.weights):
        torch.nn.init.normal_(layer.weight, std=0.5)
    length = grid[0] * grid[1]
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[1, -3:] = False
    return module, _random(2, length, 8), _random(2, length, 8, seed=1), valid


@pytest.mark.parametrize("grid", [(5, 4), (3, 7)])
def test_deformable_attention(grid: tuple[int, int]) -> None:
    module, query, x, valid = _deformable(grid)
    names = {"value": "value", "offset": "offsets", "attn": "weights", "out": "output"}
    weights = {}
    for theirs, ours in names.items():
        layer = getattr(module, ours)
        weights |= {f"{theirs}_w": _numpy(layer.weight), f"{theirs}_b": _numpy(layer.bias)}
    got = module(query, x, valid, grid)
    for b in range(2):
        expected = slow_attention.deformable(_numpy(query[b]), _numpy(x[b]), *grid, _numpy(valid[b]), 2, 3, weights)
        np.testing.assert_allclose(_numpy(got[b]), expected, **CLOSE)


def test_deformable_attention_with_whole_offsets_is_a_gather() -> None:
    module = DeformableSelfAttention(4, heads=1, points=1).double()
    with torch.no_grad():
        for layer in (module.value, module.output):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
        module.offsets.bias.copy_(torch.tensor([1.0, 2.0]))  # one column to the right, two rows down
    x = _random(1, 30, 4)
    got = module(x, x, torch.ones(1, 30, dtype=torch.bool), (6, 5)).view(6, 5, 4)
    torch.testing.assert_close(got[:4, :4], x.view(6, 5, 4)[2:, 1:])
    assert got[4:].abs().max() == 0


def test_deformable_attention_has_right_gradients() -> None:
    module, query, x, valid = _deformable((3, 4))
    query.requires_grad_(True)
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda q, v: module(q, v, valid, (3, 4)), (query, x), atol=1e-4)


def test_cycle_mask() -> None:
    disagreements = 0
    for seed in range(8):
        query, keys = _random(2, 12, 4, seed=seed), _random(2, 9, 4, seed=seed + 100)  # [G,N,D], [G,T,D]
        labels = _random(9, seed=seed + 200) > 0
        query_valid, token_valid = _random(12, seed=seed + 300) > -1, _random(9, seed=seed + 400) > -1
        got = cycle_consistent(query[None], keys[None], query_valid[None], token_valid[None], labels[None])[0]
        expected = slow_attention.cycle_mask(
            _numpy(query.transpose(0, 1)),
            _numpy(keys.transpose(0, 1)),
            _numpy(query_valid),
            _numpy(token_valid),
            _numpy(labels),
        )
        np.testing.assert_array_equal(_numpy(got)[:, _numpy(token_valid)], expected[:, _numpy(token_valid)])
        assert got.any(-1).all()
        disagreements += int((~got[:, token_valid]).sum())
    assert disagreements > 0


def test_cycle_mask_by_hand() -> None:
    # Query 0 points along x, query 1 along y. Token 0 (foreground) and token 1 (background) both prefer query 0, whose
    # own best token is 0, so token 1 comes back to the other label; token 2 (background) comes back to itself.
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, None]
    keys = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[None, None]
    labels = torch.tensor([[True, False, False]])
    ones = torch.ones(1, 3, dtype=torch.bool)
    keep = cycle_consistent(query, keys, torch.ones(1, 2, dtype=torch.bool), ones, labels)
    assert keep[0, 0].tolist() == [True, False, True]


@pytest.mark.parametrize("cycle", [True, False])
def test_cross_attention(cycle: bool) -> None:
    torch.manual_seed(0)
    module = CycleCrossAttention(8, heads=2, cycle=cycle, dropout=0.0).double().eval()
    x, tokens = _random(1, 10, 8), _random(1, 7, 8, seed=1)
    valid, token_valid = torch.ones(1, 10, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    token_valid[0, -2:] = False
    labels = torch.tensor([[True, False, True, True, False, False, True]])

    def heads(layer: torch.nn.Linear, source: Tensor) -> np.ndarray:
        return _numpy(layer(source)[0].unflatten(-1, (2, 4)))

    query, keys, values = heads(module.query, x), heads(module.key, tokens), heads(module.value, tokens)
    keep = np.ones((2, 7), dtype=bool)
    if cycle:
        keep = slow_attention.cycle_mask(query, keys, _numpy(valid[0]), _numpy(token_valid[0]), _numpy(labels[0]))
    mixed = slow_attention.cross(query, keys, values, keep, _numpy(token_valid[0]))
    expected = mixed @ _numpy(module.output.weight).T
    np.testing.assert_allclose(_numpy(module(x, valid, tokens, token_valid, labels)[0]), expected, **CLOSE)


def test_cross_attention_without_a_usable_token_adds_nothing() -> None:
    module = CycleCrossAttention(8, heads=2, cycle=True, dropout=0.0).eval()
    none = torch.zeros(1, 4, dtype=torch.bool)
    got = module(torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool), torch.randn(1, 4, 8), none, none)
    assert got.abs().max() == 0
