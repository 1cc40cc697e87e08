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
from rifenet.cli.options import add_model, model_of
from rifenet.config import ModelConfig

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "lightning-fabric", "rich", "onnxruntime")


def main(argv: list[str]) -> int:
    """Prints a table or JSON."""
    parser = argparse.ArgumentParser(
        prog="rifenet info",
        description="Shows versions, devices and the model's card; or counts what the model computes.",
        epilog="""example: rifenet info --model runs/first --json
         rifenet info --flops --config configs/pascal_resnet50_paper.yaml""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--flops",
        action="store_true",
        help="count parameters and multiply-adds of the model and of the training-free baseline, part by part",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="with --flops: count the model of a config instead")
    parser.add_argument(
        "--rivals", action="store_true", help="with --flops: also the heads of other papers over the same backbone"
    )
    arguments = parser.parse_args(argv)
    if arguments.rivals and not arguments.flops:
        parser.error("--rivals belongs to --flops")
    if arguments.config and not arguments.flops:
        parser.error("--config belongs to --flops")
    if arguments.flops:
        return _flops(arguments)
    try:
        card = _card(model_of(arguments))
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


def _flops(arguments: argparse.Namespace) -> int:
    """Prints the costs of the model, and of the baseline over the same backbone."""
    import dataclasses

    from rifenet.config import RIVALS, load_config
    from rifenet.evaluation.costs import costs

    if arguments.config:
        config = load_config(arguments.config)
        network, size, unlabeled = config.model, config.data.image_size, config.train.unlabeled
    else:
        network, size = _network(model_of(arguments))
        unlabeled = 0
    methods = {network.kind: costs(network, size, unlabeled)}
    if arguments.rivals:
        plain = dataclasses.replace(network.with_one_view(), evidence=False)
        methods |= {kind: costs(dataclasses.replace(plain, kind=kind), size) for kind in RIVALS if kind not in methods}
    if network.kind != "prototype":
        methods["prototype"] = costs(dataclasses.replace(network, kind="prototype"), size)
    if arguments.json:
        parts = {name: {part: cost._asdict() for part, cost in found.items()} for name, found in methods.items()}
        print_json({"backbone": network.backbone, "image_size": size, "unlabeled": unlabeled, "methods": parts})
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for name, found in methods.items():
        title = f"{name} over {network.backbone}, {size} px: parameters, and 10^9 multiply-adds"
        table = Table(
            "part", "parameters", "a support photo", "a query", f"an episode of training, U = {unlabeled}", title=title
        )
        for part, cost in found.items():
            trained = f"{cost.step / 1e9:,.2f}" if found["all"].step else "–"
            table.add_row(part, f"{cost.parameters:,}", f"{cost.learn / 1e9:,.2f}", f"{cost.query / 1e9:,.2f}", trained)
        console.print(table)
    console.print(
        "Convolutions and products of matrices are counted, of one shot with all its views, and of the forward pass. "
        "The backward pass takes about twice as much again of every part but the frozen backbone."
    )
    return 0


def _network(name: str) -> tuple[ModelConfig, int]:
    """The configuration of a model's file, and the size of its input."""
    from rifenet.config import DataConfig, from_dict
    from rifenet.engines import is_export
    from rifenet.models.files.hub import is_over_backbone, load_model, locate

    if is_export(name):
        raise ValueError(
            f"Expected a model with weights of torch for --flops, but {name} is an export. Name its model."
        )
    if is_over_backbone(name):
        model = load_model(name)
        return model.config, int(model.metadata["image_size"])
    header = _header(locate(name))
    size = header["metadata"].get("image_size", DataConfig.image_size)
    return from_dict(ModelConfig, header["config"], f"the header of {name}"), size


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
    from rifenet.config import from_dict
    from rifenet.engines import is_export
    from rifenet.models.files.hub import is_over_backbone, locate

    if is_export(name):
        return _export_card(name)
    if is_over_backbone(name):
        return _card_over_backbone(name)
    path = locate(name)
    header = _header(path)
    config: ModelConfig = from_dict(ModelConfig, header["config"], f"the header of {path}")
    return {
        "file": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "kind": config.kind,
        "backbone": config.backbone,
        "backbone_hash": header["backbone_hash"],
        **header["metadata"],
    }


def _card_over_backbone(name: str) -> dict[str, Any]:
    """What a model over a backbone of the user's choice is made of. Loads its backbone."""
    from rifenet.models.files.checkpoint import backbone_file, backbone_hash
    from rifenet.models.files.hub import load_model

    model = load_model(name)
    backbone = model.backbone
    return {
        "kind": model.config.kind,
        "backbone": model.config.backbone,
        "backbone_hash": backbone_hash(model),
        "backbone_file": backbone_file(model.config),
        "stride": backbone.stride,
        "stages": list(backbone.used_stages),
        "channels": list(backbone.used_channels),
        **model.metadata,
    }


def _header(path: Path) -> dict[str, Any]:
    """The header of a model's file."""
    from safetensors import SafetensorError, safe_open

    from rifenet.models.files.header import HEADER, parse_header

    if not path.is_file():
        raise FileNotFoundError(f"Expected a model at {path}, but there is none.")
    try:
        with safe_open(path, framework="numpy") as file:
            return parse_header(path, (file.metadata() or {}).get(HEADER))
    except SafetensorError as error:
        raise ValueError(f"Expected a safetensors file, but {path} cannot be read ({error}).") from error


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
