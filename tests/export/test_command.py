"""`rifenet export`: what it writes, checks and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rifenet.cli.main import main
from rifenet.engines import CARD
from rifenet.engines.onnx import GRAPHS, OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.examples.samples import load_examples
from rifenet.export import check, folder
from rifenet.export.quantize import EXACT, quantize_graphs
from rifenet.files import _remove_leftovers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ready(exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's file; its graphs are not made again but those of the folder."""
    import onnx

    graphs = {name: onnx.load(exported[1] / f"{name}.onnx") for name in GRAPHS}
    card = json.loads((exported[1] / CARD).read_text())
    fields = folder.Fields(tuple(card["context"]), tuple(card["features"]))
    monkeypatch.setattr(folder, "build_graphs", lambda model, size: (dict(graphs), fields))
    return exported[0]


def test_it_writes_what_it_has_checked(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second replaces the first
        assert main(["export", "--model", str(ready), "--out", str(out), "--json"]) == 0
        card = json.loads(capsys.readouterr().out)
        assert card == json.loads((out / CARD).read_text())
        assert card["agreement_with_torch"]["mask_iou"] >= 0.999
        assert card["agreement_with_torch"]["photos"] == check.PHOTOS
        assert {path.name for path in out.iterdir()} == {CARD, *(f"{name}.onnx" for name in GRAPHS)}
    assert OnnxEngine(out).hash == TorchEngine.load(ready, device="cpu").hash


def test_graphs_that_differ_are_not_written(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxEngine.decode

    def shifted(self: OnnxEngine, *arguments: object) -> NDArray[np.float32]:
        return np.roll(real(self, *arguments), 3, axis=-1)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxEngine, "decode", shifted)
    assert main(["export", "--model", str(ready), "--out", str(tmp_path / "out")]) == 1
    assert "Expected masks that meet torch's with an IoU of at least 0.999" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("moved", range(4))
def test_an_interrupted_export_can_be_repeated(
    moved: int, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ["export", "--model", str(ready), "--out", str(out)]
    real, targets = os.replace, []

    def stopped(source: Path, target: Path) -> None:
        if target.parent == out:
            if len(targets) == moved:
                raise KeyboardInterrupt
            targets.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        assert main(words) == 130
    assert len(list(out.glob("*.onnx"))) == moved
    with pytest.raises(FileNotFoundError, match=r"Run rifenet export\."):
        OnnxEngine(out)
    (out / f".{uuid.uuid4().hex}.tmp").mkdir()  # what a killed process leaves besides
    _remove_leftovers.cache_clear()  # as in a new process
    assert main(words) == 0
    assert {path.name for path in out.iterdir()} == {CARD, *(f"{name}.onnx" for name in GRAPHS)}
    assert OnnxEngine(out).hash == TorchEngine.load(ready, device="cpu").hash
    (out / CARD).unlink()
    (out / "notes.txt").write_text("mine")
    assert main(words) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--calibration", "photos"], "Expected --int8 with --calibration"),
        (["--int8", "--calibration", "nowhere"], "Expected a folder of photos at nowhere"),
        (["--int8", "--calibration", "."], "Expected photos"),
        (["--model", "nowhere"], "Expected a model at nowhere"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--out", "out", *words]) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_left_alone(
    ready: Path, exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", "--model", str(ready), "--out", str(tmp_path)]) == 1
    assert "Expected a new or empty folder, or an older export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert main(["export", "--model", str(exported[1]), "--out", str(tmp_path / "out")]) == 1
    assert "is an export. Give the model that it was made from" in capsys.readouterr().err


def test_a_missing_package_is_named(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "rifenet.export" or name.startswith("rifenet.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "--model", str(ready), "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'rifenet[export]'" in capsys.readouterr().err


def test_eight_bits(exported: tuple[Path, Path]) -> None:
    """Rounded features point where exact ones do, weights take a quarter of the room, and the rest stays float."""
    import onnx

    photos = [example.image for example in load_examples()[1]][:4]
    graphs = {name: onnx.load(exported[1] / f"{name}.onnx") for name in GRAPHS}
    small = quantize_graphs(graphs, 65, photos)
    assert small["decode"] == graphs["decode"]
    for name in ("encode_support", "encode_query"):
        kinds = {value.name: value.data_type for value in small[name].graph.initializer}
        by_name = {node.name: node for node in small[name].graph.node}
        dequantized = {node.output[0]: node for node in small[name].graph.node if node.op_type == "DequantizeLinear"}
        exact = [node.name for node in graphs[name].graph.node if node.op_type == "Conv"][:EXACT]
        assert all(node.startswith("backbone.") for node in exact)
        for node in graphs[name].graph.node:
            if node.op_type != "Conv":
                continue
            weight = dequantized.get(by_name[node.name].input[1])
            assert (weight is not None) == (node.name.startswith("backbone.") and node.name not in exact)
            if weight is not None:
                scales = next(each for each in small[name].graph.initializer if each.name == weight.input[1])
                assert kinds[weight.input[0]] == onnx.TensorProto.INT8
                assert len(scales.dims) == 1  # one for each channel
    import onnxruntime

    from rifenet.data.transforms import resize_and_pad
    from rifenet.formats.pictures import load_image

    image, valid, _ = resize_and_pad(load_image(photos[0]), 65)
    outputs = []
    for graph in (graphs["encode_query"], small["encode_query"]):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(["high"], {"images": image[None], "image_valid": valid[None]})[0])
    cosine = (outputs[0] * outputs[1]).sum(1)  # unit length at each position
    assert 0.95 < cosine.mean() < 0.99999


@pytest.mark.slow
def test_the_bundled_model_in_an_environment_without_torch(tmp_path: Path) -> None:
    """The built wheel without its dependencies, numpy, Pillow, safetensors, onnxruntime; rich for the command."""
    assert main(["export", "--out", str(tmp_path / "exported")]) == 0
    for words in (
        ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        ["-c", f"import venv; venv.create({str(tmp_path / 'env')!r}, with_pip=True)"],
    ):
        subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=600)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    (wheel,) = tmp_path.glob("*.whl")
    constraints = ["-c", str(ROOT / "constraints.txt")]

    def pip(*words: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "-q", *words], check=True, capture_output=True, timeout=600)

    pip("--no-deps", str(wheel))
    pip(*constraints, "numpy", "pillow", "safetensors", "onnxruntime")
    names, examples = load_examples()
    shot, query = (next(each for each in examples if each.support is support) for support in (True, False))
    from rifenet.formats.pictures import load_mask

    own = (load_mask(shot.mask) == names.index(shot.classes[0]) + 1).astype(np.uint8)
    Image.fromarray(own).save(tmp_path / "mask.png")
    script = f"""
import sys
from rifenet import Segmenter
segmenter = Segmenter.from_pretrained({str(tmp_path / "exported")!r})
segmenter.learn("it", images=[{str(shot.image)!r}], masks=[{str(tmp_path / "mask.png")!r}])
result = segmenter.segment({str(query.image)!r})
result.save({str(tmp_path / "out")!r})
assert result.mask.shape == result.image.shape[:2]
assert not {{"torch", "rich", "onnx"}} & set(sys.modules)
"""
    subprocess.run([python, "-c", script], check=True, timeout=300, cwd=tmp_path)
    assert len(list((tmp_path / "out").iterdir())) >= 3
    pip(*constraints, "rich")
    words = ["--support", "it", str(shot.image), str(tmp_path / "mask.png"), "--query", str(query.image)]
    program = [python, "-m", "rifenet", "segment", *words, "--model", str(tmp_path / "exported")]
    subprocess.run([*program, "--out", str(tmp_path / "again")], check=True, timeout=300, cwd=tmp_path)
    pairs = [np.array(Image.open(tmp_path / where / f"{query.image.stem}_mask.png")) for where in ("out", "again")]
    np.testing.assert_array_equal(*pairs)


@pytest.mark.slow
def test_the_bundled_model_in_eight_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "int8"
    assert main(["export", "--out", str(out), "--int8", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["precision"] == "int8"
    assert card["hash"].startswith(TorchEngine.load(device="cpu").hash + "-int8-")
    assert card["agreement_with_torch"]["mask_iou"] >= 0.9
