"""Writes an export: builds the graphs, checks them against torch and adds the card."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from rifenet import __version__
from rifenet.engines import CARD
from rifenet.engines.onnx import FORMAT, GRAPHS, OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.export.check import EngineAgreement, compare
from rifenet.export.graphs import Fields, build_graphs
from rifenet.files import contents, scratch_folder, write_bytes, write_text
from rifenet.models.files.checkpoint import shared_name

LEAST_IOU = {"float32": 0.999, "int8": 0.9}
"""Least IoU of an export's masks with torch's on the bundled photos, by precision."""


def export(
    engine: TorchEngine,
    out: str | Path,
    *,
    int8: bool = False,
    calibration: Sequence[Path] = (),
    tell: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Writes the model of `engine` to the folder `out` and returns its card.

    If the check fails, nothing is written. An older export in `out` is replaced, with the card last: after an
    interruption the folder does not load, and the same call starts again.

    Args:
        engine: the model, on any device; the check runs it on the CPU.
        out: a new or empty folder, or an older export, whole or interrupted.
        int8: quantise the backbone to 8 bits. The features differ, so the export has another hash.
        calibration: photos that set the 8-bit ranges; empty takes the bundled ones.
        tell: called with the name of each step.

    Raises:
        ValueError: the graphs and torch differ, the backbone has no layers for 8 bits, `out` holds something else, or a
            package of the extra is missing.
        OSError: the disk is full.
    """
    out = Path(out)
    if not _may_take(out):
        raise ValueError(f"Expected a new or empty folder, or an older export, but {out} is or holds something else.")
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with scratch_folder(place) as trial:  # on the disk of `out`, so that files can be moved there
        card = write_unchecked(engine, trial, int8=int8, calibration=calibration, tell=tell)
        tell("check")
        agreement = compare(_on_cpu(engine), OnnxEngine(trial))
        _refuse_other_masks(agreement, card["precision"])
        card["agreement_with_torch"] = agreement._asdict()
        out.mkdir(parents=True, exist_ok=True)
        for name in card["graphs"]:
            os.replace(trial / f"{name}.onnx", out / f"{name}.onnx")
        write_text(out / CARD, json.dumps(card, indent=1))
    return card


def write_unchecked(
    engine: TorchEngine,
    out: Path,
    *,
    int8: bool = False,
    calibration: Sequence[Path] = (),
    tell: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """`export` without its check, into any folder, to measure exports that the check would refuse."""
    tell("graphs")
    graphs, fields = build_graphs(engine.model, engine.size)
    if int8:
        from rifenet.export.quantize import quantize_graphs

        tell("8 bits")
        graphs = quantize_graphs(graphs, engine.size, calibration)
    card = _card(engine, fields, _write(graphs, out), "int8" if int8 else "float32")
    write_text(out / CARD, json.dumps(card, indent=1))
    return card


def _may_take(out: Path) -> bool:
    """Whether `out` is new or empty, or an export: with a card, or of graphs alone, as an interrupted one has them."""
    if not out.exists():
        return True
    ours = {CARD, *(f"{name}.onnx" for name in GRAPHS)}
    return out.is_dir() and ((out / CARD).is_file() or all(path.name in ours for path in contents(out)))


def _on_cpu(engine: TorchEngine) -> TorchEngine:
    """The same model on the CPU, where the graphs run too."""
    if engine.device.type == "cpu":
        return engine
    same = TorchEngine(copy.deepcopy(engine.model), device="cpu")
    same.size = engine.size
    return same


def _write(graphs: dict[str, onnx.ModelProto], folder: Path) -> dict[str, dict[str, str]]:
    """Writes each graph as one file. Returns each graph's entry in the card, by name."""
    entries = {}
    for name, graph in graphs.items():
        data = graph.SerializeToString(deterministic=True)
        write_bytes(folder / f"{name}.onnx", data)
        entries[name] = {"sha256": hashlib.sha256(data).hexdigest()}
    return entries


def _card(engine: TorchEngine, fields: Fields, entries: dict[str, dict[str, str]], precision: str) -> dict[str, Any]:
    suffix = "" if precision == "float32" else f"-{precision}-{entries['encode_support']['sha256'][:8]}"
    config = engine.model.config
    return {
        "format": FORMAT,
        "rifenet": __version__,
        "name": engine.name,
        "hash": engine.hash + suffix,
        "weights_hash": engine.weights_hash + suffix,
        "precision": precision,
        "image_size": engine.size,
        "kind": config.kind,
        "backbone": shared_name(config.backbone),
        "mask_threshold": engine.threshold,
        "calibration": dict(engine.calibration) if engine.calibration else None,
        "classes_trained_on": engine.classes_trained_on,
        "context": fields.context,
        "features": fields.features,
        "graphs": entries,
    }


def _refuse_other_masks(agreement: EngineAgreement, precision: str) -> None:
    if agreement.mask_iou < LEAST_IOU[precision]:
        raise ValueError(
            f"Expected masks that meet torch's with an IoU of at least {LEAST_IOU[precision]}, but the {precision}"
            f" graphs give {agreement.mask_iou:.4f} on {agreement.photos} photos (logits differ by up to"
            f" {agreement.logit_difference:.2g}). Nothing was written."
            + (" Give more photos like yours with --calibration, or leave --int8 out." if precision == "int8" else "")
        )
