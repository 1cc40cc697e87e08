"""Each fast variant gives what the plain equation gives, and runs where it is meant to."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rifenet.models import attention, kernels
from rifenet.models.attention import CycleCrossAttention, DeformableSelfAttention, most_alike, sample_and_mix
from rifenet.models.beyond.evidence import _by_label, _by_label_in_place, _weighted
from rifenet.models.kernels import (
    WIDTH,
    Linear,
    attention_in_full,
    first_maximum,
    gathered_mix,
    most_alike_by_blocks,
    most_alike_by_maxima,
    product,
    runs_in_onednn,
    short_softmax,
    weighted_by_cosines,
)


def sampled_by_loops(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Bilinear sampling as it is defined: places count from the centre of the first pixel, outside is zero."""
    maps, dim, height, width = value.shape
    mixed = torch.zeros(maps, dim, places.shape[1], dtype=torch.float64)
    for m in range(maps):
        for n in range(places.shape[1]):
            for p in range(places.shape[2]):
                x, y = (float(place) for place in places[m, n, p])
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(x - column)) * (1 - abs(y - row)) * float(weights[m, n, p])
                            mixed[m, :, n] += share * value[m, :, row, column].double()
    return mixed


@pytest.mark.parametrize("mix", [sample_and_mix, gathered_mix], ids=["grid_sample", "gather"])
def test_sampling_by_definition_inside_and_outside_of_the_map(mix: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    value, places = torch.randn(3, 5, 4, 6), torch.rand(3, 7, 2, 2) * 10 - 2
    places[0, 0, 0] = torch.tensor([-0.5, 3.5])  # the corner itself
    places[0, 1] = 1e6  # far outside, as offsets may be early in training
    weights = torch.rand(3, 7, 2)
    mixed = mix(value, places, weights)
    assert torch.allclose(mixed.double(), sampled_by_loops(value, places, weights), atol=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_place_that_is_no_number_shows_in_the_result_and_nowhere_else(broken: float) -> None:
    value, places, weights = torch.randn(1, 2, 4, 6), torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2)
    places[0, 1, 0, 0] = broken
    mixed = gathered_mix(value, places, weights)
    assert torch.isnan(mixed).any(1).tolist() == [[False, True, False]]


@pytest.mark.parametrize("length", [1, 255, 256, 320, 3600, 3601])
def test_the_first_of_the_largest_by_blocks(length: int) -> None:
    torch.manual_seed(length)
    for x in (
        torch.randn(2, 3, length),
        torch.randint(0, 3, (2, 3, length)).float(),  # many equals
        torch.full((1, length), -torch.inf),
    ):
        assert torch.equal(first_maximum(x), x.argmax(-1))


def test_the_short_softmax_is_softmax() -> None:
    x = 30 * torch.randn(2, 50, 4, 9)
    torch.testing.assert_close(short_softmax(x), x.softmax(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [most_alike, most_alike_by_maxima, most_alike_by_blocks])
@pytest.mark.parametrize("length", [20, 64, 200, 300])
def test_every_search_finds_the_first_valid_maximum(kind: Callable[..., Tensor], length: int) -> None:
    torch.manual_seed(length)
    asked, among = (torch.randint(-3, 4, (2, count, 4)).float() for count in (9, length))  # whole numbers tie often
    valid = torch.rand(2, length) < 0.6
    valid[:, 0], valid[:, -1] = False, True
    products = (asked @ among.transpose(1, 2)).masked_fill(~valid[:, None], -torch.inf)
    assert (products == products.amax(2, keepdim=True)).sum() > products.shape[0] * products.shape[1]
    assert torch.equal(kind(asked, among, valid), products.argmax(2))


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_attention_of_exported_graphs_is_masked_attention(scale: float) -> None:
    """Masked keys keep a logit there, and their weight is taken off again."""
    query, key, value = (scale * torch.randn(2, 3, length, 8) for length in (7, 20, 20))
    mask = torch.rand(2, 3, 1, 20) < 0.4
    key = torch.where(mask.transpose(2, 3), key, 5 * key)  # also where the masked keys' own logits would be the largest
    mask[1, 2] = False
    full = attention_in_full(query, key, value, mask, 0.0)
    masked = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    for batch, head in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        assert mask[batch, head].any()
        assert torch.allclose(full[batch, head], masked[batch, head], rtol=1e-4, atol=1e-5 * scale)
    assert (full[1, 2] == 0).all()  # no key counts


class Both(torch.nn.Module):
    """Self-attention, then cross-attention, over a map of 4 x 6 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own = DeformableSelfAttention(16, 2, 3)
        self.cross = CycleCrossAttention(16, 2, True)
        torch.nn.init.normal_(self.own.offsets.weight)
        torch.nn.init.normal_(self.own.weights.weight)

    def forward(self, x: Tensor, valid: Tensor, tokens: Tensor, token_valid: Tensor, labels: Tensor) -> Tensor:
        own: Tensor = self.own(x, x, valid, (4, 6))
        mixed: Tensor = self.cross(own, valid, tokens, token_valid, labels)
        return mixed


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    x, tokens = torch.randn(2, 24, 16), torch.randn(2, 9, 16)
    return x, torch.rand(2, 24) < 0.8, tokens, torch.rand(2, 9) < 0.8, torch.rand(2, 9) < 0.5


def test_attention_is_the_same_with_and_without_its_fast_variants(
    inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Both().eval()
    with torch.no_grad():
        fast = model(*inputs)
        monkeypatch.setattr(kernels, "runs_eagerly_on_cpu", lambda x: False)
        plain = model(*inputs)
    assert fast.abs().max() > 0.01
    # Rounding: the same few hundred products are summed in another order.
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_which_variant_runs(inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def watch(module: object, name: str) -> None:
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *values, **named: called.append(name) or inner(*values, **named))

    for module, name in (
        (attention, "sample_and_mix"),
        (attention, "most_alike"),
        *((kernels, name) for name in ("short_softmax", "gathered_mix", "most_alike_by_maxima", "attention_in_full")),
    ):
        watch(module, name)
    model = Both().eval()
    with torch.no_grad():
        model(*inputs)
    assert set(called) == {"short_softmax", "gathered_mix", "most_alike_by_maxima"}
    called.clear()
    model(*inputs)  # with a graph
    assert set(called) == {"sample_and_mix", "most_alike_by_maxima"}
    called.clear()
    with torch.no_grad():
        graph = str(torch.export.export(model, inputs, strict=False).graph)
    assert set(called) == {"sample_and_mix", "attention_in_full"}
    assert "grid_sampler" in graph
    assert "embedding_bag" not in graph


@pytest.mark.parametrize("length", [5, WIDTH, WIDTH + 1, 3 * WIDTH])
@pytest.mark.parametrize("batches", [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_products_by_definition(length: int, batches: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rows, columns = torch.randn(batches[0], 7, length), torch.randn(batches[1], length, 9).transpose(1, 2)
    expected = torch.einsum("bnd,bmd->bnm", *(x.double().expand(max(batches), -1, -1) for x in (rows, columns)))
    with torch.inference_mode():
        found = product(rows, columns)
    # Sums of up to 1,152 products of numbers near 1, in float32: about 1e-7 of each, in another order.
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert torch.allclose(product(rows, columns).double(), expected, atol=1e-4)  # with autograd, the plain way


def test_products_take_parts_of_larger_rows() -> None:
    """Rows that do not follow one another in memory, as a stage's channels among all."""
    torch.manual_seed(0)
    rows, columns = torch.randn(1, 6, 20), torch.randn(1, 5, 20)
    with torch.inference_mode():
        found = product(rows[..., 3:9], columns[..., 3:9])
    assert torch.allclose(found, rows[..., 3:9] @ columns[..., 3:9].transpose(1, 2), atol=1e-5)


def test_onednn_leaves_gradients_half_precision_and_autocast_alone() -> None:
    rows = torch.randn(2, 3)
    assert not runs_in_onednn(rows)
    with torch.inference_mode():
        usual = kernels.has_onednn()
        assert runs_in_onednn(rows) == usual
        assert not runs_in_onednn(rows, rows.double())
        assert not runs_in_onednn(rows.bfloat16())
        with torch.autocast("cpu"):
            assert not runs_in_onednn(rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_linear_layers_by_definition(bias: bool, relu: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(6, 4, bias=bias), torch.randn(2, 5, 6)
    expected = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    expected = expected.clamp(min=0) if relu else expected
    assert torch.allclose(layer(x, relu=relu).double(), expected, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(layer(x, relu=relu).double(), expected, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
def test_linear_layers_learn_by_definition(bias: bool, shape: tuple[int, ...]) -> None:
    """Slopes of input, weight and bias against those of float64, where autograd goes through torch's own layer."""
    torch.manual_seed(0)
    layer, x = Linear(6, 4, bias=bias), torch.randn(shape, requires_grad=True)
    slope = torch.randn(*shape[:-1], 4)
    (layer(x, relu=True) * slope).sum().backward()
    exact, same = torch.nn.Linear(6, 4, bias=bias).double(), x.detach().double().requires_grad_()
    exact.load_state_dict(layer.state_dict())
    (exact(same).relu() * slope.double()).sum().backward()
    assert x.grad is not None
    assert same.grad is not None
    pairs = [
        (x.grad, same.grad),
        *((own.grad, other.grad) for own, other in zip(*_parameters(layer, exact), strict=True)),
    ]
    for found, expected in pairs:
        assert found is not None
        assert torch.allclose(found.double(), expected, atol=1e-5)


def _parameters(*layers: torch.nn.Module) -> list[list[Tensor]]:
    return [list(layer.parameters()) for layer in layers]


def test_training_takes_onednn_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    plain = kernels._onednn_linear
    monkeypatch.setattr(kernels, "_onednn_linear", lambda x, *rest: calls.append(x.shape) or plain(x, *rest))
    layer, x = Linear(6, 4), torch.randn(3, 6)
    layer(x).sum().backward()
    assert len(calls) == (2 if kernels.has_onednn() else 0), "forward, and the weight's slope; the input needs none"
    calls.clear()
    with torch.autocast("cpu"):
        layer(x)
    layer.double()(x.double())
    assert calls == []


def test_propagation_without_a_softmax_is_that_with_one() -> None:
    torch.manual_seed(0)
    looks = torch.nn.functional.normalize(torch.randn(2, 11, 4), dim=2)
    looks[:, 3] = 0  # a position without features, or padding
    cosines, values = looks @ looks.transpose(1, 2), torch.cat([torch.randn(2, 11, 3), torch.ones(2, 11, 1)], 2)
    sharp = torch.tensor(90.0)
    expected = _weighted(cosines, sharp, values)
    with torch.inference_mode():
        found = weighted_by_cosines(cosines, sharp, values)
    assert torch.allclose(found[..., :-1] / found[..., -1:], expected[..., :-1], atol=1e-5)


def test_similarities_by_slices_of_sorted_keys() -> None:
    """Keys of neither label, of both, and classes without a key of one; one query for all classes, or one each."""
    torch.manual_seed(0)
    labels = torch.rand(4, 2, 13) < 0.4
    labels[1, 0] = labels[2, 1] = labels[3] = False
    share = torch.rand(4, 13, 2)
    stages = [(5 * torch.randn(4, 7, d), torch.randn(4, 13, d)) for d in (3, 6)]
    for pairs in (stages, [(query[:1], key) for query, key in stages], stages[:1]):
        plain = list(_by_label([(query.expand(4, -1, -1), key) for query, key in pairs], labels, share))
        with torch.inference_mode():
            fast = list(_by_label_in_place(pairs, labels, share))
        assert len(fast) == len(plain)
        for (largest, votes), (expected, expected_votes) in zip(fast, plain, strict=True):
            for label in (0, 1):
                there = labels[:, label].any(1)
                assert torch.allclose(largest[there, label], expected[there, label], atol=1e-4)
                assert (largest[~there, label] <= -60).all()  # far below any cosine, which the caller clamps
            assert torch.allclose(votes, expected_votes, rtol=1e-4)
