"""Dice against the slow reference, closed forms and gradcheck; what is ignored has no influence and no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import losses as slow

from rifenet.training import losses


def _logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mask(*shape: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([0, 1, 255], dtype=torch.uint8)[drawn]


def test_dice_equals_the_reference() -> None:
    logits, mask = _logits(3, 2, 7, 5), _mask(3, 7, 5)
    expected = np.mean([slow.dice(logits[b].numpy(), mask[b].numpy()) for b in range(3)])
    np.testing.assert_allclose(float(losses.mask_dice(logits, mask)), expected, atol=1e-5)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 0.6])
def test_consistency_equals_the_reference(hard: bool, confidence: float) -> None:
    weak, strong = _logits(2, 3, 2, 4, 5), _logits(2, 3, 2, 4, 5, seed=1)
    valid = _logits(2, 3, 4, 5, seed=2) > -1
    got = losses.consistency(weak, strong, valid, hard=hard, confidence=confidence)
    expected = []
    for b in range(2):
        for u in range(3):
            probability = 1 / (1 + np.exp(-weak[b, u].numpy()))
            used = valid[b, u].numpy() & (probability.max(0) >= confidence)
            target = probability
            if hard:
                foreground = probability[1] > probability[0]
                target = np.stack([~foreground, foreground]).astype(np.float64)
            expected.append(slow.dice_soft(strong[b, u].numpy(), target, used))
    np.testing.assert_allclose(float(got), np.mean(expected), atol=1e-5)


def test_every_position_counts_unless_a_confidence_is_asked_for() -> None:
    weak, strong = _logits(1, 2, 2, 4, 5), _logits(1, 2, 2, 4, 5, seed=1)
    valid = torch.ones(1, 2, 4, 5, dtype=torch.bool)
    assert torch.equal(losses.consistency(weak, strong, valid), losses.consistency(weak, strong, valid, confidence=0.0))
    assert not torch.equal(
        losses.consistency(weak, strong, valid), losses.consistency(weak, strong, valid, confidence=0.9)
    )


def test_a_position_that_is_just_as_sure_as_asked_counts() -> None:
    even, other = torch.zeros(1, 1, 2, 3, 3), _logits(1, 1, 2, 3, 3, seed=1)  # probabilities of exactly a half
    valid = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    counted = [losses.consistency(even, other, valid, confidence=least) for least in (0.0, 0.5, 0.51)]
    assert torch.equal(counted[0], counted[1])
    assert not torch.equal(counted[0], counted[2])


def test_closed_forms() -> None:
    mask = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    sure = torch.where(torch.stack([mask == 0, mask == 1], 1), 50.0, -50.0)
    assert float(losses.mask_dice(sure, mask)) == pytest.approx(0, abs=1e-6)
    assert float(losses.mask_dice(-sure, mask)) == pytest.approx(2, abs=1e-6)
    # p = 0.5 everywhere: background 1 - 2*0.5/(3*0.25 + 1), foreground 1 - 2*1/(3*0.25 + 2)
    half = 1 - 1 / 1.75 + 1 - 2 / 2.75
    assert float(losses.mask_dice(torch.zeros(1, 2, 2, 2), mask)) == pytest.approx(half, abs=1e-6)


def test_ignored_pixels_have_no_influence_and_no_gradient() -> None:
    logits, mask = _logits(2, 2, 6, 6).requires_grad_(), _mask(2, 6, 6)
    loss = losses.mask_dice(logits, mask)
    loss.backward()
    ignored = (mask == 255)[:, None].expand_as(logits)
    assert logits.grad is not None
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0
    changed = torch.where(ignored, _logits(2, 2, 6, 6, seed=9), logits)
    assert float(losses.mask_dice(changed, mask).detach()) == float(loss.detach())


def test_gradients() -> None:
    logits, mask = _logits(2, 2, 3, 3).requires_grad_(), _mask(2, 3, 3)
    assert torch.autograd.gradcheck(lambda x: losses.mask_dice(x, mask), logits)
    other = _logits(1, 2, 2, 3, 3, seed=4).requires_grad_()
    valid = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    fixed = _logits(1, 2, 2, 3, 3, seed=5)
    assert torch.autograd.gradcheck(lambda x: losses.consistency(fixed, x, valid), other)


def test_no_gradient_through_a_pseudo_label() -> None:
    weak, strong = _logits(1, 1, 2, 4, 4).requires_grad_(), _logits(1, 1, 2, 4, 4, seed=1).requires_grad_()
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    losses.consistency(weak, strong, valid).backward()
    assert weak.grad is None
    assert strong.grad is not None
    one_way = strong.grad.clone()
    strong.grad = None
    losses.consistency(weak, strong, valid, mutual=True).backward()
    assert weak.grad is not None
    torch.testing.assert_close(strong.grad, one_way / 2)


def test_pseudo_labels_are_probabilities() -> None:
    target, weight = losses.pseudo_label(_logits(2, 2, 4, 4) * 9, hard=False, confidence=0.0)
    assert target.min() >= 0
    assert target.max() <= 1
    assert weight.min() == 1
    hard, _ = losses.pseudo_label(_logits(2, 2, 4, 4), hard=True, confidence=0.0)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert (hard.sum(1) == 1).all()
    _, strict = losses.pseudo_label(_logits(2, 2, 4, 4) * 0.01, hard=False, confidence=0.9)
    assert strict.sum() == 0


def test_a_hard_label_of_two_equal_channels_is_background() -> None:
    """As an untrained network's are everywhere; torch's largest of equals is the first, too."""
    logits = torch.tensor([0.3, -0.1, 0.3, 0.7]).reshape(1, 1, 2, 2).repeat(1, 2, 1, 1)
    target, _ = losses.pseudo_label(logits, hard=True, confidence=0.0)
    assert target[:, 0].min() == 1
    assert target[:, 1].max() == 0
    nearly = logits.clone()
    nearly[0, 1, 0, 1] += 1e-3
    target, _ = losses.pseudo_label(nearly, hard=True, confidence=0.0)
    assert target[0, 1].tolist() == [[0, 1], [0, 0]]


def test_dice_where_nothing_is_marked_and_nothing_found() -> None:
    """1 for each channel, not 0/0, and sums as small as `EPS` count half."""
    nothing = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    assert float(losses.dice(nothing, nothing, torch.ones(1, 3, 3))) == 2
    small = nothing.clone()
    small[:, :, 0, 0] = (losses.EPS / 2) ** 0.5  # p = t: overlap EPS / 2, sum of both squares EPS
    found = float(losses.dice(small, small, torch.ones(1, 3, 3)))
    assert found == pytest.approx(2 * (1 - 1 / 2), rel=1e-6)


def test_terms_sum_to_the_total() -> None:
    terms = {"query": torch.tensor(0.7), "aux": torch.tensor(0.4), "self": torch.tensor(0.2)}
    assert float(losses.total(terms, 0.5, 2.0)) == pytest.approx(0.7 + 0.2 + 0.4)
    assert float(losses.total({"query": terms["query"]}, 0.5, 2.0)) == pytest.approx(0.7)


def test_better_predictions_lose_less() -> None:
    mask = _mask(1, 12, 12)
    good = torch.where(torch.stack([mask == 0, mask == 1], 1), 1.0, -1.0)
    values = [float(losses.mask_dice(good * scale, mask)) for scale in (-2.0, 0.0, 1.0, 3.0)]
    assert values == sorted(values, reverse=True)
