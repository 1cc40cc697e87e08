"""Backbones of the library transformers: whatever `transformers.AutoBackbone` gives, from the hub or from a folder.

The folder holds config.json, preprocessor_config.json and safetensors files. Nothing is unpickled, and no code of a
repository runs. What the hub once gave is read from its cache, also without a network.

Stages are the library's own: of DINOv2, DINOv3 and BEiT the layers, of ResNet, Swin and ConvNeXt the four stages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rifenet.config import needs
from rifenet.models.backbones.staged import Stages

Colour = tuple[float, float, float]
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = "model*.safetensors"
WANTED = (CONFIG, PREPROCESSOR, WEIGHTS, "model.safetensors.index.json")
PROBE = 128
"""Least side of the image, pixels, that tells the strides of the stages."""
NEVER_STORED = ("hidden_states_norms.", "mask_token", "pooler.")
"""In names of weights that a published file may lack: norms that AutoBackbone adds, and parts that no feature needs."""


class FeatureMaps(nn.Module):
    """A backbone of transformers that returns its feature maps alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, normalized: Tensor) -> tuple[Tensor, ...]:
        """Images [B,3,H,W] to the maps [B,C,h,w] of all stages."""
        maps: tuple[Tensor, ...] = self.inner(normalized).feature_maps
        return maps


def hf_stages(name: str, *, pretrained: bool = True) -> Stages:
    """The backbone called `hf:owner/name`, `hf:owner/name@revision` or by the path of a folder.

    `pretrained=False` needs no weights, and draws random ones.

    Raises:
        FileNotFoundError: there is no such folder or repository, or a file of it is missing.
        ValueError: transformers has no backbone of this architecture, or the weights do not fit it.
    """
    with needs("rifenet[hf]"):
        import transformers
    folder, origin = _located(name)
    for file in (CONFIG, PREPROCESSOR):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"Expected {file} of the backbone in {folder}, but there is none. Copy the whole repository."
            )
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"Expected {folder / CONFIG} to be a model of transformers, but {_first_line(error)}."
            ) from error
    preprocessor = _json(folder / PREPROCESSOR)
    return _stages(transformers, config, preprocessor, folder if pretrained else None, origin)


def described_stages(described: Mapping[str, Any]) -> Stages:
    """The backbone that a model's file describes (`Stages.described`), with random weights."""
    with needs("rifenet[hf]"):
        import transformers
    values = dict(described["config"])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    return _stages(transformers, config, described["preprocessor"], None, "")


def hf_files(name: str) -> list[Path]:
    """The safetensors files of the backbone called `name`, sorted."""
    return _weights(_located(name)[0])


def _stages(
    transformers: Any, config: Any, preprocessor: Mapping[str, Any], folder: Path | None, origin: str
) -> Stages:
    kinds = transformers.MODEL_FOR_BACKBONE_MAPPING
    if type(config) not in kinds or config.model_type == "timm_backbone":
        known = ", ".join(sorted(known.model_type for known in kinds if known.model_type != "timm_backbone"))
        raise ValueError(
            f"Expected an architecture that transformers gives as a backbone ({known}), but {origin or 'the file'} is "
            f"{config.model_type}."
        )
    facts = {
        key: value for key, value in config.to_dict().items() if not key.startswith("_")
    }  # no path of this machine
    described = {"config": facts, "preprocessor": dict(preprocessor)}
    config.out_features = [stage for stage in config.stage_names if stage != "stem"]
    for option, value in (("reshape_hidden_states", True), ("add_fpn", False), ("use_mask_token", False)):
        if hasattr(config, option):
            setattr(config, option, value)  # maps instead of tokens; nothing that only pre-training or a detector needs
    with _quiet(transformers):
        inner = kinds[type(config)](config) if folder is None else _loaded(kinds[type(config)], config, folder)
    network = FeatureMaps(inner).eval().requires_grad_(False)
    strides = _strides(network, config)
    mean, deviation = _colours(preprocessor)
    layers = len(strides) if len(set(strides)) == 1 else 0
    return Stages(
        network=network,
        channels=tuple(inner.channels),
        strides=strides,
        mean=mean,
        deviation=deviation,
        bgr=bool(preprocessor.get("do_flip_channel_order", False)),
        patches=_has_patches(inner),
        # Of equal layers: a third of the way, two thirds, and the last, as far as three parts go.
        low=(math.ceil(layers / 3),) if layers else (),
        mid=tuple(dict.fromkeys((math.ceil(layers / 3), math.ceil(2 * layers / 3)))) if layers else (),
        described=described,
        origin=origin,
    )


