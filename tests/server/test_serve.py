"""`rifenet serve` as its users start it, with the bundled model on real photos."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
from importlib.resources import files
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from tiny_model import write_tiny_model

from rifenet.cli.main import main
from rifenet.formats.pictures import load_mask

from .conftest import encoded, rifenet_program

EXAMPLES = Path(str(files("rifenet"))) / "examples"
TABLE = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))


def photos_of(name: str, support: bool) -> list[dict[str, object]]:
    return [each for each in TABLE["photos"] if each["classes"] == [name] and each["support"] is support]


def test_the_bundled_model_finds_bears_and_ctrl_c_ends_it() -> None:
    number = TABLE["classes"].index("bear") + 1
    shots = []
    for each in photos_of("bear", True):
        mask = (load_mask(EXAMPLES / str(each["mask"])) == number).astype(np.uint8)
        shots += [("images", (str(each["image"]), (EXAMPLES / str(each["image"])).read_bytes()))]
        shots += [("masks", ("m.png", encoded(mask)))]
    ious = []
    with rifenet_program() as (address, process), httpx2.Client(base_url=address, timeout=60) as client:
        assert client.post("/api/classes", data={"name": "bear"}, files=shots).status_code == 200
        for each in photos_of("bear", False)[:3]:
            file = [("images", ("b.jpg", (EXAMPLES / str(each["image"])).read_bytes()))]
            answer = client.post("/api/segment", files=file, headers={"Accept": "image/png"})
            found = np.array(Image.open(io.BytesIO(answer.content))) == 1
            truth = load_mask(EXAMPLES / str(each["mask"]))
            real, object_ = truth != 255, truth == number
            assert found.shape == truth.shape
            ious.append((found & object_).sum() / ((found | object_) & real).sum())
        if os.name != "nt":
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
    assert np.mean(ious) > 0.5, ious


def test_a_token_from_the_environment_guards_the_server(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.safetensors"))
    with rifenet_program("--host", "0.0.0.0", "--model", model, RIFENET_TOKEN="a-token-of-this-test") as (address, _):
        assert address.startswith("http://127.0.0.1:")  # 0.0.0.0 is no address to open
        assert httpx2.get(f"{address}/api/classes").status_code == 401
        bearer = {"Authorization": "Bearer a-token-of-this-test"}
        assert httpx2.get(f"{address}/api/classes", headers=bearer).status_code == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "other machines can reach it"),
        (["--token", "short"], "at least 12"),
        (["--seconds", "0"], "--seconds"),
        (["--label-studio-url", "localhost:8080"], "--label-studio-url"),
        (["--label-studio-folder", "nothing"], "--label-studio-folder"),
        (["--model", "nothing"], "Expected a model at nothing"),
    ],
)
def test_what_cannot_start_says_why(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIFENET_TOKEN", raising=False)
    assert main(["serve", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rifenet serve: Expected")
    assert words in error
    assert error.count("\n") == 1


def test_a_taken_port_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(model), "--port", str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err


def test_help_names_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "file-mb",
        "request-mb",
        "megapixels",
        "files",
        "classes",
        "seconds",
        "requests",
        "queue",
        "projects",
        "memory-mb",
    ):
        assert f"--{flag} N" in text
