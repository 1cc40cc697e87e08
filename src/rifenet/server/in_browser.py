"""What a browser needs to segment photos itself: the model's graphs, ONNX Runtime Web, and the learned classes.

The page's modules in `static/device` do the work. Nothing of ONNX Runtime Web is in the package: who starts the server
names a folder that holds it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.staticfiles import StaticFiles

from rifenet.engines import CARD, Engine, is_export
from rifenet.engines.onnx import read_card
from rifenet.segmenting.quality import models
from rifenet.segmenting.storage import classes_file
from rifenet.server import answers
from rifenet.server.problem import Problem
from rifenet.server.service import ProjectName, Shared

PLACE = "/in-browser"
"""Where the files are served."""
GRAPHS = ("encode_query", "decode")
RUNTIME = {
    "module": "ort.wasm.min.mjs",
    "glue": "ort-wasm-simd-threaded.mjs",
    "wasm": "ort-wasm-simd-threaded.wasm",
}
"""Files of ONNX Runtime Web: its module, what loads its WebAssembly, and that."""

router = APIRouter(prefix="/api")


class Offer:
    """The files by which a browser segments photos as an engine does."""

    def __init__(self, engine: Engine, model: str | Path, runtime: str | Path) -> None:
        """Looks whether all files are there.

        Args:
            engine: what the server runs.
            model: the export that it was loaded from.
            runtime: the folder of ONNX Runtime Web's files, or of its package.

        Raises:
            ValueError: `model` is no export, or not the engine's.
            FileNotFoundError: the runtime lacks a file.
        """
        if not is_export(model):
            raise ValueError(
                f"Expected an export with --in-browser, because browsers run its graphs, but --model is {model}. Make"
                " one: rifenet export --out exported. Then give --model exported."
            )
        self.export, self.card = Path(model), read_card(model)
        if self.card["hash"] != engine.hash:
            raise ValueError(f"Expected the export that the server runs, but {CARD} of {model} names another model.")
        self.runtime = _runtime_in(Path(runtime))


def _runtime_in(folder: Path) -> Path:
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in RUNTIME.values()):
            return place
    raise FileNotFoundError(
        f"Expected ONNX Runtime Web at {folder}, that is {', '.join(RUNTIME.values())}, but they are not all there. In"
        " a clone, `make browser-runtime` fetches them into build/onnxruntime-web."
    )


class OfferAnswer(BaseModel):
    """What the server has for browsers that segment photos themselves."""

    offered: bool = Field(description="Whether it was started with --in-browser.")
    card: dict[str, Any] | None = Field(None, description="rifenet.json of the export.")
    quality: dict[str, Any] | None = Field(None, description="Coefficients of the expected IoU, by sign.")
    files: dict[str, str] = Field({}, description="Where the graphs and ONNX Runtime Web are.")


def add_offer(app: FastAPI, offer: Offer | None) -> None:
    """Lets the application serve the files of `offer`, and no others of their folders."""
    app.state.offer = offer
    if offer is not None:
        app.mount(f"{PLACE}/graphs", _Named(offer.export, [f"{name}.onnx" for name in GRAPHS]))
        app.mount(f"{PLACE}/runtime", _Named(offer.runtime, list(RUNTIME.values())))


class _Named(StaticFiles):
    """The files of a folder with these names."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__(directory=folder)
        self.names = names

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Path and facts of a file, None for one that is not served."""
        return super().lookup_path(path) if path in self.names else ("", None)


@router.get("/in-browser", responses=answers.problems())
async def in_browser(request: Request) -> OfferAnswer:
    """What the server has for browsers that segment photos themselves."""
    offer: Offer | None = request.app.state.offer
    if offer is None:
        return OfferAnswer(offered=False, card=None, quality=None, files={})
    graphs = {name: f"{PLACE}/graphs/{name}.onnx" for name in GRAPHS}
    runtime = {name: f"{PLACE}/runtime/{file}" for name, file in RUNTIME.items()}
    return OfferAnswer(offered=True, card=offer.card, quality=dict(models()), files=graphs | runtime)


@router.get(
    "/learned",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **answers.problems(404, 422, 503),
    },
)
async def learned(request: Request, service: Shared, x_project: ProjectName = None) -> Response:
    """The project's classes as a file of `Segmenter.save_classes`, which holds no photo."""
    project = service.project_of(request, x_project)[1]
    if project is None or not project.segmenter.classes:
        raise Problem(404, "Expected a project with a learned class, but there is none. Send POST /api/classes first.")
    found = project.segmenter

    def work() -> bytes:
        return classes_file(found.learned, found.engine)

    return Response(await service.run(request, work), media_type="application/octet-stream")
