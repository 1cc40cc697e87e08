"""The engine on ONNX Runtime: runs a folder that `rifenet export` wrote, without torch.

    K shots · B query images · S side of the square network input

The folder holds three graphs and the card `rifenet.json`, which describes the model and gives each graph's SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.config import needs
from rifenet.data.transforms import enlarged
from rifenet.engines import CARD, INNER, Context
from rifenet.files import misfit, parse_json

FORMAT = 1
GRAPHS = ("encode_support", "encode_query", "decode")
_SHAPE = {
    "format": int,
    "name": str,
    "hash": str,
    "weights_hash?": str,
    "image_size": int,
    "mask_threshold?": float,
    "calibration": ({str: float}, None),
    "classes_trained_on": ([str], None),
    "context": [str],
    "features": [str],
    "graphs": {str: {"sha256": str}},
}
"""What `rifenet export` writes into its card."""


def read_card(folder: str | Path) -> dict[str, Any]:
    """Reads the card, `rifenet.json`, of an export.

    Raises FileNotFoundError if the folder is no export, or ValueError for a damaged card or one of another format.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected an export folder with {CARD} at {folder}, but it has none. Run rifenet export."
        )
    try:
        card = parse_json(path.read_bytes(), path)
        version = card["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {path} as rifenet export writes it, but it is not ({error!r}). Export again."
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"Expected an export of format {FORMAT}, but {path} has {version}. Update rifenet or export again."
        )
    if wrong := misfit(card, _SHAPE, "it"):
        raise ValueError(f"Expected {path} as rifenet export writes it, but it is not: expected {wrong}. Export again.")
    return dict(card)


class OnnxEngine:
    """Runs an export on the CPU; see `rifenet.engines.Engine` for its members.

    It runs the images of a batch one at a time, so that no mask depends on the other images.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        """Loads the graphs of `folder`; with `threads` None, ONNX Runtime chooses.

        Raises FileNotFoundError for a missing file, or ValueError if a file has changed or cannot run, or if ONNX
        Runtime is not installed.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"Expected threads to be at least 1, but got {threads}.")
        card = read_card(folder)
        self.name = str(card["name"])
        self.hash = str(card["hash"])
        self.weights_hash = str(card.get("weights_hash", self.hash))  # older cards: `hash` covers the weights only
        self.size = int(card["image_size"])
        # Older cards lack the threshold. Their graphs subtract it, so that masks begin where the two logits are equal.
        self.threshold = float(card.get("mask_threshold", 0.5))
        self.calibration: Mapping[str, float] | None = card["calibration"]
        self.classes_trained_on: list[str] | None = card["classes_trained_on"]
        self._context, self._features = list(card["context"]), list(card["features"])
        self.inner_names = tuple(name for name in INNER if name in self._features)
        self._support, self._query, self._decode = (
            _session(Path(folder), card["graphs"].get(name), name, threads) for name in GRAPHS
        )

    def baseline(self) -> None:
        """None: an export holds no training-free baseline."""

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class; see `Engine`."""
        inputs: dict[str, NDArray[Any]] = {"images": images[None], "masks": masks[None], "image_valid": valid[None]}
        return _filled(dict(zip(self._context, _run(self._support, inputs), strict=True)))

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images; see `Engine`."""
        inputs = ({"images": images[i : i + 1], "image_valid": valid[i : i + 1]} for i in range(len(images)))
        return [dict(zip(self._features, _run(self._query, each), strict=True)) for each in inputs]

    def inner(self, features: Any) -> list[Mapping[str, NDArray[Any]]]:
        """Maps inside the network; see `Engine`."""
        return [{name: image[name][0] for name in self.inner_names} for image in features]

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Segments one class; see `Engine`. Raises ValueError for a context that another model learned."""
        if set(self._context) != set(context):
            raise ValueError(
                f"Expected a context with {', '.join(self._context)}, but got {', '.join(sorted(context))}."
                " Learn the class with this model."
            )
        logits = [_run(self._decode, {**image, **context})[0] for image in features]
        return np.concatenate([enlarged(part, (self.size, self.size)) for part in logits])


def _filled(context: Context) -> Context:
    """Drops slots of prior keys that are empty in every shot: an empty slot costs a query as much as a full one.

    In each shot the full slots come first.
    """
    if "prior_valid" not in context:
        return context
    slots = max(int(context["prior_valid"].sum(2).max()), 1)
    return {**context, **{name: context[name][:, :, :slots] for name in ("prior_keys", "prior_valid")}}


def _session(folder: Path, entry: Any, name: str, threads: int | None) -> Any:
    with needs("onnxruntime"):  # not our extra for exporting, which brings torch
        import onnxruntime
    path, expected = folder / f"{name}.onnx", (entry or {}).get("sha256")
    if not path.is_file():
        raise FileNotFoundError(f"Expected {path.name} beside {CARD} in {folder}, but it is missing. Export again.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise ValueError(f"Expected {path} as it was exported, but its SHA-256 is not that in {CARD}. Export again.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without this, idle threads of one graph spin on the cores that the next graph needs, which doubles the time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The fused kernel of a sum and a layer norm is four times as slow as the two separate kernels.
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ValueError(f"Expected a graph that this ONNX Runtime can run, but {path} fails: {error}") from error


def _run(session: Any, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    # A graph has inputs only for the fields that it reads.
    wanted = [value.name for value in session.get_inputs()]
    outputs: list[NDArray[Any]] = session.run(None, {name: np.ascontiguousarray(values[name]) for name in wanted})
    return outputs
