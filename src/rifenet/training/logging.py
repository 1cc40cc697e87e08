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
        kept = [line for line in self._lines() if json.loads(line)["step"] <= start]
        write_text(self.path, "".join(kept))
        self.console = Console(stderr=True, quiet=quiet)
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

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A killed run may leave a last line half written.
        return [line for line in lines if line.endswith("}\n")]


def _tensorboard(folder: Path, start: int) -> Any:
    with needs("rifenet[tensorboard]"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
