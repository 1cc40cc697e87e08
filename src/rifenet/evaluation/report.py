"""Writes Markdown tables from result files (protocols.md 6).

Decisions:
- One table for each setting: dataset, shots, rules, seeds and N (`settings`). Two settings never share a table.
- Published scores appear only in the table of the full PASCAL-5i test set, at its original size, under the filter and N
  of the protocol that they were published for. Every other table is labelled by its data.
- The training-free prototype has a row in every table; where it was not scored, the row says so.
- Every score carries the number of its file, and in every table the marks of what is to be said of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from rifenet.evaluation.leakage import exclude_novel_here
from rifenet.evaluation.reservations import class_marks, marks, reservations
from rifenet.evaluation.result_file import compare_results, read_result
from rifenet.evaluation.settings import PASCAL_5I, setting_key, setting_label, setting_sentence, setting_title
from rifenet.metrics import Interval

__all__ = ["report", "setting_label"]

_DASH = "–"


class NumberedResult(NamedTuple):
    """One result file and its number in the list of sources."""

    number: int
    path: Path
    result: dict[str, Any]


ByFold = dict[int, NumberedResult]  # one model: fold -> its result


def report(
    paths: Sequence[str | Path], relative_to: str | Path = ".", extra: Sequence[str] = (), title: str = "Results"
) -> str:
    """Returns the report on result files as Markdown; links to the files are relative to the folder `relative_to`.

    `extra` are further lines before the list of sources; `title` is the first heading.

    Raises FileNotFoundError, or ValueError for no file, a file that is not a result, or one model twice on one fold.
    """
    if not paths:
        raise ValueError("Expected at least one result file, but got none. Write one with rifenet evaluate.")
    sources = [NumberedResult(number, Path(path), read_result(path)) for number, path in enumerate(paths, start=1)]
    settings: dict[str, list[NumberedResult]] = {}
    for source in sources:
        settings.setdefault(setting_key(source.result), []).append(source)
    lines = [
        f"# {title}",
        "",
        "Written by `rifenet report`. IoU in percent; `±` is the sample standard deviation over seeds; `[n]` is the "
        "file under Sources that a figure came from.",
        "",
    ]
    for members in settings.values():
        lines += _section(members)
    lines += extra
    lines += _sources(sources, Path(relative_to))
    return "\n".join(lines)


def _section(members: list[NumberedResult]) -> list[str]:
    first = members[0].result
    label, dataset, rules = setting_label(first), first["dataset"], first["protocol"]
    rows = _rows(members)
    folds = list(range(4)) if label == PASCAL_5I else sorted({source.result["fold"] for source in members})
    published = [row for row in _published()["rows"] if label == PASCAL_5I and _fits(row, first)]
    lines = [f"## {setting_title(*(source.result for source in members))}", "", setting_sentence(first), ""]
    if published:
        # The queries of hsnet are in the published order.
        order = f"Deviation from the published codes, query order: {rules['query_order']}. " * (
            rules["name"] == "pfenet"
        )
        lines += [f"{order}{_published()['mark']}", ""]
        others = [words for words in first.get("deviations", []) if not words.startswith("query order")]
        lines += [*(f"- Deviation from the published codes, {words}." for words in others), *[""] * bool(others)]
    elif label != PASCAL_5I and dataset["name"] == "pascal":
        lines += ["This is not PASCAL-5i, and no published figure can stand beside it.", ""]
    mean = "mean" if len(folds) > 1 else None
    if mean and label != PASCAL_5I:
        mean = f"mean of folds {', '.join(map(str, folds))}"
    heading = ["model", *(f"fold {fold}" for fold in folds), *([mean] if mean else []), "FB-IoU"]
    table = [_row_cells(name, row, folds, mean is not None) for name, row in rows]
    if not any(_is_prototype(source) for source in members):
        blanks = [_DASH] * (len(heading) - 1)
        table.append(["prototype: not scored, run `rifenet evaluate --baseline`", *blanks])
    table += [_published_cells(row) for row in published]
    lines += markdown_table(heading, table)
    lines += _notes(members)
    lines += ["### Intervals", "", *_intervals(rows, members)]
    lines += ["### Classes", "", *_classes(rows, members)]
    return lines


def _rows(members: Iterable[NumberedResult]) -> list[tuple[str, ByFold]]:
    """(name, results by fold) of each model, the prototype last. Raises ValueError for a model twice on one fold."""
    rows: dict[str, tuple[str, ByFold]] = {}
    for source in sorted(members, key=_is_prototype):
        model, fold = source.result["model"], source.result["fold"]
        kept = _filter(source)
        parts = [model[part] for part in ("name", "kind", "image_size")]
        key = json.dumps([*parts, kept, source.result["config"].get("model")])
        network = source.result["config"].get("model", {})
        views, threshold = network.get("support_views", 1), network.get("mask_threshold", 0.5)
        label = f"{model['name']}, {model['image_size']} px"
        if views > 1:
            closer = " (one closer)" if network.get("support_closer") else ""
            label += f", {views} views of a support{closer}"
        label += f", masks from {threshold:g}" if threshold != 0.5 else ""
        label += f", exclude_novel {kept}" if kept != _DASH else ""
        _, row = rows.setdefault(key, (label, {}))
        if fold in row:
            raise ValueError(
                f"Expected one result of {model['name']} on fold {fold}, but got {row[fold].path} and {source.path}. "
                "Leave one out, or evaluate one of them again under another --name."
            )
        row[fold] = source
    return list(rows.values())


def _filter(source: NumberedResult) -> str:
    """The filter `exclude_novel` of the model's training: on, off, or a dash where it says nothing of this fold."""
    kept = exclude_novel_here(source.result)
    return _DASH if kept is None else {True: "on", False: "off"}[kept]


