"""The head for any backbone: its similarities against a plain computation, and what must not change its answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rifenet.models.beyond.any_backbone import (
    DEVIATION,
    LARGEST,
    AnyBackboneHead,
    centred_units,
    evidence_maps,
    reference_of,
    scaled_similarities,
)
from rifenet.models.beyond.evidence import EvidenceKeys, chosen_keys
from rifenet.models.masks import SoftMasks

CHANNELS = (6, 4, 5)
GRID = (5, 4)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def photos(count: int = 4, channels: tuple[int, ...] = CHANNELS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with a large mean, as those after a ReLU have, and real positions; padding holds a wild value."""
    high = drawn(count, sum(channels), *GRID, seed=seed) ** 3 + 2
    valid = torch.ones(count, *GRID, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1, :, 3:] = False
    return torch.where(valid[:, None], high, torch.full_like(high, 50.0)), valid


def plain_reference(high: np.ndarray, valid: np.ndarray, channels: tuple[int, ...]) -> tuple[np.ndarray, list[float]]:
    """Mean of each channel and factor of each stage, position by position."""
    seen = [(photo, high[photo, :, y, x]) for photo, y, x in np.argwhere(valid)]
    centre = sum(vector for _, vector in seen) / len(seen)
    factors, start = [], 0
    for width in channels:
        part = slice(start, start + width)
        start += width
        cosines = []
        for photo, vector in seen:
            for other, second in seen:
                if photo != other:
                    one, two = vector[part] - centre[part], second[part] - centre[part]
                    cosines.append(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
        factors.append(DEVIATION / np.std(cosines, ddof=1))
    return centre, factors


def test_reference_is_the_plain_computation_over_real_positions() -> None:
    high, valid = photos()
    got = reference_of(high, valid, CHANNELS)
    centre, factors = plain_reference(high.numpy(), valid.numpy(), CHANNELS)
    np.testing.assert_allclose(got.centre, centre, rtol=1e-5)  # float32 inside
    np.testing.assert_allclose(got.scale, factors, rtol=1e-4)


def test_similarities_are_the_plain_computation() -> None:
    high, valid = photos()
    reference = reference_of(high, valid, CHANNELS)
    units = centred_units(high, reference.centre, CHANNELS, 1).flatten(2).transpose(1, 2)
    got = scaled_similarities(units[:1], units[2:3], reference.scale, CHANNELS)
    centre, factors = plain_reference(high.numpy(), valid.numpy(), CHANNELS)
    flat = high.flatten(2).numpy()
    for i in range(flat.shape[2]):
        for j in range(flat.shape[2]):
            each, start = [], 0
            for width, factor in zip(CHANNELS, factors, strict=True):
                part = slice(start, start + width)
                start += width
                one, two = flat[0, part, i] - centre[part], flat[2, part, j] - centre[part]
                each.append(min(factor * (one @ two) / (np.linalg.norm(one) * np.linalg.norm(two)), LARGEST))
            found = [stage[0, i, j].item() for stage in got]
            np.testing.assert_allclose(found, [*each, np.mean(each)], atol=1e-4)


def test_evidence_maps_are_the_plain_computation() -> None:
    similarities = [drawn(1, 6, 5, seed=seed).float() * 2 - 1 for seed in (1, 2)]
    to_means = [drawn(1, 6, 2, seed=seed).float() for seed in (3, 4)]
    weights = torch.tensor([[[1.0, 0.8, 0.4, 0.0, 0.0], [0.0, 0.2, 0.6, 1.0, 0.0]]])  # the last slot is empty
    keys = EvidenceKeys(torch.zeros(1, 5, 3), weights, torch.zeros(1, 2, 3))
    for got, cosines, means in zip(evidence_maps(similarities, to_means, keys), similarities, to_means, strict=True):
        for n in range(6):
            row = cosines[0, n]
            votes = [sum((weights[0, label] / weights[0, label].sum()) * (20 * row).exp()) for label in (0, 1)]
            expected = [
                max(row[2], row[3]),  # at least half of the largest foreground weight
                max(row[0], row[1]),  # a background weight above one half
                *(means[0, n, 1], means[0, n, 0]),
                votes[1] / (votes[0] + votes[1]),
            ]
            np.testing.assert_allclose(got[0, :, n], torch.stack([torch.as_tensor(e) for e in expected]), atol=1e-5)


class Case:
    """A trained-looking head, one support and one query, and the logits over features changed in some way."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        torch.manual_seed(0)
        self.channels = channels
        self.head = AnyBackboneHead(channels, dim=32).eval()
        for last in (self.head.estimate, self.head.decoder.classify):
            torch.nn.init.normal_(last.weight, std=0.3)
        self.high, self.valid = (part.float() if part.is_floating_point() else part for part in photos(6, channels))
        self.fine = drawn(1, 8, 9, 7, seed=7).float()

    def logits(self, high: Tensor, channels: tuple[int, ...] | None = None) -> Tensor:
        """The query is the first photo, which has padding; the support the second, and the reference is all."""
        self.head.channels = channels or self.channels
        reference = reference_of(high, self.valid, self.head.channels)
        self.head.centre, self.head.scale = reference
        void = (~self.valid[1:2, None]).float()
        foreground = torch.zeros(1, 1, *GRID)
        foreground[..., 1:3, 1:3] = 1.0
        keys = chosen_keys(self.head.units(high[1:2, None], 2), SoftMasks(foreground, void), 100)
        with torch.no_grad():
            fine: Tensor = self.head(self.head.units(high[:1], 1), self.valid[:1], self.fine, keys).fine
        return fine


def test_a_vector_added_to_all_features_and_a_factor_of_a_stage_change_nothing() -> None:
    case = Case()
    plain = case.logits(case.high)
    assert plain.std() > 0.1, "logits that are all alike would show nothing"
    moved = case.high + drawn(sum(CHANNELS), seed=5).float()[:, None, None] * 4
    torch.testing.assert_close(case.logits(moved), plain, atol=1e-3, rtol=1e-3)  # float32 of larger numbers
    factor = torch.cat([torch.full((width,), value) for width, value in zip(CHANNELS, (0.1, 7.0, 30.0), strict=True)])
    torch.testing.assert_close(case.logits(case.high * factor[:, None, None]), plain, atol=1e-3, rtol=1e-3)


def test_order_of_channels_and_of_stages_changes_nothing() -> None:
    case = Case()
    plain = case.logits(case.high)
    stages = list(case.high.split(CHANNELS, 1))
    turned = torch.cat([stage.flip(1) for stage in stages], 1)
    torch.testing.assert_close(case.logits(turned), plain, atol=1e-4, rtol=1e-4)
    order = (2, 0, 1)
    swapped = torch.cat([stages[i] for i in order], 1)
    torch.testing.assert_close(case.logits(swapped, tuple(CHANNELS[i] for i in order)), plain, atol=1e-4, rtol=1e-4)


def test_a_stage_given_twice_changes_nothing_if_all_are() -> None:
    case = Case()
    twice = torch.cat([case.high, case.high], 1)
    torch.testing.assert_close(case.logits(twice, CHANNELS * 2), case.logits(case.high), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_stages_will_do(count: int) -> None:
    case = Case((3,) * count)
    assert torch.isfinite(case.logits(case.high)).all()


def test_padding_does_not_matter() -> None:
    case = Case()
    other = torch.where(case.valid[:, None], case.high, torch.full_like(case.high, -9.0))
    real = case.valid[0].float()[None, None]
    inside = torch.nn.functional.interpolate(real, (9, 7), mode="bilinear", align_corners=True) >= 0.5
    difference = (case.logits(other) - case.logits(case.high)).abs() * inside
    assert difference.max() < 1e-4
    case.fine = torch.where(inside, case.fine, torch.full_like(case.fine, 3.0))
    torch.testing.assert_close(case.logits(other) * inside, case.logits(case.high) * inside, atol=1e-4, rtol=1e-4)
