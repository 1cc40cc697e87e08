"""The ONNX engine against torch's, on real photos, with a small untrained network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rifenet import Segmenter, load_model
from rifenet.data.transforms import enlarged, resize_and_pad
from rifenet.engines import CARD, Engine, is_export
from rifenet.engines.load import load_engine
from rifenet.engines.onnx import OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.examples.samples import load_examples
from rifenet.export.check import learning_inputs
from rifenet.formats.pictures import binary_mask, load_image, load_mask
from rifenet.models import aligned_resize
from rifenet.segmenting.pixels import PixelClassifier, describe, discriminant, pixel_sums, total

CLASSES, EXAMPLES = load_examples()
DOGS = [example for example in EXAMPLES if example.support and "dog" in example.classes]
PHOTOS = [example.image for example in EXAMPLES if not example.support]


@pytest.fixture(scope="module")
def engines(exported: tuple[Path, Path]) -> tuple[TorchEngine, OnnxEngine]:
    model, folder = exported
    return TorchEngine.load(model, device="cpu"), OnnxEngine(folder, threads=1)


@pytest.fixture
def copied(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[1], tmp_path / "copy"))


def shots(count: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    images, masks, valid = learning_inputs(DOGS, CLASSES.index("dog") + 1, size)
    order = np.arange(count) % len(DOGS)
    return images[order], masks[order], valid[order]


def queries(count: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    placed = [resize_and_pad(load_image(photo), size) for photo in PHOTOS[:count]]
    return np.stack([one[0] for one in placed]), np.stack([one[1] for one in placed])


def test_it_says_what_the_model_does(engines: tuple[TorchEngine, OnnxEngine]) -> None:
    named: Engine = engines[1]
    for field in ("name", "hash", "size", "calibration", "classes_trained_on"):
        assert getattr(named, field) == getattr(engines[0], field)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_it_learns_as_torch_does(engines: tuple[TorchEngine, OnnxEngine], count: int) -> None:
    expected, context = (engine.encode_support(*shots(count, engine.size)) for engine in engines)
    assert list(context) == list(expected)
    for field, value in expected.items():
        mine = without_empty_slots(field, context, value)
        assert (mine.shape, mine.dtype) == (value.shape, value.dtype), field
        np.testing.assert_allclose(mine, value, rtol=1e-3, atol=1e-4, err_msg=field)


def without_empty_slots(field: str, context: Mapping[str, NDArray[Any]], value: NDArray[Any]) -> NDArray[Any]:
    """A field of a graph's context with as many of the prior's keys as torch keeps; the others do not exist."""
    if field not in ("prior_keys", "prior_valid"):
        return context[field]
    assert not context["prior_valid"][:, :, value.shape[2] :].any()
    return context[field][:, :, : value.shape[2]]


@pytest.mark.parametrize("count", [1, 3])
def test_it_segments_as_torch_does(engines: tuple[TorchEngine, OnnxEngine], count: int) -> None:
    expected, logits = (
        engine.decode(engine.encode_query(*queries(count, engine.size)), engine.encode_support(*shots(2, engine.size)))
        for engine in engines
    )
    assert (logits.shape, logits.dtype) == (expected.shape, np.float32)
    assert np.ptp(expected[:, 1] - expected[:, 0]) > 0.1  # there is something to get wrong
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_it_shows_the_maps_that_torch_shows(engines: tuple[TorchEngine, OnnxEngine]) -> None:
    expected, shown = (engine.inner(engine.encode_query(*queries(2, engine.size))) for engine in engines)
    assert engines[0].inner_names == engines[1].inner_names == ("high", "fine")
    assert len(shown) == len(expected) == 2
    for own, theirs in zip(shown, expected, strict=True):
        assert list(own) == list(theirs) == ["high", "fine"]
        for name in own:
            assert own[name].ndim == 3
            np.testing.assert_allclose(own[name], theirs[name], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(expected[0]["high"], axis=0), 1, atol=1e-5)


def test_a_class_is_fitted_and_segmented_as_with_torch(engines: tuple[TorchEngine, OnnxEngine]) -> None:
    photos = [load_image(shot.image) for shot in DOGS]
    masks = [binary_mask(load_mask(shot.mask), CLASSES.index("dog") + 1) for shot in DOGS]
    found = []
    for engine in engines:
        segmenter = Segmenter(engine)
        segmenter.learn("dog", photos, masks)
        fit = replace(
            segmenter.fits["dog"], blend=0.5, tiles=False, refine=False, threshold=0.4, pixels=pixels_of(segmenter)
        )
        segmenter._classes["dog"] = replace(segmenter._classes["dog"], fit=fit)
        found.append(segmenter.segment(PHOTOS[0]))
    plain = Segmenter(engines[0])
    plain.learn("dog", photos, masks, fit=False)
    assert np.abs(found[0].margins - plain.segment(PHOTOS[0]).margins).max() > 0.1  # the fit counts
    np.testing.assert_allclose(found[1].margins, found[0].margins, atol=0.02)  # a discriminant of rounded features
    assert found[1].quality["dog"] == pytest.approx(found[0].quality["dog"], abs=0.01)


def pixels_of(segmenter: Segmenter) -> PixelClassifier:
    """The pixel classifier that a class's shots give."""
    inputs = segmenter.learned[0].annotated()
    sums = []
    for image, mask, valid in zip(*inputs, strict=True):
        features = segmenter.engine.encode_query(image[None], valid[None])
        seen = describe(segmenter.engine.inner(features)[0], image)
        assert seen is not None
        sums.append(pixel_sums(seen, mask))
    return discriminant(total(sums))


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (97, 80), (130, 71)])
def test_graphs_take_any_size_and_batch(
    exported: tuple[Path, Path], engines: tuple[TorchEngine, OnnxEngine], size: tuple[int, int]
) -> None:
    model, engine = load_model(exported[0]), engines[1]
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 3, *size), np.float32)  # two episodes of three shots
    masks = (images[:, :, 0] > 0.5).astype(np.uint8)
    valid = np.ones((2, 3, *size), bool)
    valid[:, :, :, size[1] - 9 :] = False
    given = [torch.from_numpy(array) for array in (images, masks, valid)]
    with torch.inference_mode():
        context = model.encode_support(*given)
        features = model.encode_query(given[0][:, 1], given[2][:, 1])
        expected = model.decode(features, context).numpy()
    ours = engine._support.run(None, {"images": images, "masks": masks, "image_valid": valid})
    graph = dict(zip(context.named(), ours, strict=True))
    for name, value in context.named().items():
        mine = without_empty_slots(name, graph, value.numpy())
        np.testing.assert_allclose(mine, value.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    query = engine._query.run(None, {"images": images[:, 1], "image_valid": valid[:, 1]})
    wanted = {value.name for value in engine._decode.get_inputs()}
    fields = dict(zip(engine._features, query, strict=True)) | graph
    (logits,) = engine._decode.run(None, {name: fields[name] for name in wanted})
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_it_shows_the_maps_that_torch_does(engines: tuple[TorchEngine, OnnxEngine]) -> None:
    images, _, valid = shots(1, engines[0].size)
    first, second = (engine.inner(engine.encode_query(images, valid))[0] for engine in engines)
    assert first.keys() == second.keys() == {"high", "fine"}
    model = engines[0].model
    with torch.inference_mode():
        features = model.backbone(torch.from_numpy(images))
    unit = torch.nn.functional.normalize(features.high[0], dim=0)
    for found, expected in ((first["high"], unit), (first["fine"], features.fine[0])):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)  # the engine's folded backbone rounds otherwise
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, atol=2e-4 * max(1, np.abs(values).max()))


