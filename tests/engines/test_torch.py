"""The PyTorch engine, and Segmenter over it, with a small untrained network."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_model import write_tiny_model

from rifenet import Segmenter, load_model
from rifenet.engines import Engine
from rifenet.engines.device import choose_device
from rifenet.engines.garbage import uncollected
from rifenet.engines.torch import TorchEngine
from rifenet.models import aligned_resize

SIZE = 64


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", SIZE)


@pytest.fixture(scope="module")
def engine(model_file: Path) -> TorchEngine:
    return TorchEngine.load(model_file, device="cpu")


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((5, 3, SIZE, SIZE), np.float32)


@pytest.fixture(scope="module")
def masks() -> NDArray[np.uint8]:
    masks = np.zeros((5, SIZE, SIZE), np.uint8)
    masks[:, 8:40, 8:40] = 1
    masks[:, :, 60:] = 255
    return masks


VALID = np.ones((5, SIZE, SIZE), bool)


def test_it_says_what_the_file_says(engine: TorchEngine, model_file: Path) -> None:
    named: Engine = engine  # mypy checks the protocol here
    assert (named.name, named.size, named.calibration) == ("tiny", SIZE, None)
    assert named.hash == load_model(model_file).hash
    assert engine.classes_trained_on == ["cat", "dog"]


def test_it_computes_what_the_model_does(
    engine: TorchEngine, model_file: Path, pictures: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    context = engine.encode_support(pictures[:2], masks[:2], VALID[:2])
    logits = engine.decode(engine.encode_query(pictures[2:3], VALID[2:3]), context)
    assert logits.shape == (1, 2, SIZE, SIZE)
    assert logits.dtype == np.float32
    model = load_model(model_file)
    images, valid = torch.from_numpy(pictures), torch.from_numpy(VALID)
    with torch.inference_mode():
        expected = model.decode(
            model.encode_query(images[2:3], valid[2:3]),
            model.encode_support(images[None, :2], torch.from_numpy(masks)[None, :2], valid[None, :2]),
        )
    np.testing.assert_allclose(
        logits, aligned_resize(expected, (SIZE, SIZE)).numpy(), rtol=0, atol=1e-5
    )  # its backbone is folded


def test_neighbours_in_a_batch_change_no_bit(
    engine: TorchEngine, pictures: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    context = engine.encode_support(pictures[:1], masks[:1], VALID[:1])
    together = engine.decode(engine.encode_query(pictures, VALID), context)
    for index in range(len(pictures)):
        alone = engine.decode(engine.encode_query(pictures[index : index + 1], VALID[:1]), context)
        np.testing.assert_array_equal(together[index : index + 1], alone)


@pytest.mark.parametrize("shots", [1, 20])
def test_one_to_twenty_shots(engine: TorchEngine, shots: int) -> None:
    rng = np.random.default_rng(shots)
    images = rng.integers(0, 256, (shots, 48, 64, 3), np.uint8)
    segmenter = Segmenter(engine)
    segmenter.learn("thing", list(images), [np.eye(48, 64, dtype=np.uint8)] * shots)
    result = segmenter.segment(images[0])
    assert result.mask.shape == (48, 64)
    assert np.isfinite(result.scores["thing"]).all()


def test_the_order_of_classes_and_photos_changes_no_score(engine: TorchEngine) -> None:
    rng = np.random.default_rng(3)
    images = list(rng.integers(0, 256, (3, 50, 60, 3), np.uint8))
    mask = np.zeros((50, 60), np.uint8)
    mask[10:40, 10:40] = 1
    forth, back = Segmenter(engine), Segmenter(engine)
    for name, image in (("a", images[0]), ("b", images[1])):
        forth.learn(name, [image], [mask])
    for name, image in (("b", images[1]), ("a", images[0])):
        back.learn(name, [image], [mask])
    one, other = forth.segment(images[2]), back.segment(images[2])
    for name in ("a", "b"):
        np.testing.assert_array_equal(one.scores[name], other.scores[name])


def test_learned_classes_give_the_same_mask_after_a_file(model_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (40, 64, 3), np.uint8)
    mask = np.zeros((40, 64), np.uint8)
    mask[5:30, 5:30] = 1
    segmenter = Segmenter.from_pretrained(model_file, device="cpu", threads=1)
    segmenter.learn("thing", [image, image[::-1]], [mask, mask[::-1]])
    segmenter.save_classes(tmp_path / "classes.safetensors")
    fresh = Segmenter.from_pretrained(str(model_file), device="cpu")
    fresh.load_classes(tmp_path / "classes.safetensors")
    np.testing.assert_array_equal(
        segmenter.segment(image, keep_absent=True).mask, fresh.segment(image, keep_absent=True).mask
    )


def test_the_baseline_is_training_free_on_the_same_backbone(
    engine: TorchEngine, pictures: NDArray[np.float32], masks: NDArray[np.uint8], tmp_path: Path
) -> None:
    baseline = engine.baseline()
    assert baseline.name == "prototype"
    assert baseline.size == engine.size
    assert baseline.hash != engine.hash
    theirs, ours = (e.model.backbone.state_dict() for e in (engine, baseline))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert len(list(baseline.model.parameters())) == len(list(baseline.model.backbone.parameters()))
    context = baseline.encode_support(pictures[:2], masks[:2], VALID[:2])
    logits = baseline.decode(baseline.encode_query(pictures[:1], VALID[:1]), context)
    assert (logits[:, 0] == 0).all()
    assert np.abs(logits[:, 1]).max() <= 2
    segmenter = Segmenter(baseline)
    segmenter.learn("thing", [pictures[0].transpose(1, 2, 0).astype(np.uint8)], [masks[0]])
    segmenter.save_classes(tmp_path / "classes.safetensors")
    with pytest.raises(ValueError, match="made with prototype"):
        Segmenter(engine).load_classes(tmp_path / "classes.safetensors")


def test_a_context_of_another_network_is_refused(
    engine: TorchEngine, pictures: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    foreign = engine.baseline().encode_support(pictures[:1], masks[:1], VALID[:1])
    with pytest.raises(ValueError, match=r"Expected a context with prototype, prior_keys.*but got prototypes"):
        engine.decode(engine.encode_query(pictures[:1], VALID[:1]), foreign)


@pytest.mark.parametrize("device", ["abacus", "cpu:x", "cuda:99", ""])
def test_devices_that_are_not_there_are_refused(device: str, model_file: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected a device of this machine \(auto, .*cpu\)"):
        Segmenter.from_pretrained(model_file, device=device)


def test_auto_finds_a_device() -> None:
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == kind
    assert choose_device("cpu") == torch.device("cpu")


def test_wrong_threads_and_models_are_refused(model_file: Path) -> None:
    with pytest.raises(ValueError, match="threads to be at least 1, but got 0"):
        Segmenter.from_pretrained(model_file, threads=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Segmenter.from_pretrained("nowhere")


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(
    engine: TorchEngine, model_file: Path, pictures: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    other = TorchEngine.load(model_file, device="cuda")
    logits = [
        e.decode(e.encode_query(pictures, VALID), e.encode_support(pictures[:2], masks[:2], VALID[:2]))
        for e in (engine, other)
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)


def test_garbage_is_searched_for_again_once_torch_is_imported() -> None:
    with uncollected:
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no torch"), uncollected:
        raise ValueError("no torch")
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected:
            pass
        assert not gc.isenabled()  # as whoever calls wants it
    finally:
        gc.enable()


def test_no_garbage_is_searched_for_while_torch_is_imported(model_file: Path) -> None:
    code = (
        "import gc, sys\n"
        "from rifenet.engines.load import load_engine\n"
        "found = []\n"
        "class Watch:\n"
        "    def find_spec(self, name, *more):\n"
        "        found.extend([gc.isenabled()] if name == 'torch' else [])\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"load_engine({str(model_file)!r}, 'cpu')\n"
        "print(found, gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[0] == "[False] True"
