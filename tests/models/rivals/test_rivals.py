"""The heads of other papers: each against its equations in loops, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from reference import rivals as reference
from tiny_model import SMALL

from rifenet.config import Config, DataConfig, ModelConfig, TrainConfig, effective
from rifenet.evaluation.costs import costs
from rifenet.models import RiFeNet, build_model
from rifenet.models.backbones import Features
from rifenet.models.files.checkpoint import read_model, save_model
from rifenet.models.prior import prior_mask
from rifenet.models.rivals.cyctr import CyCTR
from rifenet.models.rivals.hsnet import CentrePivotConv4d, HSNet, Pyramid, correlation, pyramid
from rifenet.models.rivals.pfenet import FeatureEnrichment, PFENet, PFENetOutput, scale_sizes

KINDS = ("pfenet", "hsnet", "cyctr")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 against float64


def made(kind: str, **fields: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(**{**SMALL, "kind": kind, **fields})
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.5)  # a random deep network maps all images to the same features
    return model


def episode(batch: int = 2, shots: int = 1, size: int = 97) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, shots + 1, 3, size, size, generator=generator)
    masks = torch.zeros(batch, shots + 1, size, size, dtype=torch.uint8)
    masks[..., 20:70, 30:80] = 1
    images[..., 20:70, 30:80] *= 0.4
    return {
        "support_images": images[:, 1:],
        "support_masks": masks[:, 1:],
        "query_images": images[:, 0],
        "query_masks": masks[:, 0],
    }


def test_feature_enrichment_is_pfenets() -> None:
    torch.manual_seed(0)
    module = FeatureEnrichment(3).eval()
    query, prototype, prior = torch.randn(2, 3, 9, 5), torch.randn(2, 3), torch.rand(2, 1, 9, 5)
    weights = {
        name.removesuffix(".weight").removesuffix(".0"): value.double().numpy()
        for name, value in module.state_dict().items()
    }
    weights = {name: value[:, :, 0, 0] if value.shape[-1] == 1 else value for name, value in weights.items()}
    with torch.no_grad():
        found, scales = module(query, prototype, prior)
    for number in range(2):
        given = (part[number].double().numpy() for part in (query, prototype, prior))
        expected, expected_scales = reference.enriched(*given, weights)
        np.testing.assert_allclose(found[number], expected, **TOLERANCE)
        for scale, own in zip(scales, expected_scales, strict=True):
            np.testing.assert_allclose(scale[number], own, **TOLERANCE)


def test_pfenets_scales_are_the_papers_at_its_input() -> None:
    assert scale_sizes(60, 60) == [(60, 60), (30, 30), (15, 15), (8, 8)]


def test_pfenet_enriches_the_query_by_prior_and_prototype() -> None:
    model = made("pfenet").eval()
    given = episode()
    with torch.no_grad():
        context = model.encode_support(given["support_images"], given["support_masks"])
        query = model.encode_query(given["query_images"])
        decoded = model.decode_all(query, context)
        prior = prior_mask(query.high, query.valid, context.prior_keys, context.prior_valid)
        enriched, scales = model.enrichment(query.projected, context.prototype, prior)
        assert torch.equal(decoded.logits, model.head(model.residual(enriched)))
        output = model(**given)
        expected = [head(scale) for head, scale in zip(model.scale_heads, scales, strict=True)]
    assert isinstance(output, PFENetOutput)
    for own, other in zip(output.scales, expected, strict=True):
        # The batch of the whole episode sums in another order than that of the queries alone.
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 4)])
def test_the_centre_pivot_convolution_is_a_4d_convolution(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    module = CentrePivotConv4d(2, 3, kernel, stride)
    x = torch.randn(2, 2, 3, 4, 5, 6)
    with torch.no_grad():
        found = module(x)
    query, support = module.over_query, module.over_support
    bias = (query.bias + support.bias).detach().double().numpy()
    for number in range(2):
        expected = reference.centre_pivot(
            x[number].double().numpy(),
            query.weight.detach().double().numpy(),
            support.weight.detach().double().numpy(),
            bias,
            stride,
        )
        np.testing.assert_allclose(found[number], expected, **TOLERANCE)


def test_correlations_are_clamped_cosines_to_the_masked_support() -> None:
    generator = torch.Generator().manual_seed(0)
    query, support = torch.randn(4, 3, 5, generator=generator), torch.randn(4, 3, 5, generator=generator)
    mask = torch.tensor([[0, 1, 1, 0, 0.5]] * 3)
    features = Features(*(query[None],) * 4)
    supports = Features(*(support[None, None],) * 4)
    found = correlation(pyramid(features).fine, pyramid(supports, mask[None, None]).fine[:, 0])
    expected = reference.correlation(query.double().numpy(), support.double().numpy(), mask.double().numpy())
    np.testing.assert_allclose(found[0, 0], expected, **TOLERANCE)
    assert (expected == 0).mean() > 0.5
    assert [level.shape[2:] for level in pyramid(features)] == [(3, 5), (2, 3), (1, 2)]


def test_hsnet_mixes_from_coarse_to_fine_and_averages_the_support() -> None:
    model = made("hsnet").eval()
    generator = torch.Generator().manual_seed(0)
    query, support = (
        Pyramid(*(torch.randn(1, 4, side, side, generator=generator) for side in (8, 4, 2))) for _ in range(2)
    )
    with torch.no_grad():
        logits, found, _, _ = model._decode_shot(query, support)
        pairs = zip(model.squeeze, query, support, strict=True)
        fine, middle, coarse = (squeeze(correlation(own, other)) for squeeze, own, other in pairs)
        assert fine.shape[4:] == middle.shape[4:] == coarse.shape[4:] == (1, 1)

        def upwards(x: torch.Tensor, side: int) -> torch.Tensor:
            flat = torch.nn.functional.interpolate(x[..., 0, 0], (side, side), mode="bilinear", align_corners=True)
            return flat[..., None, None]

        mixed = model.mix[0](middle + upwards(coarse, 4))
        mixed = model.mix[1](fine + upwards(mixed, 8))
    torch.testing.assert_close(found, mixed[..., 0, 0])
    assert logits.shape == (1, 2, 16, 16)


def test_hsnets_shots_are_averaged_and_their_order_does_not_matter() -> None:
    model = made("hsnet").eval()
    given = episode(shots=3)
    with torch.no_grad():
        query = model.encode_query(given["query_images"])
        both = model.decode(query, model.encode_support(given["support_images"], given["support_masks"]))
        alone = [
            model.decode(query, model.encode_support(image[:, None], mask[:, None]))
            for image, mask in zip(given["support_images"].unbind(1), given["support_masks"].unbind(1), strict=True)
        ]
    torch.testing.assert_close(both, torch.stack(alone).mean(0), rtol=1e-3, atol=1e-5)


def test_cyctr_is_rifenet_without_its_two_ideas() -> None:
    """With the same weights, CyCTR answers as a RiFeNet whose local prototype is off; it has no unlabeled branch."""
    cyctr, plain = made("cyctr").eval(), made("rifenet", use_local=False).eval()
    assert isinstance(cyctr, CyCTR)
    plain.load_state_dict(cyctr.state_dict())
    given = episode()
    with torch.no_grad():
        assert torch.equal(cyctr(**given).logits, plain(**given).logits)
    config = Config(data=DataConfig(root="x"), model=ModelConfig(kind="cyctr"), train=TrainConfig(unlabeled=2))
    assert effective(config).train.unlabeled == 0
    assert effective(replace(config, model=ModelConfig())).train.unlabeled == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shots", [1, 2])
def test_every_trained_parameter_gets_a_gradient_and_the_backbone_none(kind: str, shots: int) -> None:
    model = made(kind).train()
    output = model(**episode(shots=shots))
    extra = sum(each.square().sum() for each in getattr(output, "scales", []))
    auxiliary = 0 if output.aux_logits is None else output.aux_logits.square().sum()
    (output.logits.square().sum() + extra + auxiliary).backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert missing == []
    assert not any(value.requires_grad for value in model.backbone.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_segmented_the_same_alone_and_among_others(kind: str) -> None:
    model = made(kind).eval()
    given = episode()
    with torch.no_grad():
        together = model(**given).logits
        context = model.encode_support(given["support_images"][:1], given["support_masks"][:1])
        alone = model.decode(model.encode_query(given["query_images"][:1]), context)
        both = model.decode(model.encode_query(given["query_images"]), context)
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)
    assert both.shape == together.shape, "one class serves many photos"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_read_again(kind: str, tmp_path: Any) -> None:
    model = made(kind).eval()
    save_model(model, tmp_path / "model.safetensors", {"image_size": 97}, with_backbone=True)
    again = read_model(tmp_path / "model.safetensors").eval()
    assert type(again) is type(model)
    own, other = (
        {name: value for name, value in each.state_dict().items() if not name.startswith(("backbone.", "auxiliary."))}
        for each in (model, again)
    )
    assert own.keys() == other.keys()
    for name, value in own.items():  # files that hold the backbone hold matrices in half precision
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("pfenet", {"feature enrichment (PFENet)", "heads of the scales (training)", "projections"}),
        ("hsnet", {"4D convolutions (HSNet)", "decoder (HSNet)"}),
        ("cyctr", {"feature activation", "projections"}),
    ],
)
def test_parameters_and_multiply_adds_are_counted(kind: str, parts: set[str]) -> None:
    config = ModelConfig(**{**SMALL, "kind": kind})
    found = costs(config, 97)
    assert parts <= found.keys()
    model = build_model(replace(config, pretrained=False))
    assert found["all"].parameters == sum(value.numel() for value in model.parameters())
    assert found["all"].query > 0
    assert found["all"].step >= found["all"].query


def test_hsnets_multiply_adds_are_those_of_its_convolutions() -> None:
    """By hand: each 2D convolution of a pair, at each position of the other side's."""
    config = ModelConfig(**{**SMALL, "kind": "hsnet"})
    side, total = 7, 0  # of the features, at 97 pixels and stride 16
    widths = (2, 8, 16)
    sides = [-(-side // 2**level) for level in range(3)]
    for here, steps in zip(sides, (((5, 4), (5, 4), (3, 2)), ((5, 4), (3, 2), (3, 2)), ((3, 2),) * 3), strict=True):
        channels, support = 1, here
        for out, (kernel, stride) in zip(widths, steps, strict=True):
            support = -(-support // stride)
            total += 2 * here**2 * support**2 * channels * out * kernel**2
            channels = out
    for here in sides[:2]:
        total += 3 * 2 * here**2 * 16 * 16 * 9
    assert costs(config, 97)["4D convolutions (HSNet)"].query == total


def test_what_is_not_in_the_paper_is_refused() -> None:
    with pytest.raises(ValueError, match="as its paper has it"):
        ModelConfig(kind="pfenet", evidence=True)
    with pytest.raises(ValueError, match="as its paper has it"):
        ModelConfig(kind="hsnet", support_views=2)


def test_each_kind_builds_its_own_head() -> None:
    assert [type(made(kind)) for kind in KINDS] == [PFENet, HSNet, CyCTR]
    assert all(isinstance(made(kind), RiFeNet) for kind in KINDS)
