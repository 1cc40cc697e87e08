"""Builds the table of an ablation: JSON from the results of its runs, and Markdown from the JSON.

The JSON holds everything that the Markdown and the bar chart of `rifenet report` show, so both can be made again
without the runs. Its scores are shares in [0,1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rifenet.evaluation.grid import PROTOTYPE, Grid, PlannedRun, Row, changed
from rifenet.evaluation.paired import paired_difference
from rifenet.evaluation.report import interval_text, link, markdown_table, plus_minus
from rifenet.evaluation.reservations import MARKS, Reservation, reservations
from rifenet.evaluation.settings import area_words, by_class_area, setting_label

FORMAT = 1
Finished = dict[str, dict[str, Any]]  # folder name of a run -> its result
_DASH = "–"
_SIGNS = {"+": "+", "-": "−", "0": "open"}


def ablation_table(
    grid: Grid, jobs: Sequence[PlannedRun], finished: Finished, failures: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the content of a grid's JSON file, from the runs finished so far.

    Raises ValueError where two results of one fold were not scored on the same episodes.
    """
    owners = {use: job for job in jobs for use in job.uses}
    results = {use: finished[job.folder.name] for use, job in owners.items() if job.folder.name in finished}
    mine = {row.name: {use[1:]: result for use, result in results.items() if use[0] == row.name} for row in grid.rows}
    rows = []
    for row in grid.rows:
        configs = {
            f"fold {use[1]}, seed {use[2]}": changed(job.config) for use, job in owners.items() if use[0] == row.name
        }
        difference = None if row.name == grid.baseline else paired_difference(mine[row.name], mine[grid.baseline])
        rows.append(
            {
                "name": row.name,
                "overrides": row.overrides,
                "paper": row.paper,
                "configs": configs,
                **_figures(grid, row, mine[row.name]),
                "reservations": _reservations(mine[row.name]),
                "difference": None if difference is None else {**difference._asdict(), "sign": difference.sign},
            }
        )
    return {
        "format": FORMAT,
        "kind": "ablation",
        **{name: getattr(grid, name) for name in ("name", "title", "baseline", "folds", "seeds")},
        "setting": _setting(next(iter(results.values()))) if results else None,
        "rows": rows,
        "classes": _classes(grid, mine),
        "failures": dict(failures),
        "sources": [_source(job, finished[job.folder.name]) for job in jobs if job.folder.name in finished],
    }


def read_table(path: str | Path) -> dict[str, Any]:
    """Reads a grid's JSON file. Raises FileNotFoundError, or ValueError for a file of another kind or format."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the JSON file of an ablation at {path}, but there is none. Write it with `rifenet ablate`."
        )
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be the table of an ablation, but it is not JSON ({error}).") from error
    if not isinstance(table, dict) or (table.get("kind"), table.get("format")) != ("ablation", FORMAT):
        raise ValueError(
            f"Expected {path} to be the table of an ablation, format {FORMAT}, but it is not. "
            "Run `rifenet ablate` again."
        )
    return table


def ablation_markdown(table: dict[str, Any], path: str | Path, relative_to: str | Path, level: int = 1) -> list[str]:
    """Returns the table as lines of Markdown, with headings from `level` on.

    `path` is the table's JSON file; the runs lie beside it. Links are relative to the folder `relative_to`.
    """
    folds = table["folds"]
    mean = [f"mean of folds {', '.join(map(str, folds))}"] if len(folds) > 1 else []
    heading = [table["title"], *(f"fold {fold}" for fold in folds), *mean]
    heading += [f"minus {table['baseline']}, paired 95%", "sign", "better in", "runs"]
    told = any(row["paper"] for row in table["rows"])
    rows = [[*_cells(row, table, bool(mean)), *([row["paper"] or _DASH] if told else [])] for row in table["rows"]]
    lines = [f"{'#' * level} Ablation: {table['title']}", "", *_lead(table)]
    lines += markdown_table([*heading, *(["the paper's words (PASCAL-5i, ResNet-50)"] if told else [])], rows)
    if told:
        lines += ["`*`: from a secondary source, not from the paper's own table in reach.", ""]
    notes = [f"- {name}: failed, {sentence}" for name, sentence in table["failures"].items()]
    for row in table["rows"]:
        notes += [f"- {mark}{' ' * bool(mark)}{row['name']}, {said}" for mark, said in row.get("reservations", [])]
    lines += [*notes, *[""] * bool(notes)]
    lines += [f"{'#' * (level + 1)} What each row changes", ""]
    lines += [f"- {row['name']}: {_overrides(row['overrides'])}" for row in table["rows"]]
    lines += ["", *_class_lines(table, level + 1)]
    lines += [f"{'#' * (level + 1)} Runs", "", *_runs(table, Path(path).parent, Path(relative_to))]
    return lines


def _reservations(results: Mapping[tuple[int, int], dict[str, Any]]) -> list[list[str]]:
    """Mark and sentence of what is to be said of a row's figures; each once, with the folds that it is about."""
    found: dict[Reservation, list[int]] = {}
    for (fold, _), result in sorted(results.items()):
        for reservation in reservations(result):
            folds = found.setdefault(reservation, [])
            folds += [fold] * (fold not in folds)
    return [
        [mark, f"fold{'s' if len(folds) > 1 else ''} {_listed(folds)}: {sentence}"]
        for (mark, sentence), folds in found.items()
    ]


