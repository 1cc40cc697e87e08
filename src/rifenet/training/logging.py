"""Log of a run: progress, JSON lines, and TensorBoard or Weights & Biases on request. Only rank 0 has a log."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from rifenet.config import Config, needs, to_dict
from rifenet.drawing.progress import TaskProgress
from rifenet.files import write_text

WANDB_PROJECT = "rifenet"
WANDB_ID = "wandb-id.txt"
"""In a run folder: the run's name at Weights & Biases, under which a resumed run goes on."""


class RunLog:
    """Use as a context manager. `start` counts the finished steps; lines of later steps are dropped from the file."""

    def __init__(self, folder: Path, start: int, config: Config, *, console: Console | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.progress = TaskProgress("step", config.train.steps, done=start, console=console)
        write_text(self.path, "".join(self._lines(start)))
        self.writer = _tensorboard(folder, start) if config.train.tensorboard else None
        self.online = _wandb(folder, config) if config.train.wandb else None

    def __enter__(self) -> RunLog:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)
        if self.writer is not None:
            self.writer.close()
        if self.online is not None:
            self.online.finish(exit_code=0 if error is None else 1)

    def step(self, step: int) -> None:
        """Moves the progress to `step` finished steps."""
        self.progress.reach(step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one JSON line and shows the figures; `step` counts finished steps."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if "loss" in values:
            named = " ".join(f"{name} {values[name]:.3f}" for name in ("query", "aux", "self") if name in values)
            shown = " ".join(f"{rate:.2g}" for rate in values["lr"])
            figures = f"loss {values['loss']:.3f} ({named}) rate {shown} {values['episodes_per_second']:.1f} ep/s"
            self.progress.show(figures)
        if "heldout_miou" in values:
            best = ", the best so far" if values["best"] and values["heldout_miou"] > 0 else ""
            self.say(f"step {step:,}: held-out base mIoU {100 * values['heldout_miou']:.1f}{best}")
        rates = {f"lr/{number}": rate for number, rate in enumerate(values.get("lr", []))}
        scalars = {name: value for name, value in {**values, **rates}.items() if isinstance(value, int | float)}
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)
        if self.online is not None:
            self.online.log(scalars, step=step)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.progress.say(text)

    def _lines(self, last: int) -> list[str]:
        """Returns the lines of steps up to `last`; drops damaged lines, and prints how many."""
        if not self.path.is_file():
            return []
        kept, damaged = [], 0
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            step = _step_of(line)
            damaged += step is None
            if step is not None and step <= last:
                kept.append(f"{line}\n")
        if damaged:
            self.say(f"{self.path}: dropped {damaged} damaged line{'s' if damaged > 1 else ''}")
        return kept


def _step_of(line: str) -> int | None:
    """The step in a line of metrics.jsonl; None for a damaged line, which a killed run may leave."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if type(step) is int else None


def _tensorboard(folder: Path, start: int) -> Any:
    with needs("rifenet[tensorboard]"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)


def _wandb(folder: Path, config: Config) -> Any:
    with needs("rifenet[wandb]"):
        import wandb
    known = folder / WANDB_ID
    if not known.is_file():
        write_text(known, secrets.token_hex(4) + "\n")
    return wandb.init(
        project=WANDB_PROJECT,
        name=folder.name,
        id=known.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(folder),
        config=to_dict(config),
    )
