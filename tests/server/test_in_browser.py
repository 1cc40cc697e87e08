"""What browsers that segment photos themselves get from the server: graphs, runtime, learned classes, the headers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from starlette.testclient import TestClient

from rifenet.cli.main import main
from rifenet.engines.onnx import OnnxEngine
from rifenet.segmenting.segmenter import Segmenter
from rifenet.server.app import create_app
from rifenet.server.in_browser import RUNTIME, Offer

from .conftest import client_of, learn, scene


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder with files of the runtime's names, and one that is nobody's business."""
    folder = tmp_path / "runtime" / "dist"
    folder.mkdir(parents=True)
    for name in (*RUNTIME.values(), "other.mjs"):
        (folder / name).write_text(f"// {name}", encoding="utf-8")
    return folder


@pytest.fixture
def offering(exported: tuple[Path, Path], runtime: Path) -> Iterator[TestClient]:
    engine = OnnxEngine(exported[1], threads=1)
    app = create_app(engine, offer=Offer(engine, exported[1], runtime.parent), token="a-token-of-this-test")
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        client.headers["Authorization"] = "Bearer a-token-of-this-test"
        yield client


def test_the_files_are_served_and_no_others(offering: TestClient, exported: tuple[Path, Path]) -> None:
    offer = offering.get("/api/in-browser").json()
    assert offer["offered"]
    assert offer["card"]["graphs"].keys() == {"encode_support", "encode_query", "decode"}
    assert offer["files"].keys() == {"encode_query", "decode", *RUNTIME}
    for name, place in offer["files"].items():
        answer = offering.get(place)
        assert answer.status_code == 200
        if name in ("encode_query", "decode"):
            assert answer.content == (exported[1] / f"{name}.onnx").read_bytes()
    assert offering.get(offer["files"]["wasm"]).headers["content-type"] == "application/wasm"
    assert "javascript" in offering.get(offer["files"]["glue"]).headers["content-type"]
    tag = offering.get(offer["files"]["decode"]).headers["etag"]
    assert offering.get(offer["files"]["decode"], headers={"If-None-Match": tag}).status_code == 304
    for other in (
        "graphs/encode_support.onnx",
        "graphs/rifenet.json",
        "runtime/other.mjs",
        "runtime/../secret",
        "graphs/",
    ):
        assert offering.get(f"/in-browser/{other}").status_code == 404, other


def test_the_files_need_the_token(offering: TestClient) -> None:
    place = offering.get("/api/in-browser").json()["files"]["decode"]
    del offering.headers["Authorization"]
    for path in (place, "/api/in-browser", "/api/learned"):
        assert offering.get(path).status_code == 401, path


def test_only_what_computes_may_compile(offering: TestClient) -> None:
    """The page itself may not: its policy stays as it was."""
    for path, may in (
        ("/", False),
        ("/static/main.js", False),
        ("/static/device/worker.js", True),
        ("/in-browser/runtime/" + RUNTIME["glue"], True),
    ):
        headers = offering.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["script-src"] == ("'self' 'wasm-unsafe-eval'" if may else "'self'"), path
        assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cross-origin-opener-policy"] == "same-origin"


def test_learned_classes_come_as_a_file_without_photos(tmp_path: Path) -> None:
    engine = ColourEngine()
    with client_of(engine) as client:
        assert client.get("/api/learned").status_code == 404
        learn(client)
        answer = client.get("/api/learned")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) < 3000  # its photo has 9,216 bytes
    path = tmp_path / "classes.safetensors"
    path.write_bytes(answer.content)
    segmenter = Segmenter(ColourEngine())
    segmenter.load_classes(path)
    expected = np.zeros((48, 64), np.uint8)
    expected[:, :16] = 1
    np.testing.assert_array_equal(segmenter.segment(scene()).mask, expected)


def test_a_server_without_it_says_so(client: TestClient) -> None:
    assert client.get("/api/in-browser").json() == {"offered": False, "card": None, "quality": None, "files": {}}
    assert client.get("/in-browser/graphs/decode.onnx").status_code == 404


def test_what_is_missing_is_said_at_the_start(
    exported: tuple[Path, Path], runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = exported
    assert main(["serve", "--model", str(model), "--in-browser", str(runtime)]) == 1
    assert "rifenet export --out exported" in capsys.readouterr().err
    assert main(["serve", "--model", str(folder), "--in-browser", str(tmp_path)]) == 1
    assert "make browser-runtime" in capsys.readouterr().err
    with pytest.raises(ValueError, match="names another model"):
        Offer(ColourEngine(), folder, runtime)
