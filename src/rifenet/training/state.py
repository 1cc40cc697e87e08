"""The resumable state of a run: `state.safetensors`, a single file, so that old and new parts never mix.

`state.json` repeats its header for people; the program does not read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from rifenet.config import FREE, Config, to_dict
from rifenet.files import parse_json, write_atomically, write_text
from rifenet.models.files.checkpoint import trained_state
from rifenet.training.average import WeightAverage

STATE_FILE = "state.safetensors"
LOCK_FILE = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Locks a run folder for this process. Raises ValueError where another process trains in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"Expected {folder} to be free, but another training writes there. Wait for it, or give another"
            " --train.out."
        ) from error
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def save_state(
    folder: Path,
    config: Config,
    model: nn.Module,
    optimizers: list[Optimizer],
    progress: dict[str, Any],
    average: WeightAverage | None = None,
) -> None:
    """Writes model, optimisers, average and `progress` (`step` and the loop's own entries) atomically."""
    tensors = {f"model.{name}": value for name, value in trained_state(model).items()}
    if average:
        tensors |= {f"average.{name}": value for name, value in average.values.items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{index}.{key}"] = value
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"progress": progress, "config": to_dict(config)}
    write_atomically(folder / STATE_FILE, lambda file: save_file(tensors, file, {"state": json.dumps(header)}))
    text = json.dumps(header, indent=2) + "\n"
    write_text(folder / "state.json", text)


def load_state(
    folder: Path,
    config: Config,
    model: nn.Module,
    optimizers: list[Optimizer],
    content: dict[str, Any],
    average: WeightAverage | None = None,
) -> dict[str, Any] | None:
    """Restores what `save_state` wrote and returns its progress, or None where the run folder has no state.

    Raises ValueError where the state cannot be read, or belongs to another config or other `content`. These are entries
    of the progress that must not change, such as the hash of the images.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()["state"], path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected a resumable state in {path}, but it cannot be read ({error}). Remove it."
        ) from error
    _check_config(folder, header["config"], to_dict(config))
    progress: dict[str, Any] = header["progress"]
    for name, value in content.items():
        if progress.get(name, value) != value:  # a state may be older than an entry
            raise ValueError(
                f"Expected the run in {folder} to go on with the same {name}, but {progress.get(name)} became {value}. "
                "Give another --train.out, or remove the folder to start again."
            )
    model.load_state_dict({**model.state_dict(), **_below("model.", tensors)})
    if average:
        average.restore(_below("average.", tensors))
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                index, key = name.split(".", 3)[2:]
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_config(folder: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    defaults = to_dict(Config())
    for section in ("data", "model", "train"):
        for name, value in current[section].items():
            before = saved[section].get(name, defaults[section][name])  # a state may be older than an option
            if name not in FREE[section] and before != value:
                raise ValueError(
                    f"Expected the run in {folder} to go on with {section}.{name} = {before!r}, but got {value!r}. "
                    "Give another --train.out, or remove the folder to start again."
                )
