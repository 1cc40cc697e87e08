"""Training-free matching and the fallback: against a slow loop, and that it takes over exactly where it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rifenet.models import RiFeNet, build_model
from rifenet.models.masks import SoftMasks
from rifenet.models.matching import matching_features, matching_prototypes, matching_score, overlap


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


def test_overlap_by_hand() -> None:
    foreground = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
    void = torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]])
    found = torch.tensor([[[[True, False, True, True]]]])
    # Found foreground 1, all foreground 1.5, found background 1 (the ignored position is in neither).
    assert float(overlap(found, SoftMasks(foreground, void))) == pytest.approx(1 / 2.5)


@pytest.fixture(scope="module")
def model() -> RiFeNet:
    torch.manual_seed(0)
    built = build_model(
        backbone="efficientnet_lite0", stride=16, embed_dim=32, heads=4, high=(5, 7), fallback=True, aux=False
    )
    assert isinstance(built, RiFeNet)
    return built.eval()


def _episode() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 2, 3, 97, 97, generator=generator) * 0.3
    masks = torch.zeros(2, 2, 97, 97, dtype=torch.uint8)
    images[:, :, 0, 20:60, 20:60] = 1.0
    masks[:, :, 20:60, 20:60] = 1
    query = torch.rand(2, 3, 97, 97, generator=generator) * 0.3
    query[:, 0, 40:80, 30:70] = 1.0
    return images, masks, query


def test_a_class_that_the_network_does_not_find_is_matched(model: RiFeNet) -> None:
    images, masks, query = _episode()
    with torch.inference_mode():
        model.head.classify.bias.copy_(torch.tensor([50.0, -50.0]))  # a network that finds nothing at all
        context = model.encode_support(images, masks)
        logits = model.decode(model.encode_query(query), context)
        assert not context.trusted.any()
        truth = torch.nn.functional.interpolate(
            (query[:, :1] > 0.9).float(), size=logits.shape[2:], mode="bilinear", align_corners=True
        )
        found = logits[:, 1] > logits[:, 0]
        assert ((found & (truth[:, 0] > 0.5)).sum() / (found | (truth[:, 0] > 0.5)).sum()) > 0.4

        trusting = context._replace(trusted=torch.tensor([True, False]))
        mixed = model.decode(model.encode_query(query), trusting)
        torch.testing.assert_close(mixed[1], logits[1])
        assert (mixed[0, 0] > mixed[0, 1]).all()


def test_a_class_that_the_network_finds_is_not(model: RiFeNet) -> None:
    images, masks, _ = _episode()
    masks[:] = 1
    with torch.inference_mode():
        model.head.classify.bias.copy_(torch.tensor([-50.0, 50.0]))  # a network that finds everything
        assert model.encode_support(images, masks).trusted.all()


def test_training_is_without_fallback(model: RiFeNet) -> None:
    """`forward` trains the network itself, and the fallback has no parameter."""
    plain = build_model(
        backbone="efficientnet_lite0", stride=16, embed_dim=32, heads=4, high=(5, 7), fallback=False, aux=False
    )
    assert set(plain.state_dict()) == set(model.state_dict())
    plain.load_state_dict(model.state_dict())
    images, masks, query = _episode()
    assert isinstance(plain, RiFeNet)
    with torch.inference_mode():
        torch.testing.assert_close(model(images, masks, query).logits, plain.eval()(images, masks, query).logits)
