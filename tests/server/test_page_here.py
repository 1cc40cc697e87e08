"""Photos segmented on this device, in Chromium with ONNX Runtime Web: the same masks, and no photo in any request."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rifenet.engines.onnx import OnnxEngine
from rifenet.server.app import create_app
from rifenet.server.in_browser import RUNTIME, Offer
from rifenet.server.limits import Limits

from .browsing import labels_of, segment
from .conftest import running

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(str(files("rifenet"))) / "examples"
TABLE = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
FACTS = """async () => {
  const { project } = await import("/static/project.js");
  return Object.fromEntries(project.photos.map(({ name, error, result }) => [name, error || result?.found]));
}"""
AGAIN = """async () => {
  const { clearWork, project } = await import("/static/project.js");
  const { refreshAll } = await import("/static/actions.js");
  for (const photo of project.photos) if (photo.role === "query") clearWork(photo);
  refreshAll();
}"""


class Recorder:
    """ASGI middleware that keeps what is sent to the server: [path, body], without the page's own files."""

    def __init__(self, app: ASGIApp, kept: list[tuple[str, bytes]]) -> None:
        self.app, self.kept = app, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def heard() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        await self.app(scope, heard, send)
        if scope["type"] == "http":
            asked = f"{scope['path']}?{scope['query_string'].decode()}"
            headers = b"".join(name + value for name, value in scope["headers"])
            self.kept.append((scope["path"], asked.encode() + headers + body))


SENT: list[tuple[str, bytes]] = []


def runtime() -> Path:
    """The folder of ONNX Runtime Web; without it, the test is skipped, or fails where it has to be there."""
    folder = Path(os.environ.get("RIFENET_BROWSER_RUNTIME", ROOT / "build" / "onnxruntime-web"))
    if not all((folder / name).is_file() for name in RUNTIME.values()):
        reason = f"Expected ONNX Runtime Web at {folder}, but it is not there. Run `make browser-runtime`."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return folder


