"""`rifenet serve`: serves the web page and the HTTP API."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path

from rifenet.cli.console import note
from rifenet.cli.options import add_engine, model_of
from rifenet.config import needs


def main(argv: list[str]) -> int:
    """Serves until the user stops it, and returns 0."""
    arguments = _parser().parse_args(argv)
    token = arguments.token or os.environ.get("RIFENET_TOKEN") or None
    from rifenet.segmenting.instances import expect_extra
    from rifenet.server.limits import Limits

    with needs("rifenet[serve]"):
        from rifenet.server.clients import LOOPBACK
        from rifenet.server.in_browser import Offer
        from rifenet.server.label_studio.link import Link
        from rifenet.server.run import check_exposure, serve

        expect_extra()  # every answer counts objects

    limits = Limits(**{bound.name: getattr(arguments, bound.name) for bound in fields(Limits)})
    check_exposure(arguments.host, token, arguments.name)  # fails before the model loads
    link = Link(
        arguments.label_studio_url,
        arguments.label_studio_token or os.environ.get("RIFENET_LABEL_STUDIO_TOKEN") or None,
        arguments.label_studio_folder,
    )

    from rifenet.engines.load import load_engine

    engine = load_engine(model_of(arguments), arguments.device, arguments.threads)
    runtime = arguments.in_browser
    offer = None if runtime is None else Offer(engine, arguments.model, runtime)

    def ready(address: str) -> None:
        elsewhere = "" if arguments.host in LOOPBACK else " (on other machines, with this machine's name)"
        ask = " and enter the token" if token else ""
        print(f"rifenet serve: open {address}{elsewhere}{ask} (Ctrl+C stops the server)", flush=True)

    try:
        serve(
            engine,
            host=arguments.host,
            port=arguments.port,
            limits=limits,
            token=token,
            names=arguments.name,
            label_studio=link,
            offer=offer,
            ready=ready,
        )
    except KeyboardInterrupt:
        note("rifenet serve: stopped.")
    return 0


def _parser() -> argparse.ArgumentParser:
    from rifenet.server.limits import Limits

    parser = argparse.ArgumentParser(
        prog="rifenet serve",
        description="Serves a web page and an HTTP API (/docs). On the page you annotate a few photos and segment"
        " others. Only this machine can reach the server, unless you give --host and a token.",
        epilog="example: rifenet serve --port 8000",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one (default: 8000)")
    add_engine(parser)
    parser.add_argument(
        "--token",
        help="token that clients must send; required if --host lets other machines in. You can set RIFENET_TOKEN"
        " instead, which keeps the token out of process lists",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="another host name of the server, e.g. that of a proxy; requires a token",
    )
    parser.add_argument(
        "--in-browser",
        metavar="DIR",
        help="let browsers segment photos themselves, so that these stay there: a folder of ONNX Runtime Web"
        " (`make browser-runtime`); --model has to be an export (docs/server.md)",
    )
    studio = parser.add_argument_group("Label Studio, which connects to /labeling (docs/label_studio.md)")
    studio.add_argument(
        "--label-studio-url",
        metavar="URL",
        help="address of Label Studio; the server fetches photos and annotations from there only",
    )
    studio.add_argument(
        "--label-studio-token",
        metavar="TOKEN",
        help="access token of Label Studio; you can set RIFENET_LABEL_STUDIO_TOKEN instead (default: the token that"
        " Label Studio sends when it connects)",
    )
    studio.add_argument(
        "--label-studio-folder", type=Path, metavar="DIR", help="folder of the photos in Label Studio's local storage"
    )
    group = parser.add_argument_group("limits; a request beyond one gets the HTTP status in brackets")
    for bound in fields(Limits):
        text = f"{bound.metadata['help']} (default: {bound.default})"
        group.add_argument(f"--{bound.name.replace('_', '-')}", type=int, default=bound.default, metavar="N", help=text)
    return parser
