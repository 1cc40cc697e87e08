"""Saves and reads a model as one safetensors file, whose header holds all that rebuilding it needs.

A run's `model.safetensors` holds the trained tensors and the hash of the frozen backbone. A file for shipping also
holds the backbone, with convolutions in float16. Writes are atomic: a killed or failed write leaves the old file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rifenet.config import ModelConfig, behaviour, expect_allowed, from_dict, is_hf, is_outside, to_dict
from rifenet.files import write_atomically
from rifenet.models import Prototype, RiFeNet, build_model
from rifenet.models.backbones import imagenet_weights
from rifenet.models.backbones.staged import StagedBackbone
from rifenet.models.files.header import FORMAT, HEADER, parse_header


def state_hash(state: dict[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes, types and bytes, sorted by name.

    For the tensors of a model's file, as stored, it is the model's `weights_hash`. It leaves out counters of batch
    norm.
    """
    digest = hashlib.sha256()
    for name in sorted(_without_counters(state)):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_hash(weights_hash: str, config: ModelConfig, metadata: dict[str, Any]) -> str:
    """Identifies a model in 16 hex digits: models that may give different masks or confidences have different hashes.

    It covers the tensors (`weights_hash`), the configuration as far as it changes answers (`config.behaviour`), the
    size of the network's input and the calibration of confidences.
    """
    options = behaviour(config)
    if "backbone" in options:
        options["backbone"] = shared_name(config.backbone)
    facts = [options, metadata.get("image_size"), metadata.get("calibration")]
    return hashlib.sha256(f"{weights_hash} {json.dumps(facts, sort_keys=True)}".encode()).hexdigest()[:16]


def identify(model: RiFeNet | Prototype) -> None:
    """Sets the hashes of a model built in memory; renews `hash` after a change of the model's config."""
    model.weights_hash = getattr(model, "weights_hash", "") or state_hash(model.state_dict())
    model.hash = model_hash(model.weights_hash, model.config, getattr(model, "metadata", {}))


def backbone_hash(model: nn.Module) -> str:
    """Hash of the model's frozen backbone (parameters and batch-norm statistics)."""
    return state_hash(model.backbone.state_dict())  # type: ignore[union-attr]


def backbone_file(config: ModelConfig) -> dict[str, Any] | None:
    """Name, size in bytes and SHA-256 of the file that the frozen backbone is read from; None where there is none.

    The model's own file may hold the backbone, its weights may be random, or code of the user's own may make them.
    """
    if not config.pretrained or (is_outside(config.backbone) and not config.weights):
        return None
    if is_hf(config.backbone):
        from rifenet.models.backbones.hf import hf_files

        files = hf_files(config.weights or config.backbone)
        name = shared_name(config.backbone)
    else:
        files = [Path(config.weights or imagenet_weights(config.backbone))]
        name = files[0].name
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    # Weights in several files: the hash of the files' hashes, in the order of their names.
    digest = digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return {"name": name, "bytes": sum(path.stat().st_size for path in files), "sha256": digest}


def shared_name(backbone: str) -> str:
    """The name of a backbone that means the same on another machine: of a folder's path, the last part."""
    return Path(backbone).name if is_hf(backbone) and not backbone.startswith("hf:") else backbone


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without the frozen backbone."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}