@pytest.fixture(scope="module")
def served(exported: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runtime as the server has it, so that a test can take a file away."""
    return Path(shutil.copytree(runtime(), tmp_path_factory.mktemp("runtime") / "ort"))


@pytest.fixture(scope="module")
def address(exported: tuple[Path, Path], served: Path) -> Iterator[str]:
    engine = OnnxEngine(exported[1], threads=1)
    app = create_app(engine, limits=Limits(seconds=600), offer=Offer(engine, exported[1], served))
    app.add_middleware(Recorder, kept=SENT)
    with running(app) as there:
        yield there


def sample(page: Page) -> None:
    """Two classes on four marked examples, and six photos to segment."""
    page.set_default_timeout(
        240_000
    )  # a run learns, and computes in two processes, which a busy machine takes long for
    page.click("#sample-here")
    expect(page.locator("#query-list .thumb")).to_have_count(6)


def stay_here(page: Page) -> None:
    page.get_by_label("On this device").check()
    expect(page.locator("#here-note")).to_contain_text("stay in this browser")


def queries(page: Page) -> list[str]:
    names: list[str] = page.evaluate("""async () => {
      const { photosOf } = await import("/static/project.js");
      return photosOf("query").map(({ name }) => name);
    }""")
    return names


def photo_in(sent: list[tuple[str, bytes]], name: str) -> list[str]:
    """Paths of the requests with a photo in them, that is 200 bytes from the middle of its file."""
    content = (EXAMPLES / "photos" / name).read_bytes()
    part = content[len(content) // 2 :][:200]
    return [path for path, body in sent if part in body]


def masks(page: Page) -> dict[str, NDArray[np.uint8]]:
    return {name: labels_of(page, name).copy() for name in queries(page)}


def agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Share of the pixels with a class in either mask that have the same in both."""
    either = (one > 0) | (other > 0)
    return float((one == other)[either].mean()) if either.any() else 1.0


def test_masks_are_the_servers_and_no_photo_leaves(open_page: Any, served: Path) -> None:
    page: Page = open_page()
    sample(page)
    SENT.clear()
    segment(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(6)
    names, there, told = queries(page), masks(page), page.evaluate(FACTS)
    assert all("/api/segment" in photo_in(SENT, name) for name in names)  # so the search below can find a photo

    SENT.clear()
    stay_here(page)
    page.evaluate(AGAIN)
    assert page.evaluate("crossOriginIsolated")  # else WebAssembly has one thread
    segment(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(6)
    here, found = masks(page), page.evaluate(FACTS)
    assert [path for name in names for path in photo_in(SENT, name)] == []
    assert "/api/segment" not in {path for path, _ in SENT}
    assert max(len(body) for _, body in SENT) < 4000  # heads of requests for files: nothing as large as a picture
    assert {"/api/learned", "/in-browser/graphs/decode.onnx"} <= {path for path, _ in SENT}
    for name in names:
        # Photos are decoded by another library, and sums are in another order: pixels near a threshold may change.
        assert agreement(there[name], here[name]) > 0.99, name
        for own, other in zip(found[name], told[name], strict=True):
            assert own["present"] == other["present"]
            assert own["confidence"] == pytest.approx(other["confidence"], abs=0.01)
            assert own["quality"] == pytest.approx(other["quality"], abs=0.02)

    # So does what is done with the results: a download in formats that the server writes, advice, strokes.
    page.evaluate("""async () => {
      const { project } = await import("/static/project.js");
      project.options = { ...project.options, formats: ["coco", "cutout"] };
    }""")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.failure() is None
    expect(page.locator("#message")).not_to_contain_text("failed")
    page.click("#advise")
    expect(page.locator("#message")).to_contain_text("stay on this device")
    page.evaluate(
        """async (name) => {
      const { act } = await import("/static/actions.js"), { project } = await import("/static/project.js");
      const { mark } = await import("/static/strokes.js"), photo = project.photos.find((each) => each.name === name);
      await mark(photo, { id: project.classes[0].id, kind: "object", width: 5, points: [[9, 9], [40, 40]] }, act);
    }""",
        names[0],
    )
    expect(page.locator("#message")).to_contain_text("stays on this device, and this needs the server")
    assert [path for name in names for path in photo_in(SENT, name)] == []
    # Nor any copy of one: the only pictures are the masks and black pictures of the download, which are PNG.
    assert [path for path, body in SENT if b"\xff\xd8\xff" in body] == []
    assert {path for path, body in SENT if b"\x89PNG" in body} == {"/api/files"}
    for part in (body for path, body in SENT if path == "/api/files"):
        pictures = [part[at.start() :] for at in re.finditer(rb"\x89PNG\r\n", part)]
        assert len(pictures) == 2
        assert np.asarray(Image.open(io.BytesIO(pictures[0]))).max() == 0


def test_what_cannot_be_done_here_is_said_and_nothing_is_sent_unasked(open_page: Any, served: Path) -> None:
    page: Page = open_page()
    sample(page)
    stay_here(page)
    page.get_by_label("Learn from these photos, too").check()
    page.click("#segment")
    expect(page.locator("#message")).to_contain_text("Photos teach on the server only. No photo was sent.")
    page.get_by_label("Learn from these photos, too").uncheck()

    SENT.clear()
    glue = served / RUNTIME["wasm"]
    glue.rename(glue.with_suffix(".away"))
    try:
        page.click("#segment")
        expect(page.locator("#message")).to_contain_text(f"no {glue.name} any more")
    finally:
        glue.with_suffix(".away").rename(glue)
    names = queries(page)
    assert [path for name in names for path in photo_in(SENT, name)] == []
    page.get_by_role("button", name="Send the photos to the server").click()
    expect(page.locator("#query-list .thumb.done")).to_have_count(6)
    assert not page.get_by_label("On this device").is_checked()
    assert all("/api/segment" in photo_in(SENT, name) for name in names)


def test_a_browser_without_vectors_says_so(open_page: Any) -> None:
    page: Page = open_page()
    page.evaluate("WebAssembly.validate = () => false")
    page.get_by_label("On this device").click()
    expect(page.locator("#message")).to_contain_text("SIMD")
    expect(page.locator("#message")).to_contain_text("go to the server, as before")
    expect(page.get_by_label("On this device")).not_to_be_checked()
