"""Training-free matching against a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rifenet.models.matching import matching_features, matching_prototypes, matching_score


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_score_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    stages = [torch.randn(1, 2, channels, 3, 4, generator=generator) for channels in (5, 3)]
    query = [torch.randn(1, channels, 4, 5, generator=generator) for channels in (5, 3)]
    foreground = torch.rand(1, 2, 3, 4, generator=generator)
    void = (torch.rand(1, 2, 3, 4, generator=generator) * 0.3).minimum(1 - foreground)
    prototypes = matching_prototypes(matching_features(stages, dim=2), foreground, void)
    got = matching_score(matching_features(query, dim=1), prototypes)[0, 0].numpy()

    def joined(maps: list[torch.Tensor], index: tuple[int, ...]) -> np.ndarray:
        return _unit(np.concatenate([_unit(stage[index].double().numpy()) for stage in maps]))

    sums = np.zeros((2, 8))
    for shot in range(2):
        for row in range(3):
            for column in range(4):
                feature = joined(stages, (0, shot, slice(None), row, column))  # type: ignore[arg-type]
                weight = float(foreground[0, shot, row, column])
                sums[1] += weight * feature
                sums[0] += max(1 - weight - float(void[0, shot, row, column]), 0) * feature
    for row in range(4):
        for column in range(5):
            feature = joined(query, (0, slice(None), row, column))  # type: ignore[arg-type]
            expected = feature @ _unit(sums[1]) - feature @ _unit(sums[0])
            assert got[row, column] == pytest.approx(expected, abs=1e-5)
