"""Log of a run: a progress bar, JSON lines, and TensorBoard on request. Only rank 0 has a log."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rifenet.config import needs
from rifenet.files import write_text


class RunLog:
    """Use as a context manager. `start` counts the finished steps; lines of later steps are dropped from the file."""

    def __init__(self, folder: Path, start: int, steps: int, *, tensorboard: bool = False, quiet: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.console = Console(stderr=True, quiet=quiet)
        write_text(self.path, "".join(self._lines(start)))
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("train", total=steps, completed=start, figures="")
        self.writer = _tensorboard(folder, start) if tensorboard else None

    def __enter__(self) -> RunLog:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def step(self, step: int) -> None:
        """Moves the bar to `step` finished steps."""
        self.progress.update(self.task, completed=step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one JSON line and shows the figures; `step` counts finished steps."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if "loss" in values:
            named = " ".join(f"{name} {values[name]:.3f}" for name in ("query", "aux", "self") if name in values)
            rates = " ".join(f"{rate:.2g}" for rate in values["lr"])
            figures = f"loss {values['loss']:.3f} ({named}) rate {rates} {values['episodes_per_second']:.1f} ep/s"
            self.progress.update(self.task, figures=figures)
        if "heldout_miou" in values:
            best = ", the best so far" if values["best"] else ""
            self.console.print(f"step {step}: held-out base mIoU {100 * values['heldout_miou']:.1f}{best}")
        if self.writer is not None:
            numbers = {f"lr/{number}": rate for number, rate in enumerate(values.get("lr", []))}
            for name, value in {**values, **numbers}.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text)

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
            self.console.print(f"{self.path}: dropped {damaged} damaged line{'s' if damaged > 1 else ''}")
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