def _row_cells(name: str, row: ByFold, folds: Sequence[int], with_mean: bool) -> list[str]:
    cells = [_cell(row.get(fold), "miou") for fold in folds]
    if with_mean:
        cells.append(_mean_cell(row, folds, "miou"))
    return [name, *cells, _mean_cell(row, folds, "fb_iou")]


def _cell(source: NumberedResult | None, figure: str) -> str:
    if source is None:
        return _DASH
    score = source.result["scores"][figure]
    return f"{plus_minus(score['mean'], score['std'])}{marks(source.result)} [{source.number}]"


def _mean_cell(row: ByFold, folds: Sequence[int], figure: str) -> str:
    if any(fold not in row for fold in folds):
        return _DASH
    runs = np.mean([[run[figure] for run in row[fold].result["per_seed"]] for fold in folds], axis=0)
    mean = plus_minus(float(runs.mean()), float(runs.std(ddof=1)) if len(runs) > 1 else None)
    return mean + marks(*(row[fold].result for fold in folds))


def _published() -> dict[str, Any]:
    text = (files("rifenet.evaluation") / "published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _fits(row: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether a published row belongs beside a result: same dataset, shots and protocol, and the same scoring.

    Figures of `hsnet` for several shots come from voting, all others from one pass.
    """
    rules = result["protocol"]
    own = (row["dataset"], row["shots"], row["protocol"])
    same = own == (result["dataset"]["name"], result["shots"], rules["name"])
    votes = rules["name"] == "hsnet" and result["shots"] > 1
    return same and bool(rules.get("vote")) == votes and not (rules.get("original_size") or rules.get("unlabeled"))


def _published_cells(row: dict[str, Any]) -> list[str]:
    return [f"published: {row['method']}, {row['backbone']}", *row.get("folds", [_DASH] * 4), row["mean"], _DASH]


def _notes(members: Iterable[NumberedResult]) -> list[str]:
    notes = [
        f"- {mark}{' ' * bool(mark)}[{source.number}]: {sentence}"
        for source in members
        for mark, sentence in reservations(source.result)
    ]
    return [*notes, ""] if notes else []


def _intervals(rows: Iterable[tuple[str, ByFold]], members: Sequence[NumberedResult]) -> list[str]:
    heading = ["model", "fold", "mIoU", "95% over seeds", "95% bootstrap over queries", "minus prototype, paired 95%"]
    table = []
    for name, row in rows:
        for fold, source in sorted(row.items()):
            score = source.result["scores"]["miou"]
            figure = f"{percent(score['mean'])}{marks(source.result)} [{source.number}]"
            intervals = [interval_text(score["interval_seeds"]), interval_text(score["interval_bootstrap"])]
            table.append([name, str(fold), figure, *intervals, _against_prototype(source, members)])
    return markdown_table(heading, table)


def _against_prototype(source: NumberedResult, members: Sequence[NumberedResult]) -> str:
    result = source.result
    same = [
        other for other in members if _is_prototype(other) and other.result["episodes_hash"] == result["episodes_hash"]
    ]
    # Compare with the prototype over the same frozen features where there is one, else with any other.
    ours = _frozen(source)
    same.sort(key=lambda other: [mine != theirs for mine, theirs in zip(ours, _frozen(other), strict=True)])
    if _is_prototype(source) or not same:
        return _DASH
    difference = compare_results(result, same[0].result)
    return f"{100 * difference.miou:+.1f} {interval_text(difference.interval)} [{same[0].number}]"


def _classes(rows: Sequence[tuple[str, ByFold]], members: Iterable[NumberedResult]) -> list[str]:
    names = {
        (source.result["fold"], item["id"]): item["name"] for source in members for item in source.result["per_class"]
    }
    table = []
    for (fold, class_id), class_name in sorted(names.items()):
        cells = []
        for _, row in rows:
            items = row[fold].result["per_class"] if fold in row else []
            found = next((item for item in items if item["id"] == class_id and item["iou"] is not None), None)
            if found is None:
                cells.append(_DASH)
                continue
            figure = plus_minus(found["iou"], found["std"]) + class_marks(row[fold].result, class_name)
            cells.append(f"{figure} [{row[fold].number}]")
        table.append([class_name, str(fold), *cells])
    return markdown_table(["class", "fold", *(name for name, _ in rows)], table)


def _sources(sources: Iterable[NumberedResult], folder: Path) -> list[str]:
    heading = ["", "file", "model", "checkpoint", "fold", "shots", "seeds", "N", "config", "commit", "torch"]
    heading += ["device", "episodes/s", "peak MiB", "backbone", "trained on"]
    table = []
    for number, path, result in sources:
        machine, memory = result["environment"], result["peak_memory_mib"]
        config = hashlib.sha256(json.dumps(result["config"], sort_keys=True).encode()).hexdigest()
        table.append(
            [
                f"[{number}]",
                f"[{path.name}]({link(path, folder)})",
                result["model"]["name"],
                f"`{(result['model']['checkpoint_hash'] or _DASH)[:12]}`",
                str(result["fold"]),
                str(result["shots"]),
                " ".join(map(str, result["seeds"])),
                f"{result['episodes']:,}",
                f"`{config[:12]}`",
                f"`{machine['git_commit'] or _DASH}`",
                machine["torch"],
                f"{machine['device']} ({machine['device_name']}, {machine['ranks']} x {machine['threads']} threads)",
                f"{result['episodes_per_second']:.1f}",
                f"{memory['device'] or memory['process'] or 0:,.0f}",
                result["model"]["backbone"] or _DASH,
                _trained_on(result["model"]["metadata"]),
            ]
        )
    note = "Each file holds its whole config, every filter, and the pixel counts of every episode."
    return ["## Sources", "", note, "", *markdown_table(heading, table)]


def _trained_on(metadata: dict[str, Any]) -> str:
    """What the model's file says of its training: how many images, of which list, with how many shots, and from what.

    Published figures for several shots may come from networks trained with as many.
    """
    if (images := metadata.get("images_trained_on")) is None:
        return _DASH
    words = f"{images:,} images" + (f" of `{metadata['list']}`" if metadata.get("list") else "")
    if (shots := metadata.get("shots")) is not None:
        least = "1 to " if metadata.get("mixed_shots") and shots > 1 else ""
        words += f", {least}{shots} shot" + ("s" if shots > 1 else "")
    if "started_from" in metadata:
        before = metadata.get("images_trained_on_before")
        words += ", after " + ("an unknown number" if before is None else f"{before:,}")
    return words


def _frozen(source: NumberedResult) -> list[Any]:
    """The settings that determine the frozen features, the most important first."""
    model, scored = source.result["config"].get("model", {}), source.result["model"]
    return [
        scored["backbone"],
        scored["image_size"],
        *(model.get(name) for name in ("stride", "deep_stages", "weights")),
    ]


def _is_prototype(source: NumberedResult) -> bool:
    return bool(source.result["model"]["kind"] == "prototype")


def link(path: str | Path, relative_to: str | Path) -> str:
    """Markdown address of a file, relative to the folder `relative_to`; blanks and brackets are percent-encoded."""
    return quote(Path(os.path.relpath(path, relative_to)).as_posix())


def percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{100 * share:.1f}"


def plus_minus(mean: float, deviation: float | None) -> str:
    """A mean in percent, with its deviation where there is one."""
    return percent(mean) if deviation is None else f"{percent(mean)} ± {percent(deviation)}"


def interval_text(interval: Interval | None) -> str:
    """An interval in percent, a dash for none."""
    return _DASH if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with an empty one below."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (heading, *rows)]
    return [lines[0], "|" + "---|" * len(heading), *lines[1:], ""]
