"""Progress: plain lines with the time left where stderr is no terminal, and what a narrow terminal cuts."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rifenet.drawing.progress import TaskProgress, clock_time


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int, seconds_each: float, done: int = 0, figures: str = "") -> list[tuple[float, str]]:
    """(seconds since the start, line) of a task whose units take `seconds_each`."""
    clock, file = Clock(), io.StringIO()
    found = []
    with TaskProgress("step", total, done=done, console=Console(file=file, width=80), clock=clock) as progress:
        for _ in range(total - done):
            clock.now += seconds_each
            progress.show(figures)
            before = len(file.getvalue())
            progress.advance()
            if new := file.getvalue()[before:]:
                found.append((clock.now - 1000, new.rstrip("\n")))
    return found


def test_a_plain_line_says_count_and_time_left() -> None:
    lines = lines_of(100, 2.0, figures="loss 0.5")
    assert lines[0] == (10.0, "step 5 of 100, 3:10 left, loss 0.5")  # 95 more of 2 seconds
    assert lines[-1] == (200.0, "step 100 of 100, took 3:20, loss 0.5")
    for seconds, line in lines[:-1]:
        minutes, rest = re.search(r"(\d+):(\d\d) left", line).groups()  # type: ignore[union-attr]
        assert 60 * int(minutes) + int(rest) == 200 - seconds


def test_lines_become_rarer_but_never_stop() -> None:
    times = [seconds for seconds, _ in lines_of(40_000, 1.0)]
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert gaps[0] == 10
    assert max(gaps) <= 301
    assert len(times) < 200


def test_a_short_task_prints_nothing() -> None:
    assert lines_of(9, 1.0) == []


def test_what_was_done_before_does_not_count_as_speed() -> None:
    """A resumed evaluation brings all that it knows in its first call."""
    clock, file = Clock(), io.StringIO()
    with TaskProgress("episode", 1000, console=Console(file=file, width=80), clock=clock) as progress:
        progress.advance(900)
        clock.now += 20
        progress.advance(10)
    assert file.getvalue() == "episode 910 of 1,000, 3:00 left\n"


def test_a_line_is_never_wrapped() -> None:
    (first, *_) = lines_of(
        20, 5.0, figures="loss 0.512 (query 0.300 aux 0.200 self 0.100) rate 0.075 0.0001 1.2 ep/s " * 3
    )
    assert "\n" not in first[1]


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_narrow_terminal_cuts_figures_and_bar_before_count_and_time(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with TaskProgress("step", 240_000, done=119_000, console=console) as progress:
        progress.show("loss 0.512 (query 0.312 aux 0.201 self 0.093) rate 0.075 0.0001 12.1 ep/s")
        progress.reach(119_523)
        progress._bar.refresh()
    (shown,) = {line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", file.getvalue()) if "119523" in line}
    assert "step 119523/240000 -:--:--" in shown
    assert len(shown.rstrip()) <= width
    if width == 80:
        assert "loss 0.512" in shown


def test_clock_time() -> None:
    assert [clock_time(seconds) for seconds in (0, 59.6, 3599, 3600, 90_061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
