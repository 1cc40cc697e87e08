"""A training step against the plain formulas of tests/reference/network.py: logits, losses, gradients, new weights.

The oracle runs in float64. The network fixes float32 for masks, prior and cycles, so it is compared in float32: within
2e-5 of the largest number of each tensor, gradients within 5e-5. One layer alone runs in float64, within 1e-10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from reference import network as slow
from tiny_model import SMALL
from torch import Tensor, nn

from rifenet.config import TrainConfig
from rifenet.models import RiFeNet, build_model
from rifenet.models.activation import ActivationLayer
from rifenet.models.attention import sine_position
from rifenet.models.backbones import Features
from rifenet.training import losses
from rifenet.training.loop import loss_terms
from rifenet.training.optim import build_optimizers, set_learning_rates

BATCH, SHOTS, UNLABELED = 2, 2, 2
IMAGE, GRID = (40, 34), (6, 5)  # a step of the grid is no whole number of pixels, so masks are soft
OPTIONS: dict[str, Any] = SMALL | {
    **{"embed_dim": 16, "points": 3, "local_dim": 8, "local_grid": 4, "layers": 2, "random_tokens": False},
    **{"tokens_per_label": 9, "max_support_tokens": 30, "max_prior_keys": 8},
    **{"proj_dropout": 0.0, "dropout": 0.0, "head_dropout": 0.0},
}
"""All caps bind: 60 positions, of which 2 * 9 * 2 = 36 would be tokens; two shots share 8 keys."""
SLOW = slow.Options(heads=4, points=3, layers=2, grid=4, tokens=9, max_tokens=30, max_keys=8)


def _close(actual: Tensor, expected: Tensor, name: str, within: float = 2e-5) -> None:
    assert actual.shape == expected.shape, name
    difference = (actual.detach().double() - expected.detach()).abs().max().item()
    assert difference <= within * max(expected.abs().max().item(), 1e-3), f"{name}: {difference}"


def _shaken(module: nn.Module, seed: int) -> None:
    """No parameter keeps its initial zero or one, so that all of them say something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("backbone."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)


