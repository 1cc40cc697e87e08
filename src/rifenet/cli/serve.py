"""`rifenet serve`: the page and the HTTP API."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path

from rifenet.cli.console import note
from rifenet.config import needs


def main(argv: list[str]) -> int:
    """Serves until it is stopped; 1 where it cannot start."""
    arguments = _parser().parse_args(argv)
    token = arguments.token or os.environ.get("RIFENET_TOKEN") or None
    from rifenet.server.limits import Limits

    with needs("rifenet[serve]"):
        from rifenet.server.clients import LOOPBACK
        from rifenet.server.label_studio.link import Link
        from rifenet.server.run import check_exposure, serve

    limits = Limits(**{bound.name: getattr(arguments, bound.name) for bound in fields(Limits)})
    check_exposure(arguments.host, token, arguments.name)  # before the model is loaded
    link = Link(
        arguments.label_studio_url,
        arguments.label_studio_token or os.environ.get("RIFENET_LABEL_STUDIO_TOKEN") or None,
        arguments.label_studio_folder,
    )

    from rifenet.engines.load import load_engine

    engine = load_engine(arguments.model, arguments.device, arguments.threads)

    def ready(address: str) -> None:
        elsewhere = "" if arguments.host in LOOPBACK else " here, or this machine's own name elsewhere"
        ask = ", and give it the token" if token else ""
        print(f"rifenet serve: open {address}{elsewhere}{ask} (Ctrl+C stops it)", flush=True)

    try:
        serve(
            engine,
            host=arguments.host,
            port=arguments.port,
            limits=limits,
            token=token,
            names=arguments.name,
            label_studio=link,
            ready=ready,
        )
    except KeyboardInterrupt:
        note("rifenet serve: stopped.")
    return 0


def _parser() -> argparse.ArgumentParser:
    from rifenet.server.limits import Limits

    parser = argparse.ArgumentParser(
        prog="rifenet serve",
        description="Serves a page on which to annotate a few photos and segment others, and an HTTP API (/docs). To"
        " this machine only, unless --host and a token say otherwise.",
        epilog="example: rifenet serve --port 8000",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one (default: 8000)")
    parser.add_argument(
        "--model",
        default="default",
        help="default (bundled), a run folder, a .safetensors file, an export folder or hf:owner/name",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the library's choice)")
    parser.add_argument(
        "--token",
        help="what clients must show; required for any host but loopback (or set RIFENET_TOKEN, which no list"
        " of processes shows)",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a further host name by which the server is called, e.g. behind a proxy; requires a token",
    )
    studio = parser.add_argument_group("Label Studio, which connects to /labeling (docs/label_studio.md)")
    studio.add_argument(
        "--label-studio-url", metavar="URL", help="its address; photos and annotations are taken from nowhere else"
    )
    studio.add_argument(
        "--label-studio-token",
        metavar="TOKEN",
        help="its access token (or set RIFENET_LABEL_STUDIO_TOKEN; default: what it sends when it connects)",
    )
    studio.add_argument(
        "--label-studio-folder", type=Path, metavar="DIR", help="where the photos of its local storage lie"
    )
    group = parser.add_argument_group("limits, with the HTTP status of what is beyond them")
    for bound in fields(Limits):
        text = f"{bound.metadata['help']} (default: {bound.default})"
        group.add_argument(f"--{bound.name.replace('_', '-')}", type=int, default=bound.default, metavar="N", help=text)
    return parser
