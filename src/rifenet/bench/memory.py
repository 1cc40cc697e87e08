"""Measures the peak memory of a piece of work in a process that does nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from rifenet.bench.workload import Case, Workload, training_step


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function` in a new process, which inherits no memory. Raises OSError if the process dies."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise OSError(
            "Expected enough memory for the process that measures it, but the process died."
            " Choose a smaller size or batch."
        ) from error


def peak_memory(
    what: str,
    case: Case,
    device: torch.device,
    threads: int | None,
    classes: tuple[int, ...],
    checkpointed: bool = False,
) -> dict[str, float | None]:
    """Peak memory in MiB of this process, which should be a fresh one.

    The work is two training steps (`checkpointed` recomputes activations), or learning one class and two queries by as
    many classes as the largest of `classes`.

    Returns:
        `import`: the peak before the work; `process`: the peak after it; None if the system does not report them.
        `device`: the peak of tensors in CUDA memory; None on another device.
    """
    imported = peak_resident()
    step: Callable[[], None]
    if what == "training_step":
        torch.set_num_threads(threads or torch.get_num_threads())
        step = training_step(case.load().config, case, device, checkpointed=checkpointed)
    else:
        work = Workload(case.load(), case, device, threads)
        context = work.learn()
        step = partial(work.query, context, max((1, *classes)))
    for _ in range(2):
        step()
    on_device = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"import": imported, "process": peak_resident(), "device": on_device}


def peak_resident() -> float | None:
    """Peak memory of this process in MiB; None if the system does not report it."""
    # On Linux a process inherits the ru_maxrss of its parent; VmHWM is its own.
    peak = of_status("VmHWM")
    if peak is not None:
        return peak
    from rifenet.evaluation.provenance import peak_memory as of_whole_life

    return of_whole_life(torch.device("cpu"))["process"]


def of_status(field: str, process: int | str = "self") -> float | None:
    """Memory of a running process in MiB: `VmRSS` now, `VmHWM` at its peak. None except on Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)
