"""Chooses the device that a model runs on, for engines, training, evaluation and benchmarks."""

from __future__ import annotations

import torch


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes CUDA, else Apple MPS, else the CPU. Raises ValueError for a device that this machine lacks."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, there in usable.items() if there))
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not usable.get(kind, False) or (index and not (index.isdecimal() and int(index) < count)):
        there = ", ".join(["auto", *(kind for kind, there in usable.items() if there)])
        raise ValueError(f"Expected a device of this machine ({there}), but got {device!r}.")
    return torch.device(device)
