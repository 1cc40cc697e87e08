"""Runs a grid: each run gets a folder with its `result.json`, and one table is rewritten after each run.

    OUT/NAME.md, OUT/NAME.json     the table of the grid NAME.yaml, for people and for programs
    OUT/runs/foldF-seedS-HASH/     a run of `rifenet train`, and its result.json

Grids in one OUT share their runs. The caller passes the function that trains and scores, so this module needs no torch.
"""

from __future__ import annotations

import collections
import functools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rifenet.config import FREE, Config, load_config, resolved, to_dict
from rifenet.evaluation.ablation_table import Finished, ablation_markdown, ablation_table, read_table
from rifenet.evaluation.grid import Grid, PlannedRun, changed, identity, plan
from rifenet.evaluation.partial import discard_partial
from rifenet.evaluation.result_file import read_result, write_result
from rifenet.evaluation.settings import by_class_area
from rifenet.files import write_text

RESULT_FILE = "result.json"
CONFIG_FILE = "config.yaml"  # of a run folder
Failures = dict[str, str]  # folder name of a run -> why it failed
Spread = Callable[[Sequence[PlannedRun], Callable[[PlannedRun], dict[str, Any]]], Iterable[tuple[PlannedRun, Any]]]
"""Has runs made elsewhere, all at once, by a function for one; yields each with its result or its exception."""


def run_grid(
    grid: Grid,
    out: str | Path,
    run: Callable[[Config], dict[str, Any]],
    say: Callable[[str], None],
    spread: Spread | None = None,
) -> Failures:
    """Makes the runs of a grid that `out` lacks, and returns the failed runs with their errors.

    Args:
        grid: the rows, folds and seeds.
        out: folder of the table and of the runs.
        run: trains (or resumes) the run of a config in its `train.out`, scores it and returns the result.
        say: receives a line before and after each run, and for each failure.
        spread: has the runs made on other machines; None: this process makes them, one after the other.

    Raises:
        ValueError: the folder holds runs or a table of another config; no run was started.
    """
    out = Path(out)
    jobs = plan(grid, out)
    _check_table(grid, jobs, out)
    finished = {job.folder.name: result for job in jobs if (result := stored_result(job)) is not None}
    say(f"{grid.title}: {len(jobs)} runs for {len(grid.rows)} rows, {len(finished)} of them finished")
    failures: Failures = {}
    _write(grid, jobs, finished, failures, out)
    waiting = collections.deque(job for job in jobs if job.folder.name not in finished)

    def settle(job: PlannedRun, outcome: dict[str, Any] | Exception) -> None:
        if isinstance(outcome, Exception):  # a failed run must not stop the others; table and exit code report it
            failures[job.folder.name] = f"{type(outcome).__name__}: {' '.join(str(outcome).split())}"
            say(f"failed: {job.folder.name}: {failures[job.folder.name]}")
        else:
            finished[job.folder.name] = outcome
            say(f"{job.folder.name}: mIoU {100 * outcome['scores']['miou']['mean']:.1f}")
        # This table overwrites that of other processes, so it also takes in the runs that they have finished.
        others = (other for other in jobs if other.folder.name not in finished)
        finished.update((other.folder.name, known) for other in others if (known := stored_result(other)) is not None)
        _write(grid, jobs, finished, failures, out)

    if spread is not None:
        for job, outcome in spread(tuple(waiting), functools.partial(_held, run=run)):
            settle(job, outcome)
        return failures
    total, taken_elsewhere, started = len(waiting), 0, time.monotonic()
    while waiting:
        job = waiting.popleft()
        done = total - len(waiting) - 1
        try:
            # A run that another process holds goes to the end of the queue. Wait only once all others are held, too.
            with FileLock(_lock(job), timeout=-1 if taken_elsewhere > len(waiting) else 0):
                say(f"run {done + 1} of {total}: {describe(job)}{_remaining(started, done, total)}")
                result = _once(job, run)
        except Timeout:
            waiting.append(job)
            taken_elsewhere += 1
            continue
        except Exception as error:
            settle(job, error)
        else:
            settle(job, result)
        taken_elsewhere = 0
    return failures


def _held(job: PlannedRun, run: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
    """Makes a run while no other process does."""
    with FileLock(_lock(job)):
        return _once(job, run)


def describe(job: PlannedRun) -> str:
    """The rows, the fold and the seed of a run, in words."""
    rows = list(dict.fromkeys(row for row, _, _ in job.uses))
    return f"{' = '.join(rows)}; fold {job.config.data.fold}, seed {job.config.train.seed}"


def stored_result(job: PlannedRun) -> dict[str, Any] | None:
    """The result that the run's folder holds, or None.

    Raises ValueError where the folder, or the result in it, belongs to another config.
    """
    config_file, result_file = job.folder / CONFIG_FILE, job.folder / RESULT_FILE
    if config_file.is_file():
        _expect_same(str(job.folder), identity(load_config(config_file)), identity(job.config))
    if not result_file.is_file():
        return None
    result = read_result(result_file)
    rules = to_dict(resolved(job.config).eval)
    wanted = {f"eval.{name}": value for name, value in rules.items() if name not in FREE["eval"] and value is not None}
    # A result may be older than an option. Older results have the input size in `data`, and filtered by class.
    before = {
        "image_size": result["config"]["data"]["image_size"],
        "class_area": by_class_area(result["protocol"]),
        **result["config"]["eval"],
    }
    scored = {name: before.get(name.removeprefix("eval."), value) for name, value in wanted.items()}
    _expect_same(str(result_file), scored, wanted)
    return result


def _lock(job: PlannedRun) -> Path:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    return job.folder.with_name(f"{job.folder.name}.lock")


def _once(job: PlannedRun, run: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
    """Returns the run's result; trains and scores it unless another process has done so by now."""
    result = stored_result(job)
    if result is None:
        result = run(job.config)
        write_result(result, job.folder / RESULT_FILE)
        discard_partial(job.folder / RESULT_FILE)
    return result


def _check_table(grid: Grid, jobs: Sequence[PlannedRun], out: Path) -> None:
    """Raises ValueError where the table has the same row with another config. New rows, folds and seeds are allowed."""
    path = out / f"{grid.name}.json"
    if not path.is_file():
        return
    configs = {use: job.config for job in jobs for use in job.uses}
    before = {row["name"]: row["configs"] for row in read_table(path)["rows"]}
    for (row, fold, seed), config in configs.items():
        known = before.get(row, {}).get(f"fold {fold}, seed {seed}")
        if known is not None:
            _expect_same(f"row {row} of {path}", known, changed(config))


def _expect_same(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"Expected {what} to go on with {name} = {_said(before, name)}, but got {_said(now, name)}. "
                "Give another --train.out, or remove what is there to start again."
            )


def _said(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "its default"


def _remaining(started: float, done: int, total: int) -> str:
    if not done:
        return ""
    minutes = (time.monotonic() - started) / done * (total - done) / 60
    return f" (about {minutes:.0f} min to go)"


def _write(grid: Grid, jobs: Sequence[PlannedRun], finished: Finished, failures: Failures, out: Path) -> None:
    path = out / f"{grid.name}.json"
    table = ablation_table(grid, jobs, finished, failures)
    write_text(path, json.dumps(table, indent=1, allow_nan=False) + "\n")
    write_text(path.with_suffix(".md"), "\n".join(ablation_markdown(table, path, out)))
