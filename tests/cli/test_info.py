"""`rifenet info`: true facts, also without torch."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from rifenet import __version__
from rifenet.cli import info
from rifenet.cli.main import main


def test_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    assert main(["info", "--model", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rifenet"] == __version__
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["torch"] == metadata.version("torch")
    assert facts["devices"][-1] == "cpu"
    assert facts["model"]["file"] == str(model)
    assert facts["model"]["backbone"] == "efficientnet_lite0"
    assert facts["model"]["name"] == "tiny"
    assert facts["model"]["image_size"] == 64
    assert main(["info", "--model", str(model)]) == 0
    text = capsys.readouterr().out
    assert "efficientnet_lite0" in text
    assert '["cat", "dog"]' in text


@pytest.mark.parametrize("content", [None, b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_model_gets_a_sentence(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert main(["info", "--model", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rifenet info: Expected a")
    assert "model.safetensors" in error
    assert error.count("\n") == 1


def test_an_install_without_its_model_still_says_its_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rifenet.models.files import hub

    monkeypatch.setattr(hub, "bundled_model", lambda: tmp_path / "default.safetensors")
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rifenet"] == __version__
    assert "default.safetensors, but there is none" in facts["model"]["problem"]


def test_devices_without_asking_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "_version", lambda name: "9.9.9+cpu")
    code = (
        "import sys\n"
        "from rifenet.cli import info\n"
        "info._version = lambda name: '9.9.9+cpu'\n"
        "assert info._devices() == ['cpu']\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert info._devices() == ["cpu"]


def test_devices_as_torch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(info, "_version", lambda name: "9.9.9")
    assert len(info._devices()) == torch.cuda.device_count() + torch.backends.mps.is_available() + 1
