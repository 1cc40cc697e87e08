"""Measures every case of a plan: times in seconds and units, and the peak memory of a fresh process."""

from __future__ import annotations

import copy
import dataclasses
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rifenet.bench.compare import FORMAT
from rifenet.bench.memory import in_fresh_process, peak_memory
from rifenet.bench.stages import Clock, profile
from rifenet.bench.workload import FOREGROUND, UNLABELED, Case, Workload, example_photo, training_step
from rifenet.config import BACKBONES
from rifenet.data.transforms import resize_and_pad
from rifenet.engines.device import choose_device
from rifenet.engines.torch import TorchEngine
from rifenet.formats.pictures import load_image
from rifenet.models import Prototype, RiFeNet
from rifenet.models.files.hub import bundled_model, is_over_backbone, load_model

NOTE = (
    "Seconds are those of one call, with all its images and classes. Units are seconds divided by the median of one "
    "plain backbone forward on one image. Some cases have random weights, which do not change the work."
)

Track = Callable[[Iterable[int], int, str], Iterator[int]]
"""Yields the items and shows progress; takes the items, their number and a label."""
Task = Callable[[], dict[str, float]]
"""Does some work once and returns its seconds by name; `a.b` is a part of `a`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure: a case for each model, size, number of shots and batch."""

    models: tuple[str, ...]
    """Architectures (random weights), or models as `rifenet.models.files.hub.load_model` takes them."""
    sizes: tuple[int, ...] = ()
    """Sides of the network input, pixels; empty takes the model's own, or 473 (ResNet) or 321 for random weights."""
    shots: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    classes: tuple[int, ...] = (5,)
    """Numbers of learned classes to segment a query by; one class is always measured."""
    runs: int = 20
    warmup: int = 3
    training: bool = False
    """Whether to measure a training step too; its weights are always random."""
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in self.models:
            named = name in BACKBONES or name == "default" or name.startswith("hf:") or is_over_backbone(name)
            if not named and not Path(name).exists():
                raise ValueError(
                    f"Expected a backbone ({', '.join(BACKBONES)}), default, a model's path or hf:owner/name, but got"
                    f" {name!r}."
                )
        for field, values, low, high in (
            ("sizes", self.sizes, 32, 4096),
            ("shots", self.shots, 1, 20),
            ("batches", self.batches, 1, 1024),
            ("classes", self.classes, 1, 254),
            ("threads", () if self.threads is None else (self.threads,), 1, 1024),
            ("runs", (self.runs,), 1, 100_000),
            ("warm-up rounds", (self.warmup,), 0, 100_000),
        ):
            for value in values:
                if not low <= value <= high:
                    raise ValueError(f"Expected {field} between {low} and {high}, but got {value}.")

    def cases(self) -> list[Case]:
        """All combinations, each once, in the order of the fields."""
        combinations = {
            Case(model=model, size=size, shots=shots, batch=batch): None
            for model in self.models
            for size in self.sizes or (_own_size(model),)
            for shots in self.shots
            for batch in self.batches
        }
        return list(combinations)


def default_model() -> str:
    """The bundled model if there is one, else an architecture that suits a CPU."""
    return "default" if bundled_model().is_file() else "efficientnet_lite2"


def _own_size(model: str) -> int:
    if model in BACKBONES:
        return 473 if model.startswith("resnet") else 321
    return TorchEngine(load_model(model), device="cpu").size