@pytest.mark.parametrize(("size", "to"), [((9, 9), 65), ((17, 12), 40), ((5, 5), 5)])
def test_upsampling_is_that_of_torch(size: tuple[int, int], to: int) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 2, *size)).astype(np.float32)
    expected = aligned_resize(torch.from_numpy(logits), (to, to)).numpy()
    np.testing.assert_allclose(enlarged(logits, (to, to)), expected, atol=1e-5)


def test_learned_classes_go_both_ways(engines: tuple[TorchEngine, OnnxEngine], tmp_path: Path) -> None:
    for learner, user in (engines, engines[::-1]):
        teacher, pupil = Segmenter(learner), Segmenter(user)
        masks = [load_image_mask(example) for example in DOGS[:2]]
        teacher.learn("dog", [example.image for example in DOGS[:2]], masks)
        teacher.save_classes(tmp_path / "dog.safetensors")
        pupil.load_classes(tmp_path / "dog.safetensors")
        assert pupil.shots == {"dog": 2}
        expected, result = teacher.segment(PHOTOS[0]), pupil.segment(PHOTOS[0])
        assert (expected.mask != result.mask).mean() < 0.001
        assert result.confidence["dog"] == pytest.approx(expected.confidence["dog"], abs=1e-3)


def test_it_adapts_as_torch_does(engines: tuple[TorchEngine, OnnxEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rifenet.segmenting.pseudo_labels.SURE", 0.0)  # an untrained network is sure of nothing
    segmenters = [Segmenter(engine) for engine in engines]
    for segmenter in segmenters:
        segmenter.learn("dog", [DOGS[0].image], [load_image_mask(DOGS[0])])
        plain = segmenter.segment(PHOTOS[0]).margins
        adopted = segmenter.adapt(PHOTOS[:4], count=2)["dog"]
        assert len(adopted) == 2
        assert np.abs(segmenter.segment(PHOTOS[0]).margins - plain).max() > 1e-3
    torch_shots, onnx_shots = (segmenter.learned[0].adopted for segmenter in segmenters)
    assert [shot.number for shot in torch_shots] == [shot.number for shot in onnx_shots]
    expected, result = (segmenter.segment(PHOTOS[0]) for segmenter in segmenters)
    assert (expected.mask != result.mask).mean() < 0.002


def load_image_mask(example: object) -> NDArray[np.uint8]:
    from rifenet.formats.pictures import load_mask

    mask = load_mask(example.mask)  # type: ignore[attr-defined]
    return np.where(mask == 255, 255, mask == CLASSES.index("dog") + 1).astype(np.uint8)


def test_classes_of_another_hash_are_refused(
    engines: tuple[TorchEngine, OnnxEngine], copied: Path, tmp_path: Path
) -> None:
    teacher = Segmenter(engines[0])
    teacher.learn("dog", [DOGS[0].image], [load_image_mask(DOGS[0])])
    teacher.save_classes(tmp_path / "dog.safetensors")
    change(copied, hash="0123456789abcdef")
    with pytest.raises(ValueError, match=r"Expected classes learned with the model smallest \(0123456789abcdef"):
        Segmenter(OnnxEngine(copied)).load_classes(tmp_path / "dog.safetensors")


def test_contexts_with_other_fields_are_refused(engines: tuple[TorchEngine, OnnxEngine]) -> None:
    features = engines[1].encode_query(*queries(1, engines[1].size))
    with pytest.raises(ValueError, match="Expected a context with prototype, prior_keys"):
        engines[1].decode(features, {"prototypes": np.zeros((1, 2, 8), np.float32)})


def change(folder: Path, **fields: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | fields))


def test_what_is_no_export_is_refused(copied: Path, tmp_path: Path) -> None:
    assert is_export(copied)
    assert not is_export(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Expected an export folder with rifenet\.json"):
        OnnxEngine(tmp_path)
    with pytest.raises(FileNotFoundError, match="an export folder or hf:owner/name"):
        load_engine(tmp_path)
    change(copied, format=99)
    with pytest.raises(ValueError, match=r"Expected an export of format 1, but .* has 99"):
        OnnxEngine(copied)
    change(copied, format=1)
    whole = json.loads((copied / CARD).read_text())
    card = dict(whole)
    del card["features"]
    (copied / CARD).write_text(json.dumps(card))
    with pytest.raises(ValueError, match="to have features"):
        OnnxEngine(copied)
    for wrong in (
        {"image_size": [449]},
        {"mask_threshold": [0.5]},
        {"context": 3},
        {"classes_trained_on": "dog"},
        {"calibration": 5},
        {"graphs": {"decode": "sha"}},
        {"graphs": ["decode"]},
    ):
        (copied / CARD).write_text(json.dumps(whole | wrong))
        with pytest.raises(ValueError, match=f"expected it.{next(iter(wrong))}"):
            OnnxEngine(copied)
    for text in ("{", "[]", "{}"):
        (copied / CARD).write_text(text)
        with pytest.raises(ValueError, match="as rifenet export writes it"):
            OnnxEngine(copied)


def test_changed_and_missing_graphs_are_refused(copied: Path) -> None:
    graph = copied / "decode.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ValueError, match=r"Expected .*decode\.onnx as it was exported"):
        OnnxEngine(copied)
    graph.unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected decode\.onnx beside rifenet\.json"):
        OnnxEngine(copied)


def test_wrong_options_are_refused(exported: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="Expected threads to be at least 1, but got 0"):
        OnnxEngine(exported[1], threads=0)
    with pytest.raises(ValueError, match="Expected device auto or cpu with an export folder, but got 'cuda'"):
        load_engine(exported[1], device="cuda")


def test_a_missing_runtime_is_named(exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        OnnxEngine(exported[1])


WITHOUT_TORCH = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "lightning_fabric", "jsonargparse", "onnx", "onnxscript"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    from rifenet.cli.main import main
    code = main(sys.argv[1:])
    assert "torch" not in sys.modules
    sys.exit(code)
"""


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(WITHOUT_TORCH)
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120)


def test_the_program_runs_without_torch(exported: tuple[Path, Path], tmp_path: Path) -> None:
    mask = tmp_path / "dog.png"
    Image.fromarray(load_image_mask(DOGS[0])).save(mask)
    words = ["segment", "--support", "dog", str(DOGS[0].image), str(mask), "--query", str(PHOTOS[0])]
    out = tmp_path / "out"
    done = without_torch(*words, "--out", str(out), "--model", str(exported[1]))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["model"]["name"] == "smallest"
    with Image.open(out / manifest["results"][0]["files"]["mask"]) as picture, Image.open(PHOTOS[0]) as photo:
        assert picture.size == photo.size
    refused = without_torch(*words, "--out", str(tmp_path / "other"))
    assert refused.returncode == 1
    assert "Expected torch to run default, but it is not installed" in refused.stderr
    info = without_torch("info", "--model", str(exported[1]), "--json")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["model"]["precision"] == "float32"
