"""The application: the API, the page and its files, the description, behind the guard."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rifenet import __version__
from rifenet.engines import Engine
from rifenet.server.api import router as api
from rifenet.server.clients import LOOPBACK
from rifenet.server.connections import log_no_files_rarely
from rifenet.server.downloads import router as downloads
from rifenet.server.guard import Guard
from rifenet.server.in_browser import Offer, add_offer
from rifenet.server.in_browser import router as in_browser
from rifenet.server.json_bodies import LetGo
from rifenet.server.label_imports import router as label_imports
from rifenet.server.label_studio.learning import Labeling
from rifenet.server.label_studio.link import Link
from rifenet.server.label_studio.routes import router as labeling
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem
from rifenet.server.reference import reference_page
from rifenet.server.service import Service
from rifenet.server.worker import Stopped

_PACKAGE = files("rifenet")
_STATIC = str(_PACKAGE / "server" / "static")
_CLIENT_GONE = 499  # nobody reads it

pages = APIRouter(include_in_schema=False)


def create_app(
    engine: Engine,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = LOOPBACK,
    label_studio: Link | None = None,
    offer: Offer | None = None,
) -> FastAPI:
    """The application over one model.

    Args:
        engine: runs the model, one request at a time.
        limits: None takes the defaults.
        token: what every request must show; None asks for none.
        hosts: names in the Host header that are answered; None answers all, which only a token makes safe.
        label_studio: where photos of labeling tasks may come from; None takes those in the tasks only.
        offer: files for browsers that segment photos themselves; None offers none.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="rifenet",
        version=__version__,
        summary="Few-shot segmentation: learn a class from a few annotated photos, find it in others.",
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
        lifespan=_lifespan,
        exception_handlers={
            HTTPException: _refused,
            RequestValidationError: _invalid,
            Stopped: _gone,
            Exception: _failed,
        },
    )
    app.state.parsing = asyncio.Lock()
    app.state.service = Service(engine, limits)
    app.state.labeling = Labeling(app.state.service, label_studio or Link())
    for router in (api, label_imports, downloads, in_browser, labeling, pages):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.mount("/examples", StaticFiles(directory=str(_PACKAGE / "examples")))
    add_offer(app, offer)
    app.add_middleware(LetGo)
    app.add_middleware(Guard, limits=limits, token=token, hosts=hosts)
    return app


@pages.get("/")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(f"{_STATIC}/index.html")


@pages.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The API's description for people."""
    return HTMLResponse(reference_page(request.app.openapi()))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    log_no_files_rarely(asyncio.get_running_loop())
    # FastAPI builds the routes when they are first needed, half a second in which nobody is answered.
    await run_in_threadpool(app.openapi)
    yield
    await run_in_threadpool(app.state.service.worker.close)


async def _refused(request: Request, error: Exception) -> Response:
    """The application's refusals as they are, but 503 where it could not keep an upload, which FastAPI calls a 400."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC):
        error = Problem(503, f"The server cannot keep the upload now: {cause.strerror}. Try again later.")
    return await http_exception_handler(request, error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A request that does not have the fields of its route, in one sentence."""
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "none")
    if (
        request.url.path.startswith("/api/")
        and request.method == "POST"
        and not kind.lower().startswith("multipart/form-data")
    ):
        sentence = f"Expected a form (multipart/form-data), but the content type is {kind[:60]}. See /docs."
        return JSONResponse({"detail": sentence}, 415)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return JSONResponse({"detail": f"Expected another value of {field}: {first['msg']}. See /docs."}, 422)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The server failed over this request; its log says why. It goes on."}, 500)
