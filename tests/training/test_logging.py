"""The log of a run: lines for people and for programs, and curves elsewhere."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rifenet.config import Config, TrainConfig
from rifenet.training.logging import WANDB_ID, RunLog


def config(**options: Any) -> Config:
    return dataclasses.replace(Config(), train=TrainConfig(**{"steps": 100, **options}))


def said(tmp_path: Path, *values: dict[str, Any]) -> str:
    file = io.StringIO()
    with RunLog(tmp_path / "run", 0, config(), console=Console(file=file, width=200)) as log:
        for number, each in enumerate(values, start=1):
            log.write(number, each)
    return file.getvalue()


def test_the_first_validation_is_no_best_where_it_found_nothing(tmp_path: Path) -> None:
    text = said(
        tmp_path,
        {"heldout_miou": 0.0, "best": True},
        {"heldout_miou": 0.25, "best": True},
        {"heldout_miou": 0.125, "best": False},
    )
    assert text.splitlines() == [
        "step 1: held-out base mIoU 0.0",
        "step 2: held-out base mIoU 25.0, the best so far",
        "step 3: held-out base mIoU 12.5",
    ]


def test_names_in_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    file = io.StringIO()
    with RunLog(tmp_path / "run", 0, config(), console=Console(file=file, width=30)) as log:
        log.say("training on the classes [bold], and on others with a long line")
    assert file.getvalue() == "training on the classes [bold], and on others with a long line\n"


def test_curves_go_to_weights_and_biases_and_a_resumed_run_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, without a network: it writes its records below the run folder."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: list[tuple[int, dict[str, Any]]] = []
    names: list[str] = []
    begun = wandb.init

    def watched(**options: Any) -> Any:
        run = begun(**options)
        names.append(run.id)
        assert options["config"]["train"]["steps"] == 100
        plain = run.log
        monkeypatch.setattr(run, "log", lambda values, step: (logged.append((step, values)), plain(values, step=step)))
        return run

    monkeypatch.setattr(wandb, "init", watched)
    folder = tmp_path / "run"
    values = {"loss": 0.5, "query": 0.25, "lr": [0.1, 0.01], "episodes_per_second": 2.0}
    for start in (0, 1):
        with RunLog(folder, start, config(wandb=True), console=Console(file=io.StringIO())) as log:
            log.write(start + 1, values)
    scalars = {"loss": 0.5, "query": 0.25, "episodes_per_second": 2.0, "lr/0": 0.1, "lr/1": 0.01}
    assert logged == [(1, scalars), (2, scalars)]
    assert names[0] == names[1] == (folder / WANDB_ID).read_text().strip()
    records = sorted((folder / "wandb").glob("offline-run-*"))
    assert records, "what `wandb sync` would upload"
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
