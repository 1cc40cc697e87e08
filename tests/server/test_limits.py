"""Each limit and each bad request gets its own 4xx or 503 with a sentence, and the server goes on."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from rifenet.server.app import create_app
from rifenet.server.limits import Limits

from .conftest import client_of, encoded, learn, photo, quarter, scene, shot

MASK = ("masks", ("m.png", encoded(quarter("left"))))

FORM = "multipart/form-data; boundary=x"


def claimed(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds at most one row of it: a decompression bomb in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * min(width + 1, 100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def coloured_mask() -> bytes:
    return encoded(scene())


def mask_as(format: str, **options: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(quarter("left")).save(buffer, format, **options)
    return buffer.getvalue()


def grain() -> NDArray[np.uint8]:
    """A picture that does not compress."""
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(scene() // divisor) for divisor in (1, 2, 3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def noise(megabytes: float) -> bytes:
    return np.random.default_rng(0).bytes(int(megabytes * 1e6))


@pytest.fixture
def small() -> Iterator[TestClient]:
    """A server with low limits, which must still serve a good client after the test."""
    with client_of(file_mb=1, request_mb=2, megapixels=1, files=3, classes=2, projects=2) as client:
        yield client
        client.cookies.clear()
        client.delete("/api/classes/red", headers={"X-Project": "after"})
        good = learn(client, headers={"X-Project": "after"})
        assert good.status_code == 200, good.text
        found = client.post("/api/segment", files=photo(), headers={"X-Project": "after"})
        assert found.json()["results"][0]["classes"][0]["pixels"] == 768


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 422, "is empty"),
        (b"no picture at all", 415, "something else"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "something else"),
        (b"PK\x03\x04" + b"\0" * 200, 415, "something else"),
        (encoded(grain())[:2000], 422, "cannot read"),
        (encoded(scene())[:20], 415, "damaged"),
        (encoded(scene()).replace(b"IDAT", b"IDAX"), 415, "damaged"),
        (claimed(2000, 2000), 413, "million pixels"),
        (claimed(60_000, 60_000), 413, "million pixels"),
        (claimed(2**31 - 1, 2**31 - 1), 413, "million pixels"),
        (noise(1.2), 413, "at most 1 MB"),
    ],
    ids=["empty", "text", "svg", "eps", "zip", "cut", "header", "holes", "large", "bomb", "giant", "file"],
)
@pytest.mark.parametrize("where", ["segment", "learn"])
def test_files_that_are_no_good_photo(small: TestClient, content: bytes, status: int, words: str, where: str) -> None:
    files = [("images", ("x.png", content))]
    if where == "segment":
        learn(small)
        answer = small.post("/api/segment", files=files)
    else:
        answer = small.post("/api/classes", data={"name": "x"}, files=[*files, MASK])
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (mask_as("JPEG"), 415, "a JPEG"),
        (mask_as("WEBP"), 415, "a WebP"),
        (mask_as("TIFF", compression="jpeg"), 415, "a TIFF of JPEG"),
        (coloured_mask(), 422, "index mask"),
        (encoded(np.zeros((48, 64), np.uint8)), 422, "marks none"),
        (encoded(np.full((48, 64), 255, np.uint8)), 422, "white_is_object"),
        (encoded(quarter("left", 64, 47)), 422, "as large as its photo"),
        (claimed(60_000, 60_000), 413, "million pixels"),
        (b"", 422, "is empty"),
    ],
    ids=["jpeg", "webp", "jpeg-in-tiff", "coloured", "nothing", "ignored", "size", "bomb", "empty"],
)
def test_files_that_are_no_good_mask(small: TestClient, content: bytes, status: int, words: str) -> None:
    files = [photo()[0], ("masks", ("m.png", content))]
    answer = small.post("/api/classes", data={"name": "x"}, files=files)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert small.get("/api/health").json()["projects"] == 0  # a refused client takes no place


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_lossless_tiff_masks_are_taken(client: TestClient, compression: str) -> None:
    files = [photo()[0], ("masks", ("m.tif", mask_as("TIFF", compression=compression)))]
    assert client.post("/api/classes", data={"name": "x"}, files=files).status_code == 200


class Failing(ColourEngine):
    """Fails over queries."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
    ],
)
def test_a_model_without_memory_is_a_503_that_says_when_to_try_again(error: Exception) -> None:
    with client_of(Failing(error)) as client:
        learn(client)
        answer = client.post("/api/segment", files=photo())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert "ran out of memory" in answer.json()["detail"]
        assert learn(client, "blue", "right").status_code == 200


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_an_upload_that_cannot_be_kept_is_a_503(
    small: TestClient, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("starlette.datastructures.UploadFile.write", write)
        answer = small.post("/api/segment", files=photo())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert os.strerror(number) in answer.json()["detail"]


def test_other_failures_of_the_model_stay_500() -> None:
    app = create_app(Failing(RuntimeError("shapes differ")))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        learn(client)
        assert client.post("/api/segment", files=photo()).status_code == 500


@pytest.mark.parametrize("name", ["", "   ", "a/b", "..", "..\\x", "a\nb", "\0", "x" * 61, "<b>", "\u202eevil"])
def test_names_that_could_do_harm(small: TestClient, name: str) -> None:
    answer = learn(small, name)
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("..", "photo 1"),
        ("<i>.png", "i.png"),
        ("x" * 300, "x" * 100),
    ],
)
def test_file_names_lose_their_paths(small: TestClient, sent: str, shown: str) -> None:
    learn(small)
    assert small.post("/api/segment", files=photo(sent)).json()["results"][0]["name"] == shown