def save_model(
    model: RiFeNet | Prototype, path: str | Path, metadata: dict[str, Any], *, with_backbone: bool = False
) -> None:
    """Writes the model.

    Args:
        model: the model to save.
        path: file to write, `.safetensors`.
        metadata: anything JSON can hold; `load_model` gives it back as `model.metadata`.
        with_backbone: write a file for shipping. It also holds the frozen backbone and leaves out the auxiliary head,
            which only training uses. Weights of two and more axes become float16; statistics of batch norm stay
            float32. A random backbone, which no other file holds, is always written, as it is.

    Raises:
        OSError: the disk is full or not writable; an older file at `path` stays as it was.
    """
    config = model.config
    state = trained_state(model)
    if with_backbone:
        name = shared_name(config.backbone)
        name = name if name == config.backbone else f"./{name}"  # a path of this machine says nothing elsewhere
        config = dataclasses.replace(config, aux=False, pretrained=False, weights="", backbone=name)
        backbone = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
        state = {
            name: value.half() if value.dim() > 1 else value
            for name, value in {**state, **_without_counters(backbone)}.items()
            if not name.startswith("auxiliary.")
        }
    elif not config.pretrained:
        state = _without_counters(model.state_dict())
    header = {
        "format": FORMAT,
        "config": to_dict(config),
        "backbone_hash": getattr(model, "trained_over", "") or backbone_hash(model),
        "metadata": metadata,
    }
    if not config.pretrained and isinstance(model.backbone, StagedBackbone) and model.backbone.facts.described:
        header["backbone"] = model.backbone.facts.described
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_atomically(Path(path), lambda file: save_file(tensors, file, {HEADER: json.dumps(header)}))


def read_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header (`config`, `backbone_hash`, `metadata`) and the tensors, as stored, of a file by `save_model`.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a model file at {path}, but there is none.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"Expected a safetensors file, but {path} cannot be read ({error}). Fetch it again."
        ) from error
    return parse_header(path, text), state


def read_model(path: str | Path, weights: str = "") -> RiFeNet | Prototype:
    """Rebuilds the model of a file written by `save_model`, in eval mode on the CPU, with its metadata and hashes.

    `weights` names the file of the frozen backbone, if it has moved since training.

    Raises FileNotFoundError, or ValueError for a file that is damaged, foreign or of another backbone.
    """
    header, state = read_file(path)
    config: ModelConfig = from_dict(ModelConfig, header["config"], f"the header of {path}")
    config = dataclasses.replace(config, weights=weights or config.weights)
    ships_backbone = any(name.startswith("backbone.") for name in state)
    if weights and ships_backbone:
        raise ValueError(f"Expected no backbone file for {path}, which holds its own, but got {weights}. Leave it out.")
    for name in (config.backbone, config.head):
        expect_allowed(name, path)
    stages = None
    if ships_backbone and isinstance(header.get("backbone"), dict):
        from rifenet.models.backbones.hf import described_stages

        stages = described_stages(header["backbone"])
    model = build_model(dataclasses.replace(config, pretrained=False) if ships_backbone else config, stages=stages)
    complete = {**model.state_dict(), **{name: value.float() for name, value in state.items()}}
    expected = set(model.state_dict()) if ships_backbone else set(trained_state(model))
    if _without_counters(dict.fromkeys(expected)) != _without_counters(dict.fromkeys(state)):
        odd = sorted(expected.symmetric_difference(state))[:3]
        raise ValueError(f"Expected {path} to hold the tensors of its own config, but these differ: {', '.join(odd)}.")
    _check_tensors(path, state, model.state_dict())
    model.load_state_dict(complete)
    if not ships_backbone and backbone_hash(model) != header["backbone_hash"]:
        raise ValueError(
            f"Expected the backbone {header['backbone_hash']} that {path} was trained on, but the weights found for "
            f"{config.backbone} have hash {backbone_hash(model)}. Give the file it was trained on with --weights."
        )
    if ships_backbone:
        model.trained_over = header["backbone_hash"]
    model.metadata = header["metadata"]
    model.weights_hash = state_hash(state)
    identify(model)
    return model.eval()


def _check_tensors(path: str | Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises ValueError for a tensor of another shape or with a number that is not finite: nothing it says is right."""
    for name, tensor in _without_counters(state).items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"Expected {name} in {path} to be {list(expected[name].shape)} as its config says, but got"
                f" {list(tensor.shape)}."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"Expected finite weights in {path}, but {name} holds NaN or infinity. Fetch the file again, or train"
                " with a lower rate."
            )


def _without_counters(state: dict[str, Any]) -> dict[str, Any]:
    # num_batches_tracked says nothing about a frozen batch norm and is missing in some published files.
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
