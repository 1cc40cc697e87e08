"""Devices, precision and ranks, through lightning-fabric: one process, several on this machine, torchrun or Slurm."""

from __future__ import annotations

import atexit
import os

import lightning_fabric
import torch

from rifenet.engines.device import choose_device


def launched_ranks() -> tuple[int, int] | None:
    """(processes of a node, nodes) as torchrun or Slurm started them; None where this process was started alone."""
    world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    if world == 1:
        return None
    nodes = world // int(os.environ.get("LOCAL_WORLD_SIZE") or world // int(os.environ.get("SLURM_NNODES") or 1))
    return world // nodes, nodes


def launch(device: str = "auto", *, devices: int = 1, precision: str = "32-true") -> lightning_fabric.Fabric:
    """Starts, or joins, the process group.

    Args:
        device: auto, cpu, cuda or mps; ValueError where this machine lacks it.
        devices: processes on this machine; the count of torchrun or Slurm overrides it.
        precision: auto, 32-true or bf16-mixed. auto: bfloat16 on CUDA devices that compute in it, float32 elsewhere,
            because CPUs without matrix units are slower in bfloat16.
    """
    kind = choose_device(device).type
    if precision == "auto":
        native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if native else "32-true"
    devices, nodes = launched_ranks() or (devices, 1)
    fabric = lightning_fabric.Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]  # our names are a part of its
    )
    fabric.launch()
    if torch.distributed.is_initialized():
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """Ends the process group while Python still runs.

    Fabric does so for NCCL only. A gloo group that is left to the end of the process has threads of its own then, and
    now and then one of them makes the process abort after all its work is done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
