"""`rifenet info`: shows versions, devices and the model's card. Loads torch only to list devices."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rifenet import __version__
from rifenet.cli.console import print_json
from rifenet.cli.options import add_model

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "lightning-fabric", "rich", "onnxruntime")


def main(argv: list[str]) -> int:
    """Prints a table or JSON."""
    parser = argparse.ArgumentParser(
        prog="rifenet info",
        description="Shows versions, devices and the model's card.",
        epilog="example: rifenet info --model runs/first --json",
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    try:
        card = _card(arguments.model)
    except FileNotFoundError as error:
        if arguments.model != "default":
            raise
        card = {"problem": str(error)}  # an incomplete install should still show versions and devices
    facts = {
        "rifenet": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cores": os.cpu_count(),
        "devices": _devices(),
        "model": card,
    }
    if arguments.json:
        print_json(facts)
    else:
        _print_table(facts)
    return 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    """The values that `--device` takes on this machine."""
    installed = _version("torch")
    if installed is None or "+cpu" in installed:
        return ["cpu"]  # no torch, or a build for the CPU alone: no need to load it
    import torch

    names = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def _card(name: str) -> dict[str, Any]:
    """The card in the header of the model's file. Raises FileNotFoundError, or ValueError for another kind of file."""
    from safetensors import SafetensorError, safe_open

    from rifenet.config import ModelConfig, from_dict
    from rifenet.engines import is_export
    from rifenet.models.files.header import HEADER, parse_header
    from rifenet.models.files.hub import locate

    if is_export(name):
        return _export_card(name)
    path = locate(name)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a model at {path}, but there is none.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = parse_header(path, (file.metadata() or {}).get(HEADER))
    except SafetensorError as error:
        raise ValueError(f"Expected a safetensors file, but {path} cannot be read ({error}).") from error
    config: ModelConfig = from_dict(ModelConfig, header["config"], f"the header of {path}")
    return {
        "file": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "kind": config.kind,
        "backbone": config.backbone,
        "backbone_hash": header["backbone_hash"],
        **header["metadata"],
    }


def _export_card(folder: str) -> dict[str, Any]:
    from rifenet.engines.onnx import GRAPHS, read_card

    card = read_card(folder)
    graphs = [Path(folder) / f"{name}.onnx" for name in GRAPHS]
    size = sum(path.stat().st_size for path in graphs if path.is_file())
    unlisted = ("graphs", "context", "features")
    card = {name: value for name, value in card.items() if name not in unlisted}
    return {"file": folder, "megabytes": round(size / 1e6, 1), **card}


def _print_table(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        "rifenet": facts["rifenet"],
        "python": f"{facts['python']} on {facts['platform']}",
        "packages": ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
        "devices": f"{', '.join(facts['devices'])} ({facts['cores']} cores)",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    table.add_row("", "")
    for name, value in facts["model"].items():
        table.add_row(f"model {name}", escape(value if isinstance(value, str) else json.dumps(value)))
    Console().print(table)
