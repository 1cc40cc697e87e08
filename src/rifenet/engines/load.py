"""Loads a model with the engine that can run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rifenet.engines import is_export
from rifenet.engines.garbage import uncollected

if TYPE_CHECKING:
    from rifenet.engines.onnx import OnnxEngine
    from rifenet.engines.torch import TorchEngine


def load_engine(
    model: str | Path = "default", device: str = "auto", threads: int | None = None
) -> OnnxEngine | TorchEngine:
    """Loads an export folder on ONNX Runtime, and on torch all that `load_model` takes (`rifenet.models.files.hub`).

    Raises:
        FileNotFoundError: the model does not exist.
        ValueError: the file is no model, or this machine lacks the device or the library that runs the model.
    """
    if is_export(model):
        if device not in ("auto", "cpu"):
            raise ValueError(f"Expected device auto or cpu with an export folder, but got {device!r}.")
        from rifenet.engines.onnx import OnnxEngine

        return OnnxEngine(model, threads=threads)
    try:
        with uncollected:
            from rifenet.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ValueError(
            f"Expected torch to run {model}, but it is not installed. Install it, or give a folder from rifenet export."
        ) from error
    return TorchEngine.load(model, device=device, threads=threads)