def run(plan: Plan, track: Track) -> dict[str, Any]:
    """Measures all cases of the plan and returns the content of `bench.json`.

    Raises:
        ValueError, FileNotFoundError: a model or device is missing, or a model cannot be trained.
        OSError: a process that measured memory died.
    """
    device = choose_device(plan.device)
    cases = [_measure_case(case, plan, device, track) for case in plan.cases()]
    return {
        "format": FORMAT,
        "note": NOTE,
        "machine": machine(device),
        "settings": {
            "runs": plan.runs,
            "warmup": plan.warmup,
            "foreground": FOREGROUND,
            "unlabeled": UNLABELED,
            "photo": dict(zip(("height", "width"), load_image(example_photo()).shape[:2], strict=True)),
        },
        "cases": cases,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads and commit, as in result files, with the processor's name and cores.

    `vnni`: whether the processor has instructions for 8-bit products, on which the speed of int8 exports depends; None
    if unknown.
    """
    from rifenet.evaluation.provenance import environment

    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    vnni = any("vnni" in line for line in lines if line.startswith("flags")) if names else None
    return environment(device, 1) | {"cpu": (names or [platform.processor()])[0], "cores": os.cpu_count(), "vnni": vnni}


def _measure_case(case: Case, plan: Plan, device: torch.device, track: Track) -> dict[str, Any]:
    label = f"{Path(case.model).name}, {case.size} px"
    works = ("query", "training_step") if plan.training else ("query",)
    memory = {
        works[i]: in_fresh_process(peak_memory, works[i], case, device, plan.threads, plan.classes)
        for i in track(range(len(works)), len(works), f"{label}, memory")
    }
    model = case.load()
    rounds = plan.warmup + plan.runs
    seconds = measure(tasks(model, case, device, plan), track(range(rounds), rounds, label), plan.warmup)
    return {
        **dataclasses.asdict(case),
        "model": Path(case.model).name,  # the folder is of no use on another machine
        "kind": model.config.kind,
        "backbone": model.config.backbone,
        "weights": "random" if case.model in BACKBONES else "loaded",
        "figures": figures(seconds),
        "peak_memory_mib": memory,
    }


def clock_of(device: torch.device) -> Clock:
    """A clock in seconds that waits for the device to finish its work."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type)

    def now() -> float:
        if wait is not None:
            wait()
        return time.perf_counter()

    return now


def tasks(model: RiFeNet | Prototype, case: Case, device: torch.device, plan: Plan) -> list[Task]:
    """The tasks that time a case, in the order of the table."""
    now = clock_of(device)
    one_pass = unit(model, case, device)  # copied before the engine accelerates the backbone
    work = Workload(model, case, device, plan.threads)
    context, segmenter, photo = work.learn(), work.segmenter(), example_photo()
    pixels = load_image(photo)

    def whole(name: str, call: Callable[[], Any]) -> Task:
        return timed(name, call, now)

    def parts(name: str, steps: dict[str, Callable[[Any], Any]]) -> Task:
        return lambda: {f"{name}.{part}": seconds for part, seconds in profile(model, now, steps).items()}

    return [
        whole("unit", one_pass),
        whole("decode_file", lambda: load_image(photo)),
        whole("transform", lambda: resize_and_pad(pixels, case.size)),
        whole("learn", work.learn),
        parts("learn", {"encode_support": lambda _: work.learn()}),
        whole("query", lambda: work.query(context)),
        parts(
            "query",
            {
                "encode_query": lambda _: work.encode_query(),
                "decode": lambda features: work.engine.decode(features, context),
            },
        ),
        *(
            whole(f"query_{classes}_classes", partial(work.query, context, classes))
            for classes in sorted(set(plan.classes) - {1})
        ),
        whole("photo", lambda: segmenter.segment(photo).mask),
        *([whole("training_step", training_step(model.config, case, device))] if plan.training else []),
    ]


def timed(name: str, call: Callable[[], Any], now: Clock = time.perf_counter) -> Task:
    """A task that times one call."""

    def task() -> dict[str, float]:
        started = now()
        call()
        return {name: now() - started}

    return task


def unit(model: RiFeNet | Prototype, case: Case, device: torch.device) -> Callable[[], Any]:
    """One plain forward of the backbone on one image.

    It runs a copy, so that the unit does not shrink when the engine accelerates the backbone later.
    """
    backbone = copy.deepcopy(model.backbone).to(device)
    image = torch.rand(1, 3, case.size, case.size, device=device)

    @torch.inference_mode()
    def forward() -> None:
        backbone(image)

    return forward


def measure(tasks: list[Task], rounds: Iterable[int], warmup: int) -> dict[str, list[float]]:
    """Runs every task once a round. Returns seconds by name, without the first `warmup` rounds."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for number in rounds:
        for task in tasks:
            for name, value in task().items():
                if number >= warmup:
                    seconds[name].append(value)
    return dict(seconds)


def figures(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By name: median and quartiles in seconds, the median in units, and the number of runs."""
    unit = float(np.median(seconds["unit"]))
    table = {}
    for name, values in seconds.items():
        own = quartiles(values)
        table[name] = own | {"units": own["median"] / unit, "runs": len(values)}
    return table


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}