def _figures(grid: Grid, row: Row, results: Mapping[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
    folds: dict[str, Any] = {}
    for fold in grid.folds:
        by_seed = {
            seed: results[fold, seed]["scores"]["miou"]["mean"] for seed in grid.seeds if (fold, seed) in results
        }
        if by_seed:
            values = list(by_seed.values())
            # The prototype is not trained: all seeds show the same run, which has no spread.
            spread = float(np.std(values, ddof=1)) if len(values) > 1 and row.config.model.kind != PROTOTYPE else None
            folds[str(fold)] = {
                "mean": float(np.mean(values)),
                "std": spread,
                "seeds": {str(k): v for k, v in by_seed.items()},
            }
    complete = len(folds) == len(grid.folds)
    return {
        "folds": folds,
        "mean": float(np.mean([fold["mean"] for fold in folds.values()])) if complete else None,
        "runs": len(results),
        "wanted": len(grid.folds) * len(grid.seeds),
    }


def _classes(grid: Grid, mine: Mapping[str, Mapping[tuple[int, int], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each novel class: its IoU in the baseline by seed, and by row the differences for seeds that both have."""
    baseline = mine[grid.baseline]
    classes = []
    for fold in grid.folds:
        of_fold = {seed: result for (number, seed), result in baseline.items() if number == fold}
        if not of_fold:
            continue
        for known in next(iter(of_fold.values()))["per_class"]:
            if known["iou"] is None:
                continue
            own = {seed: _iou(result, known["id"]) for seed, result in of_fold.items()}
            other = {
                row.name: [
                    _iou(mine[row.name][fold, seed], known["id"]) - own[seed]
                    for seed in own
                    if (fold, seed) in mine[row.name]
                ]
                for row in grid.rows
                if row.name != grid.baseline
            }
            facts = {name: known[name] for name in ("id", "name", "queries")}
            classes.append({**facts, "fold": fold, "baseline": list(own.values()), "differences": other})
    return classes


def _iou(result: dict[str, Any], class_id: int) -> float:
    (found,) = (float(known["iou"]) for known in result["per_class"] if known["id"] == class_id)
    return found


def _setting(result: dict[str, Any]) -> dict[str, Any]:
    dataset = result["dataset"]
    return {
        "label": setting_label(result),
        "shots": result["shots"],
        "protocol": result["protocol"]["name"],
        "min_area": result["protocol"]["min_area"],
        "class_area": by_class_area(result["protocol"]),
        "episodes": result["episodes"],
        "seeds": result["seeds"],
        "image_size": result["model"]["image_size"],
        "backbone": result["model"]["backbone"],
        "images": dataset["images"],
        "dataset_hash": dataset["hash"],
    }


def _source(job: PlannedRun, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": list(dict.fromkeys(row for row, _, _ in job.uses)),
        "fold": result["fold"],
        "seed": None if job.config.model.kind == PROTOTYPE else job.config.train.seed,
        "file": f"{job.folder.parent.name}/{job.folder.name}/result.json",
        "miou": result["scores"]["miou"]["mean"],
        "checkpoint": result["model"]["checkpoint_hash"],
        "episodes_hash": result["episodes_hash"],
        "commit": result["environment"]["git_commit"],
    }


def _lead(table: dict[str, Any]) -> list[str]:
    setting = table["setting"]
    if setting is None:
        return ["No run is finished.", ""]
    kept = (
        "" if setting["label"].startswith("PASCAL-5i") else " No published figure can stand in one column with these."
    )
    return [
        f"{setting['label']}, {setting['shots']}-shot: `{setting['backbone']}`, {setting['image_size']} px; "
        f"{setting['episodes']:,} episodes for each of the evaluation seeds {_listed(setting['seeds'])}, protocol "
        f"`{setting['protocol']}`, {area_words({'name': setting['protocol'], **setting})}; "
        f"{setting['images']:,} images, dataset hash `{setting['dataset_hash'][:12]}`; training seeds "
        f"{_listed(table['seeds'])}.{kept}",
        "",
        "mIoU in percent on the fold's novel classes; `±` is the sample standard deviation over training seeds. The "
        "difference is the mean over folds and seeds, its interval a bootstrap over query images and training seeds, "
        "paired over identical episodes and equal seeds (`rifenet.evaluation.paired` says what is drawn). Sign: of the "
        "whole interval; open where it holds 0. Better in: of the pairs of runs of one fold and seed.",
        "",
    ]


def _cells(row: dict[str, Any], table: dict[str, Any], with_mean: bool) -> list[str]:
    found = [row["folds"].get(str(fold)) for fold in table["folds"]]
    borne = {mark for mark, _ in row.get("reservations", [])}  # older tables have none
    cells = [
        row["name"] + "".join(mark for mark in MARKS if mark in borne),
        *(plus_minus(fold["mean"], fold["std"]) if fold else _DASH for fold in found),
    ]
    if with_mean:
        cells.append(_DASH if row["mean"] is None else plus_minus(row["mean"], None))
    difference = row["difference"]
    if difference is None:
        cells += [_DASH] * 3
    else:
        cells.append(f"{100 * difference['miou']:+.1f} ({interval_text(difference['interval'])})")
        cells += [_SIGNS[difference["sign"]], f"{difference['wins']} of {difference['pairs']}"]
    return [*cells, f"{row['runs']} of {row['wanted']}"]


def _class_lines(table: dict[str, Any], level: int) -> list[str]:
    classes = table.get("classes", [])  # older tables have none
    if not classes:
        return []
    names = [row["name"] for row in table["rows"] if row["name"] != table["baseline"]]
    rows = []
    for known in classes:
        cells = [f"{100 * np.mean(known['baseline']):.1f}"]
        for name in names:
            found = [100 * value for value in known["differences"][name]]
            cells.append(f"{np.mean(found):+.1f} ({min(found):+.1f} to {max(found):+.1f})" if found else _DASH)
        rows.append([known["name"], str(known["fold"]), f"{known['queries']:,}", *cells])
    return [
        f"{'#' * level} Classes",
        "",
        f"IoU of {table['baseline']}, and each row's minus that: the mean over training seeds, and the least and the "
        "largest of one seed. All classes of a fold count alike in its mean, however few images they have.",
        "",
        *markdown_table(["class", "fold", "query images", table["baseline"], *names], rows),
    ]


def _overrides(overrides: dict[str, Any]) -> str:
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in overrides.items()) or "nothing"


def _runs(table: dict[str, Any], folder: Path, relative_to: Path) -> list[str]:
    rows = []
    for source in table["sources"]:
        address = link(folder / source["file"], relative_to)
        seed = _DASH if source["seed"] is None else str(source["seed"])
        hashes = (source["checkpoint"] or _DASH, source["episodes_hash"], source["commit"] or _DASH)
        figures = [str(source["fold"]), seed, plus_minus(source["miou"], None), f"[result.json]({address})"]
        rows.append(["; ".join(source["rows"]), *figures, *(f"`{value[:12]}`" for value in hashes)])
    return markdown_table(["rows", "fold", "seed", "mIoU", "file", "checkpoint", "episodes", "commit"], rows)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