def _masks() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support masks and valid [B,K,H,W], query masks and valid [B,H,W]: padding, ignored parts and a tiny object."""
    support = torch.zeros(BATCH, SHOTS, *IMAGE, dtype=torch.long)
    support[0, 0, 4:30, 3:20] = 1
    support[0, 1, 10:36, 9:31] = 1
    support[1, 0, 2:22, 12:34] = 1
    support[1, 1, 7, 8] = 1  # no position of the grid has half of it
    support[0, 0, 20:27, 10:18] = support[1, 0, 30:40] = 255
    support_valid = torch.ones_like(support, dtype=torch.bool)
    support_valid[0, 1, :, 29:] = support_valid[1, 1, 32:] = False
    support[0, 1][~support_valid[0, 1]] = 255  # the other's padding carries no label, and is no background all the same
    query = torch.zeros(BATCH, *IMAGE, dtype=torch.long)
    query[0, 5:25, 8:27] = query[1, 14:33, 2:21] = 1
    query[0, 0:8, 20:34] = 255
    query_valid = torch.ones_like(query, dtype=torch.bool)
    query_valid[0, 31:] = query_valid[1, :, 27:] = False
    query[~query_valid] = 255
    return support, support_valid, query, query_valid


@dataclass
class Step:
    """One batch as the network and as the oracle take it."""

    batch: dict[str, Any]
    slow: dict[str, Any]


@pytest.fixture(scope="module")
def step() -> Step:
    generator = torch.Generator().manual_seed(3)
    widths = _model().backbone

    def features(*lead: int) -> Features:
        shapes = (widths.low_channels, widths.mid_channels, widths.high_channels, 0)
        return Features(*(torch.randn(*lead, channels, *GRID, generator=generator) for channels in shapes))

    support, query = features(BATCH, SHOTS), features(BATCH)
    weak, strong = features(BATCH, UNLABELED), features(BATCH, UNLABELED)
    masks, support_valid, query_masks, query_valid = _masks()
    unlabeled_valid = torch.ones(BATCH, UNLABELED, *IMAGE, dtype=torch.bool)
    unlabeled_valid[0, 1, 28:] = unlabeled_valid[1, 0, :, 26:] = False
    batch = {
        **{"support_images": support, "support_masks": masks, "support_valid": support_valid},
        **{"query_images": query, "query_masks": query_masks, "query_valid": query_valid},
        **{"unlabeled_weak": weak, "unlabeled_strong": strong, "unlabeled_valid": unlabeled_valid},
    }

    def levels(found: Features, valid: Tensor) -> tuple[Tensor, ...]:
        return (*(level.double() for level in found[:3]), valid)

    views = {"weak": levels(weak, unlabeled_valid), "strong": levels(strong, unlabeled_valid)}
    known = {"support": levels(support, support_valid), "query": levels(query, query_valid)}
    return Step(batch, {**known, **views, "masks": masks, "query_mask": query_masks})


def _model(**options: Any) -> RiFeNet:
    torch.manual_seed(0)
    model = build_model(**OPTIONS | options)
    assert isinstance(model, RiFeNet)
    _shaken(model, seed=1)
    return model.train()


def _state(module: nn.Module) -> slow.State:
    return {
        name: parameter.detach().double().requires_grad_()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def test_one_activation_layer_in_float64() -> None:
    off = dict.fromkeys(("dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout"), 0.0)
    torch.manual_seed(0)
    switches = {"self_attention": True, "cross_attention": True, "cycle": True}
    layer = ActivationLayer(16, heads=4, points=3, ffn_ratio=3, **switches, **off)
    _shaken(layer, seed=2)
    layer.double()
    x, tokens = torch.randn(2, 30, 16, dtype=torch.float64), torch.randn(2, 12, 16, dtype=torch.float64)
    valid, usable = torch.ones(2, *GRID, dtype=torch.bool), torch.ones(2, 12, dtype=torch.bool)
    valid[0, 4:], valid[1, :, 3:], usable[0, 9:], usable[1, 4] = False, False, False, False
    labels = torch.rand(2, 12) > 0.5
    place = slow.sine_positions(*GRID, 16, x)
    _close(sine_position(*GRID, 16, x.device), place, "positions")
    actual = layer(x, place, valid.flatten(1), GRID, tokens, usable, labels)
    state = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    for b in range(2):
        given = x[b], valid[b], tokens[b], labels[b], usable[b]
        _close(actual[b], slow.activation_layer(state, "layer", *given, 4, 3), f"image {b}", within=1e-10)


@pytest.mark.parametrize("guide", ["query", "self", "none"])
def test_logits(guide: str, step: Step) -> None:
    model = _model(guide=guide)
    batch = dict(step.batch)
    images = (batch.pop("support_images"), batch.pop("support_masks"), batch.pop("query_images"))
    output = model(*images, **batch)
    expected = slow.forward(_state(model), step.slow, SLOW, guide)
    assert output.aux_logits is not None
    assert output.weak_logits is not None
    assert output.strong_logits is not None
    _close(output.logits, expected["query"], "query")
    _close(output.aux_logits, expected["aux"], "aux")
    _close(output.weak_logits, expected["weak"], "weak")
    _close(output.strong_logits, expected["strong"], "strong")


def test_logits_of_the_test(step: Step) -> None:
    """Without graph and in evaluation mode a CPU takes other kernels, and a context serves many queries."""
    model = _model().eval()
    batch, views = step.batch, {name: value for name, value in step.slow.items() if name not in ("weak", "strong")}
    expected = slow.forward(_state(model), views, SLOW)["query"]
    with torch.no_grad():
        context = model.encode_support(batch["support_images"], batch["support_masks"], batch["support_valid"])
        query = model.encode_query(batch["query_images"], batch["query_valid"])
        _close(model.decode(query, context), expected, "query")
        one = context.map(lambda field: field[:1])
        _close(model.decode(query, one)[:1], expected[:1], "one context")


WAYS: list[dict[str, Any]] = [
    {},
    {"pseudo_labels": "mutual", "w_aux": 0.3, "beta": 0.7},
    {"hard_labels": True, "confidence": 0.6},
    {"pseudo_labels": "mutual", "confidence": 0.6},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "default")
@pytest.mark.parametrize("guide", ["query", "self"])
def test_losses_and_gradients(guide: str, way: dict[str, Any], step: Step) -> None:
    settings = TrainConfig(**way)
    model = _model(guide=guide)
    terms = loss_terms(model, model, step.batch, settings)
    total = losses.total(terms, settings.w_aux, settings.beta)
    total.backward()

    state = _state(model)
    expected = slow.losses(
        slow.forward(state, step.slow, SLOW, guide),
        step.slow,
        beta=settings.beta,
        w_aux=settings.w_aux,
        mutual=settings.pseudo_labels == "mutual",
        hard=settings.hard_labels,
        confidence=settings.confidence,
    )
    assert terms.keys() == {"query", "aux", "self"}
    for name, value in {**terms, "total": total}.items():
        _close(value, expected[name], name)
    gradients = slow.gradients(expected["total"], state)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert gradients[name].abs().max() > 0, name
            _close(parameter.grad, gradients[name], name, within=5e-5)


@pytest.mark.parametrize("optimizer", ["paper", "adamw"])
def test_weights_after_two_steps(optimizer: str) -> None:
    model = _model()
    given = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.02, "transformer_weight_decay": 0.3}
    settings = TrainConfig(optimizer=optimizer, transformer_lr=0.004, **given)
    before = {name: value.detach().double() for name, value in model.named_parameters() if value.requires_grad}
    generator = torch.Generator().manual_seed(5)
    steps = [{n: torch.randn(v.shape, generator=generator).double() for n, v in before.items()} for _ in range(2)]
    clipped = [slow.clip(gradients, settings.clip) for gradients in steps]
    optimizers = build_optimizers(model, settings)
    set_learning_rates(optimizers, [settings.lr, settings.transformer_lr])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for gradients in steps:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].float() if parameter.requires_grad else None
        nn.utils.clip_grad_norm_(trained, settings.clip)
        for each in optimizers:
            each.step()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = [gradients[name] for gradients in clipped]
        decay = 0.0 if name.endswith("bias") else settings.transformer_weight_decay
        if optimizer == "adamw":
            expected = slow.adamw(before[name], own, settings.lr, decay)
        elif name.startswith("activation."):
            expected = slow.adamw(before[name], own, settings.transformer_lr, decay)
        else:
            expected = slow.sgd(before[name], own, settings.lr, settings.momentum, settings.weight_decay)
        _close(parameter, expected, name, within=1e-5)