def test_numbers_of_photos_classes_shots_and_projects(small: TestClient) -> None:
    learn(small)
    too_many = small.post("/api/segment", files=photo() * 4)
    assert (too_many.status_code, "at most 3 photos" in too_many.json()["detail"]) == (413, True)
    uneven = small.post("/api/classes", data={"name": "x"}, files=[*shot(), photo()[0]])
    assert (uneven.status_code, "1 for 2" in uneven.json()["detail"]) == (422, True)
    assert learn(small, "blue", "right").status_code == 200
    third = learn(small, "more")
    assert (third.status_code, "at most 2 classes" in third.json()["detail"]) == (422, True)
    assert learn(small).json()["classes"][0]["shots"] == 2  # a known class takes no new place
    for _ in range(7):
        full = small.post("/api/classes", data={"name": "red"}, files=shot() * 3)
    assert (full.status_code, "at most 20 shots" in full.json()["detail"]) == (422, True)
    assert learn(small, headers={"X-Project": "second"}).status_code == 200
    crowd = learn(small, headers={"X-Project": "third"})
    assert (crowd.status_code, crowd.headers["retry-after"]) == (503, "60")
    assert "2 projects" in crowd.json()["detail"]
    small.delete("/api/classes/red", headers={"X-Project": "second"})


def test_memory_of_learned_classes() -> None:
    one = 64 * 64 * 14
    with client_of(memory_mb=1) as client:
        answers = [learn(client, f"c{number % 20}") for number in range(40)]
        kept = sum(each["shots"] for each in client.get("/api/classes").json()["classes"])
        assert client.post("/api/segment", files=photo()).status_code == 200
    statuses = [each.status_code for each in answers]
    assert set(statuses) == {200, 503}
    assert statuses == sorted(statuses)
    assert 0.5e6 < kept * one < 1e6
    assert "at most 1" in answers[-1].json()["detail"]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": [*photo(), ("images", ("n", noise(2.1)))]}, 413, "at most 2 MB"),
        ({"content": iter([noise(1.2), noise(1.2)]), "headers": {"Content-Type": FORM}}, 413, "at most 2 MB"),
        ({"json": {"images": []}}, 415, "multipart/form-data"),
        ({"content": b"abc", "headers": {"Content-Type": "image/png"}}, 415, "multipart/form-data"),
        ({}, 415, "multipart/form-data"),
        ({"files": [("pictures", ("a.png", encoded(scene())))]}, 422, "images"),
        ({"data": {"images": "text"}, "files": [("x", ("x", b"x"))]}, 422, "images"),
        ({"files": photo(), "data": {"keep_absent": "perhaps"}}, 422, "keep_absent"),
        ({"files": photo(), "data": {"format": "bmp"}}, 422, "format"),
        ({"files": photo() * 2, "data": {"format": "png"}}, 422, "one photo"),
        ({"files": photo(), "headers": {"X-Project": "../x"}}, 422, "X-Project"),
        ({"files": photo(), "headers": {"Cookie": "rifenet_project=%2e%2e/x"}}, 422, "project name"),
        ({"files": photo(), "headers": {"X-Project": "nobody"}}, 422, "no"),
        ({"content": b"abc", "headers": {"Content-Type": FORM}}, 400, "multipart"),
        ({"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"data": {f"f{number}": "x" for number in range(1100)}, "files": photo()}, 400, "fields"),
        ({"data": {"format": "x" * 1_100_000}, "files": photo()}, 400, "size"),
    ],
    ids=[
        *("content-length", "chunked", "json", "bytes", "nothing", "other-field", "text-field", "no-bool", "format"),
        *("two-pngs", "header", "cookie", "unknown", "no-form", "no-boundary", "many-fields", "long-field"),
    ],
)  # fmt: skip
def test_requests_that_are_no_good_form(small: TestClient, request_: dict[str, Any], status: int, words: str) -> None:
    learn(small)
    answer = small.post("/api/segment", **request_)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/nothing", 404), ("PUT", "/api/classes", 405), ("DELETE", "/api/classes/no", 404)],
)
def test_other_routes(small: TestClient, method: str, path: str, status: int) -> None:
    answer = small.request(method, path)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


def test_an_animation_counts_by_its_first_picture(small: TestClient) -> None:
    learn(small)
    (result,) = small.post("/api/segment", files=[("images", ("a.gif", animated()))]).json()["results"]
    assert (result["width"], result["height"]) == (64, 48)
    assert result["classes"][0]["pixels"] == 768


@pytest.mark.parametrize("field", ["file_mb", "seconds", "requests", "queue", "projects"])
def test_limits_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')}"):
        Limits(**{field: 0})
