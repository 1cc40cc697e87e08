"""Model files that are damaged or say what cannot be are refused when they are read, with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_model import write_smallest_model
from torch import Tensor

from rifenet import load_model
from rifenet.cli.main import main


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smallest_model(tmp_path_factory.mktemp("models") / "smallest.safetensors")


def rewritten(original: Path, path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    with safe_open(original, framework="pt") as file:
        header = json.loads(file.metadata()["rifenet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    change(header, tensors)
    save_file(tensors, path, {"rifenet": header if isinstance(header, str) else json.dumps(header)})
    return path


def _set(tensors: dict[str, Tensor], value: float) -> None:
    name = next(name for name in tensors if name.startswith("head."))
    tensors[name].view(-1)[0] = value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda header, tensors: _set(tensors, float("nan")), r"Expected finite weights in .*head\."),
        (lambda header, tensors: _set(tensors, float("inf")), r"Expected finite weights in .*head\."),
        (lambda header, tensors: header["config"].update(layers="2"), "layers to be a whole number, but got '2'"),
        (lambda header, tensors: header["config"].update(embed_dim=[1]), "embed_dim to be a whole number"),
        (lambda header, tensors: header["config"].update(embed_dim=64), r"to be \[.* as its config says"),
        (lambda header, tensors: header.update(config=[]), "to have config as rifenet writes it, but got list"),
        (lambda header, tensors: header.pop("metadata"), "to have metadata as rifenet writes it, but got None"),
        (lambda header, tensors: header["metadata"].update(image_size=100_000), "image_size in .* but got 100000"),
        (lambda header, tensors: header["metadata"].update(image_size="97"), "image_size in .* but got '97'"),
        (lambda header, tensors: header["metadata"].update(calibration={"a": "x", "b": 1}), "the numbers a and b"),
        (lambda header, tensors: header["metadata"].update(calibration={"a": float("nan"), "b": 1}), "numbers a and b"),
        (lambda header, tensors: header.update(format="1"), "Expected model format 1, but .* has '1'"),
        (lambda header, tensors: tensors.pop(next(iter(tensors))), "to hold the tensors of its own config"),
    ],
)
def test_damage_is_named(
    original: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object], sentence: str
) -> None:
    path = rewritten(original, tmp_path / "b.safetensors", change)
    with pytest.raises(ValueError, match=sentence):
        load_model(path)


def test_nan_in_an_older_header_reads_as_null(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(
        original,
        tmp_path / "b.safetensors",
        lambda header, tensors: header["metadata"].update(heldout_base_miou=float("nan")),
    )
    assert load_model(path).metadata["heldout_base_miou"] is None
    assert main(["info", "--model", str(path), "--json"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert json.loads(text)["model"]["heldout_base_miou"] is None
