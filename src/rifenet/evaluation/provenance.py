"""Where a figure comes from (protocols.md section 6): model, dataset, config, commit, versions, device, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from rifenet import __version__
from rifenet.config import Config, ModelConfig, to_dict
from rifenet.data.index import ImageIndex
from rifenet.evaluation.result_file import names_hash
from rifenet.models.files.checkpoint import backbone_file, backbone_hash, shared_name


def model_record(model: Any, image_size: int, name: str = "") -> dict[str, Any]:
    """Name, kind, backbone, hash and input size of the scored model, and its file's metadata on training.

    `name` replaces the model's own. `checkpoint_hash` is None for a model that comes from no file.
    """
    metadata: dict[str, Any] = getattr(model, "metadata", {})
    config = getattr(model, "config", None)
    read_from = backbone_file(config) if isinstance(config, ModelConfig) else None
    kind, backbone = getattr(config, "kind", type(model).__name__), getattr(config, "backbone", None)
    return {
        "name": name or metadata.get("name") or " ".join(filter(None, (kind, backbone))),
        "kind": kind,
        "backbone": backbone and shared_name(backbone),
        "checkpoint_hash": getattr(model, "hash", None),
        "weights_hash": getattr(model, "weights_hash", None),
        "backbone_hash": backbone_hash(model) if hasattr(model, "backbone") else None,
        "backbone_file": read_from or metadata.get("backbone_file"),
        "image_size": image_size,
        "metadata": metadata,
    }


def dataset_record(index: ImageIndex) -> dict[str, Any]:
    """Content hash, list, sizes (median shorter and longer side, pixels) and the hash of the sorted image names."""
    sides = np.array([sorted((record.height, record.width)) for record in index.records])
    return {
        "name": index.dataset,
        "hash": index.hash,
        "list": Path(index.list_name).name,
        "images": len(index),
        "names_hash": names_hash(record.name for record in index.records),
        "median_sides": [float(side) for side in np.median(sides, axis=0)],
        "bad_files": len(index.bad_files),
        "classes_hash": names_hash(index.class_names),
    }


def config_record(model: Any, config: Config) -> dict[str, Any]:
    """The data, eval and model sections. Paths keep only their last part, because result files are shared."""
    record = {"data": to_dict(config.data), "eval": to_dict(config.eval)}
    if hasattr(model, "config"):
        record["model"] = to_dict(model.config)
    for section in record.values():
        for name in {"root", "list_file", "cache_dir", "weights"} & section.keys():
            section[name] = Path(section[name]).name
    if "backbone" in record.get("model", {}):
        record["model"]["backbone"] = shared_name(record["model"]["backbone"])
    return record


def environment(device: torch.device, ranks: int) -> dict[str, Any]:
    """Versions, device and commit."""
    on_cuda = device.type == "cuda"
    return {
        "rifenet": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "ranks": ranks,
        "git_commit": git_commit(),
    }


def peak_memory(device: torch.device) -> dict[str, float | None]:
    """Peak memory in MiB: `process` (resident, since its start), `device` (CUDA, since the counter's last reset)."""
    process = None
    if sys.platform != "win32":
        import resource

        # Linux counts in KiB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        process = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    peak = round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None
    return {"process": process, "device": peak}


def git_commit(file: str | Path = __file__) -> str | None:
    """Commit of the checkout that tracks `file`, with `-dirty` where tracked files differ from it; None without one."""
    path = Path(file).resolve()
    try:
        # An installed copy may lie in another repository, which does not track it and whose commit is not its own.
        if _git(path.parent, "ls-files", "--error-unmatch", path.name) is None:
            return None
        return _git(path.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
