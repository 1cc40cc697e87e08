"""What makes the network faster changes nothing: each way to compute less against a slow, plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import SMALL
from torch import Tensor

from rifenet.config import TrainConfig
from rifenet.models import RiFeNet, build_model
from rifenet.models.attention import cycle_consistent
from rifenet.models.beyond.evidence_network import EvidenceNetwork
from rifenet.models.prior import choose_keys, prior_mask
from rifenet.training.loop import prepare


def test_cycles_by_loops() -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(2, 3, 11, 4), torch.randn(2, 3, 6, 4)
    query_valid, token_valid, labels = torch.rand(2, 11) < 0.7, torch.rand(2, 6) < 0.7, torch.rand(2, 6) < 0.5
    kept = cycle_consistent(query, keys, query_valid, token_valid, labels)
    for b in range(2):
        for g in range(3):
            for j in range(6):
                positions = [i for i in range(11) if query_valid[b, i]]
                tokens = [t for t in range(6) if token_valid[b, t]]
                best = max(positions, key=lambda i: float(keys[b, g, j] @ query[b, g, i]))
                back = max(tokens, key=lambda t: float(keys[b, g, t] @ query[b, g, best]))
                assert bool(kept[b, g, j]) == bool(token_valid[b, j] and labels[b, back] == labels[b, j])


def test_keys_that_do_not_exist_count_nothing_in_the_prior() -> None:
    torch.manual_seed(0)
    high = torch.nn.functional.normalize(torch.randn(1, 8, 3, 4), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(1, 2, 5, 8), dim=-1)
    there = torch.tensor([[[True, True, True, False, False], [True, False, False, False, False]]])
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    expected = torch.stack(
        [prior_mask(high, valid, keys[:, k : k + 1, :n], there[:, k : k + 1, :n]) for k, n in ((0, 3), (1, 1))]
    )
    torch.testing.assert_close(prior_mask(high, valid, keys, there), expected.mean(0))


def test_keys_take_no_more_slots_than_the_fullest_shot_and_the_prior_is_the_same() -> None:
    torch.manual_seed(0)
    high, of_label = torch.randn(2, 2, 8, 5, 5), torch.zeros(2, 2, 5, 5, dtype=torch.bool)
    of_label[0, 0, 1, 1:4] = of_label[0, 1, 2, 2] = of_label[1, 0, :, 0] = True  # the last shot has none
    keys, valid = choose_keys(high, of_label, 20)
    assert keys.shape[2] == 5
    padded = torch.nn.functional.pad(keys, (0, 0, 0, 15), value=9.0)
    query = torch.nn.functional.normalize(torch.randn(2, 8, 4, 4), dim=1)
    real = torch.rand(2, 4, 4) < 0.8
    plain = prior_mask(query, real, padded, torch.nn.functional.pad(valid, (0, 15)))
    assert torch.allclose(prior_mask(query, real, keys, valid), plain, atol=1e-6)
    assert choose_keys(high, of_label & False, 20)[0].shape[2] == 1  # nothing to see is not nothing to index
    assert choose_keys(high, of_label, 3)[0].shape[2] == 3


def small(**fields: Any) -> RiFeNet:
    torch.manual_seed(0)
    model = build_model(**{**SMALL, **fields})
    assert isinstance(model, RiFeNet)
    return model


@pytest.mark.parametrize("evidence", [False, True], ids=["paper", "evidence"])
def test_the_accelerated_network_gives_the_same_logits(evidence: bool) -> None:
    model = small(evidence=evidence, evidence_dim=32).eval()
    supports, masks = torch.rand(1, 2, 3, 97, 97), torch.zeros(1, 2, 97, 97, dtype=torch.uint8)
    masks[:, :, 20:70, 10:60] = 1
    query = torch.rand(2, 3, 97, 97)
    with torch.enable_grad():  # with a graph nothing is fused
        plain = model.decode(model.encode_query(query), model.encode_support(supports, masks)).detach()
    model.backbone.accelerate()
    with torch.inference_mode():
        fast = model.decode(model.encode_query(query), model.encode_support(supports, masks))
    assert torch.allclose(fast, plain, atol=1e-4)
    assert plain.std() > 1e-3


def test_affinity_is_computed_once_for_all_classes_and_not_for_unlabeled_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small(evidence=True, evidence_dim=32)
    assert isinstance(model, EvidenceNetwork)
    seen, inner = [], model.evidence.affinity

    def counted(high: Tensor, valid: Tensor) -> Tensor:
        seen.append(len(high))
        return inner(high, valid)

    monkeypatch.setattr(model.evidence, "affinity", counted)
    images, masks = torch.rand(2, 1, 3, 65, 65), torch.zeros(2, 1, 65, 65, dtype=torch.uint8)
    masks[:, :, 16:48, 16:48] = 1
    pairs = {"unlabeled_weak": images.repeat(1, 2, 1, 1, 1), "unlabeled_strong": images.repeat(1, 2, 1, 1, 1)}
    model(images, masks, images[:, 0], crossed=1, **pairs)
    assert seen == [2]
    model.eval()
    features, context = model.encode_query(images[0]), model.encode_support(images[:1], masks[:1])
    for _ in range(3):
        model.decode(features, context)
    assert seen == [2, 1]


def test_affinity_by_loops() -> None:
    model = small(evidence=True, evidence_dim=32, high=(5, 7))
    assert isinstance(model, EvidenceNetwork)
    channels = model.evidence.channels
    high, valid = torch.randn(1, sum(channels), 2, 3), torch.ones(1, 2, 3, dtype=torch.bool)
    valid[0, 1, 2] = False
    affinity = model.evidence.affinity(high, valid)[0, 0]
    vectors = [high[0, :, i // 3, i % 3].split(channels) for i in range(6)]
    for i, one in enumerate(vectors[:5]):
        for j, other in enumerate(vectors[:5]):
            cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(one, other, strict=True)]
            assert float(affinity[i, j]) == pytest.approx(sum(cosines) / len(channels), abs=1e-5)
    assert (affinity[:, 5] == 0).all()
    assert (affinity[5] == 0).all()


def training_gradients(model: RiFeNet) -> list[Tensor]:
    """Of a step with dropout, token choice and both views."""
    torch.manual_seed(1)
    images, masks = torch.rand(1, 1, 3, 65, 65), torch.zeros(1, 1, 65, 65, dtype=torch.uint8)
    masks[:, :, 16:48, 16:48] = 1
    output = model(
        images, masks, images[:, 0], unlabeled_weak=images, unlabeled_strong=images.flip(-1), query_masks=masks[:, 0]
    )
    assert output.strong_logits is not None
    model.zero_grad()
    (output.logits.square().sum() + output.strong_logits.square().sum()).backward()
    return [parameter.grad.clone() for parameter in model.activation.parameters() if parameter.grad is not None]


def test_checkpointing_gives_the_same_gradients_and_keeps_less() -> None:
    kept: dict[bool, int] = {}
    gradients: dict[bool, list[Tensor]] = {}
    for checkpointed in (False, True):
        model = small(dropout=0.2, layers=2)
        prepare(model, TrainConfig(checkpoint_activations=checkpointed))
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradients[checkpointed] = training_gradients(model)
        kept[checkpointed] = sum(sizes)
    assert len(gradients[True]) == len(gradients[False]) > 20
    for one, other in zip(gradients[True], gradients[False], strict=True):
        assert torch.equal(one, other)
    assert kept[True] < 0.8 * kept[False]


def test_compiling_gives_the_same_gradients_and_names() -> None:
    plain, compiled = (small(layers=1) for _ in range(2))
    prepare(plain, TrainConfig())
    prepare(compiled, TrainConfig(compile=True), backend="aot_eager")  # all of it but the code generator
    for one, other in zip(training_gradients(compiled.eval()), training_gradients(plain.eval()), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