def _colours(preprocessor: Mapping[str, Any]) -> tuple[Colour, Colour]:
    """Mean and deviation of the colours, for RGB in [0,1]."""
    scale = preprocessor.get("rescale_factor", 1 / 255) * 255 if preprocessor.get("do_rescale", True) else 255.0
    if not preprocessor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1 / scale, 1 / scale, 1 / scale)
    (red, green, blue), spread = preprocessor["image_mean"], preprocessor["image_std"]
    return (red / scale, green / scale, blue / scale), (spread[0] / scale, spread[1] / scale, spread[2] / scale)


def _loaded(kind: Any, config: Any, folder: Path) -> Any:
    """The network with the folder's weights. Raises where a weight is missing or has another shape."""
    if not _weights(folder):
        raise FileNotFoundError(
            f"Expected the backbone's weights as {WEIGHTS} in {folder}, but there are none. Files of another kind are "
            "not read, because opening them may run code; save the model again with transformers."
        )
    try:
        inner, report = kind.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(f"Expected {folder} to hold weights of its {CONFIG}, but {_first_line(error)}.") from error
    missing = [key for key in sorted(report["missing_keys"]) if not any(part in key for part in NEVER_STORED)]
    wrong = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in sorted(report["mismatched_keys"])]
    if missing or wrong:
        raise ValueError(
            f"Expected {folder} to hold all weights of its {CONFIG}, but {', '.join((missing + wrong)[:3])} "
            f"{'is missing' if missing else 'has another shape'}. Fetch the files again."
        )
    return inner


@torch.no_grad()
def _strides(network: nn.Module, config: Any) -> tuple[int, ...]:
    """Stride of each stage, as the maps of an empty image tell."""
    patch = getattr(config, "patch_size", 1)
    patch = max(patch) if isinstance(patch, list | tuple) else patch
    side = patch * math.ceil(PROBE / patch)
    strides = [side / maps.shape[-1] for maps in network(torch.zeros(1, 3, side, side))]
    if not all(stride.is_integer() for stride in strides):
        raise ValueError(f"Expected a backbone with whole strides, but {config.model_type} has {strides}.")
    return tuple(map(int, strides))


def _has_patches(inner: nn.Module) -> bool:
    """Whether the first convolution cuts the image into patches, so that features stand in the middle of theirs."""
    first = next(module for module in inner.modules() if isinstance(module, nn.Conv2d))
    return first.kernel_size == first.stride


def _located(name: str) -> tuple[Path, str]:
    """The folder of a backbone, and its exact name: with the commit of the hub, or as an absolute path."""
    if not name.startswith("hf:"):
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Expected a backbone of transformers in the folder {folder}, but there is none. Check the path, or "
                "give hf:owner/name."
            )
        return folder, str(folder)
    repository, _, revision = name.removeprefix("hf:").partition("@")
    if repository.count("/") != 1:
        raise ValueError(f"Expected hf:owner/name or hf:owner/name@revision, but got {name}.")
    with needs("rifenet[hf]"):
        from huggingface_hub import snapshot_download
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(WANTED)))
    except Exception as error:  # the library raises many kinds: no network, no such repository, no right to read it
        raise FileNotFoundError(
            f"Could not fetch the backbone {name}: {_first_line(error)}. Without a network, give a folder of it."
        ) from error
    return folder, f"hf:{repository}@{folder.name}"


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob(WEIGHTS))


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be JSON, but it cannot be read: {error}.") from error
    if not isinstance(values, dict) or (
        values.get("do_normalize", True)
        and not all(isinstance(values.get(key), list) and len(values[key]) == 3 for key in ("image_mean", "image_std"))
    ):
        raise ValueError(f"Expected {path} to give image_mean and image_std of three channels, but it does not.")
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silences the library's reports and progress bars, whose cases are errors here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
