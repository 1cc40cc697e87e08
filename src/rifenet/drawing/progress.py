"""Progress of one long task on stderr: a bar on a terminal, and elsewhere a plain line now and then.

Count and time left come first in both, so that a narrow terminal or column cuts what follows them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

FIRST = 10.0
"""Seconds until the first plain line, and least seconds between two; shorter tasks print none."""
LONGEST = 300.0
"""Most seconds between two plain lines; between these bounds it is a tenth of the time so far."""


class _Figures(ProgressColumn):
    """Further figures of the task; the first to be cut."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")), no_wrap=True, overflow="ellipsis")


def columns() -> tuple[ProgressColumn, ...]:
    """The columns of a bar, those that matter most first."""
    kept = Column(no_wrap=True)
    count, left = MofNCompleteColumn(table_column=kept), TimeRemainingColumn(table_column=kept)
    return TextColumn("{task.description}", markup=False), count, left, BarColumn(bar_width=20), _Figures()


class TaskProgress:
    """Shows how far a task is; a context manager. Any thread may call `advance`.

    Args:
        label: what is counted, such as "step".
        total: the count at the end.
        done: the count at the start.
        console: where to write (default: stderr).
        clock: seconds that only grow.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.done, self.figures = label, total, done, ""
        self.console = Console(stderr=True) if console is None else console
        self._bar = Progress(*columns(), console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(label, total=total, completed=done, figures="")
        self._clock, self._lock = clock, threading.Lock()
        self._started = self._last_line = clock()
        self._measured: tuple[float, int] | None = None
        """Time and count from which on the speed is measured: those of the first call, which may bring a whole part."""

    def __enter__(self) -> TaskProgress:
        self._started = self._last_line = self._clock()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        with self._lock:
            self._reach(self.done + count)

    def reach(self, done: int) -> None:
        """`done` are done in all."""
        with self._lock:
            self._reach(done)

    def show(self, figures: str) -> None:
        """Further figures, for the bar and the next line."""
        self.figures = figures
        self._bar.update(self._task, figures=figures)

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _reach(self, done: int) -> None:
        self.done = done
        self._bar.update(self._task, completed=done)
        now = self._clock()
        if self._measured is None:
            self._measured = now, done
        elapsed = now - self._started
        due = now - self._last_line >= min(max(elapsed / 10, FIRST), LONGEST)
        if not self.console.is_terminal and (due or (done == self.total and elapsed >= FIRST)):
            self._last_line = now
            self.say(
                ", ".join(filter(None, (f"{self.label} {done:,} of {self.total:,}", self._time(now), self.figures)))
            )

    def _time(self, now: float) -> str:
        if self.done >= self.total:
            return f"took {clock_time(now - self._started)}"
        assert self._measured is not None
        since, before = self._measured
        if self.done == before:
            return ""
        return f"{clock_time((now - since) / (self.done - before) * (self.total - self.done))} left"


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
