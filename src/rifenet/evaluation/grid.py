"""Grids of ablations: reads a YAML file of named rows, each a set of config overrides, and plans their runs.

    rows: {baseline: {train.unlabeled: 0}, ...}     named rows, each a set of dotted overrides
    product: [{soft: {...}, hard: {...}}, ...]      further rows: one option of each axis, names joined by ", "
    baseline: baseline                              the row that the others are compared with
    folds: [2, 3]                                   with `seeds`: each row is trained once per fold and seed
    title, set, paper                               optional: a title, overrides of all rows, the paper's result by row

A number may be a multiple of the config's value: `train.steps: x2`. A row must not change test episodes or scoring.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rifenet.config import (
    FREE,
    SECTIONS,
    About,
    Config,
    TrainConfig,
    about_option,
    effective,
    from_dict,
    to_dict,
)

PROTOTYPE = "prototype"
_PROTOTYPE_ROW = {"model.kind": PROTOTYPE}
_KEYS = ("title", "baseline", "folds", "seeds", "set", "rows", "product", "paper")
_SET_BY_THE_GRID = ("data.fold", "train.seed", "train.out")
_SAME_FOR_ALL_ROWS = tuple(f"data.{name}" for name in ("dataset", "root", "list_file", "folds", "shots", "min_area"))
Overrides = dict[str, Any]


class Row(NamedTuple):
    """One line of the table."""

    name: str
    overrides: Overrides
    """Dotted names and values; those of the whole grid come first."""
    config: Config
    paper: str
    """The paper's result for this row, in words; empty where it has none."""


class Grid(NamedTuple):
    """The rows to compare, and the folds and seeds to train them on."""

    name: str
    title: str
    baseline: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


class PlannedRun(NamedTuple):
    """One training run with its evaluation, and every (row, fold, seed) that it serves."""

    folder: Path
    config: Config
    uses: list[tuple[str, int, int]]


def read_grid(path: str | Path, base: Config, *, folds: Sequence[int] = (), seeds: Sequence[int] = ()) -> Grid:
    """Reads a YAML file whose rows override the config `base`; `folds` and `seeds` replace the file's own.

    Appends the training-free prototype as a row where the file does not name it.

    Raises FileNotFoundError, or ValueError for a malformed grid or a row with invalid options.
    """
    path = Path(path)
    values = _content(path)
    shared, paper = (_mapping(values.get(key), f"{key} of {path}") for key in ("set", "paper"))
    named = {**_mapping(values.get("rows"), f"rows of {path}"), **dict(_product(values.get("product"), path))}
    named.setdefault(PROTOTYPE, _PROTOTYPE_ROW)
    baseline = str(values.get("baseline"))
    for name in (*paper, baseline):
        if name not in named:
            raise ValueError(f"Expected a row of {path}, but got {name!r}. Its rows: {', '.join(named)}.")
    rows = []
    for name, overrides in named.items():
        where = f"{path}, row {name}"
        own = {**({} if overrides == _PROTOTYPE_ROW else shared), **_mapping(overrides, where)}
        rows.append(Row(name, own, _overridden(base, own, where), str(paper.get(name, ""))))
    return Grid(
        name=path.stem,
        title=str(values.get("title", path.stem)),
        baseline=baseline,
        folds=_numbers(folds or values.get("folds"), f"folds of {path}"),
        seeds=_numbers(seeds or values.get("seeds"), f"seeds of {path}"),
        rows=tuple(rows),
    )


def plan(grid: Grid, out: str | Path) -> list[PlannedRun]:
    """Lists the runs of a grid, with folders below `out`/runs; rows of equal configs share one run.

    The runs of the first seed come first, so every row of the table soon has a score.
    """
    jobs: dict[str, PlannedRun] = {}
    for seed, fold, row in itertools.product(grid.seeds, grid.folds, grid.rows):
        config = run_config(row.config, fold, seed)
        folder = Path(out) / "runs" / run_name(config)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, out=str(folder)))
        jobs.setdefault(folder.name, PlannedRun(folder, config, [])).uses.append((row.name, fold, seed))
    return list(jobs.values())


def run_config(config: Config, fold: int, seed: int) -> Config:
    """Returns the config of one run: sets fold and training seed, and resets options that the run never reads.

    So rows that mean the same (`train.beta: 0`, `train.unlabeled: 0`) share one run.
    """
    data, train = dataclasses.replace(config.data, fold=fold), dataclasses.replace(config.train, seed=seed)
    config = effective(dataclasses.replace(config, data=data, train=train))
    data, train = config.data, config.train
    if not data.cache_dir and (data.seed == seed or not data.holdout):
        # Without a cache, data.seed only draws the held-out slice. With null, train.seed draws it.
        data = dataclasses.replace(data, seed=None)
    if config.model.kind == PROTOTYPE:  # nothing is trained
        train = TrainConfig(**{name: getattr(train, name) for name in FREE["train"]})
    config = dataclasses.replace(config, data=data, train=train)
    plain = to_dict(config)
    for section in SECTIONS:
        part = getattr(config, section)
        unread = {
            option.name: option.default
            for option in dataclasses.fields(part)
            if not all(_value_of(plain, name) for name in about_option(option).read_with)
        }
        config = dataclasses.replace(config, **{section: dataclasses.replace(part, **unread)})
    return config


def _value_of(plain: dict[str, Any], name: str) -> Any:
    section, _, option = name.partition(".")
    return plain[section][option]


def run_name(config: Config) -> str:
    """Folder name of a run: fold, seed, and a hash of every other option that its scores depend on.

    The hash covers only values that differ from the defaults, so a new option renames no run.
    """
    digest = hashlib.sha256(json.dumps(changed(config), sort_keys=True).encode()).hexdigest()[:10]
    seed = "" if config.model.kind == PROTOTYPE else f"-seed{config.train.seed}"
    return f"fold{config.data.fold}{seed}-{digest}"


def changed(config: Config) -> dict[str, Any]:
    """The entries of `identity` that a run's name covers: all but defaults, or the option's `unnamed` value if set."""
    left_out = identity(Config())
    for name, _, said in _trained_by(config):
        if said.unnamed is not None:
            left_out[name] = said.unnamed
    return {name: value for name, value in identity(config).items() if value != left_out[name]}


def identity(config: Config) -> dict[str, Any]:
    """Dotted names and values of every option that a trained model depends on.

    The folder of the feature cache has no effect, but training with a cache uses other views than training without.
    So `data.cache_dir` becomes "on" or "off".
    """
    return {
        name: ("on" if value else "off") if said.whether else value
        for name, value, said in _trained_by(config)
        if said.whether or not said.free
    }


def _trained_by(config: Config) -> Iterator[tuple[str, Any, About]]:
    """Yields dotted name, plain value and description of each option, except those of scoring."""
    plain = to_dict(config)
    for section in ("data", "model", "train"):
        for option in dataclasses.fields(getattr(config, section)):
            yield f"{section}.{option.name}", plain[section][option.name], about_option(option)


def _content(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"Expected a grid file at {path}, but there is none. configs/grids has some.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"Expected YAML in {path}, but it cannot be read ({reason}). Correct it.") from error
    if not isinstance(values, dict) or set(values) - set(_KEYS):
        got = ", ".join(map(str, set(values) - set(_KEYS))) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"Expected only {', '.join(_KEYS)} in {path}, but got {got}.")
    return values


def _mapping(values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping | None):
        raise ValueError(f"Expected {what} to be a mapping, but got {values!r}. Write `name: value`, one a line.")
    return {str(name): value for name, value in (values or {}).items()}


def _product(axes: Any, path: Path) -> Iterator[tuple[str, Overrides]]:
    if axes is None:
        return
    what = f"product of {path}"
    options = [_mapping(axis, f"each axis of the {what}") for axis in axes] if isinstance(axes, list) else []
    if not options or not all(options):
        raise ValueError(f"Expected the {what} to be a list of axes, each with its options, but got {axes!r}.")
    for chosen in itertools.product(*(axis.items() for axis in options)):
        parts = [_mapping(overrides, f"option {label} in the {what}") for label, overrides in chosen]
        yield ", ".join(label for label, _ in chosen), {name: part[name] for part in parts for name in part}


def _numbers(values: Any, what: str) -> tuple[int, ...]:
    good = isinstance(values, list | tuple) and values and all(type(value) is int and value >= 0 for value in values)
    if not good or len(set(values)) < len(values):
        raise ValueError(f"Expected the {what} to be different whole numbers in a list, but got {values!r}.")
    return tuple(values)


def _overridden(base: Config, overrides: Overrides, where: str) -> Config:
    plain = to_dict(base)
    for name, value in overrides.items():
        section, _, field = str(name).partition(".")
        if field not in plain.get(section, {}):
            raise ValueError(f"Expected the name of an option in {where}, but got {name!r}. See rifenet train --help.")
        if name in _SET_BY_THE_GRID:
            raise ValueError(f"Expected folds and seeds beside the rows, but {where} sets {name}. Leave it out.")
        if section == "eval" or name in _SAME_FOR_ALL_ROWS:
            raise ValueError(
                f"Expected all rows to be scored on the same episodes by the same rule, but {where} sets {name}. "
                "Set it in the config, for all rows."
            )
        plain[section][field] = _value(f"{name} in {where}", value, plain[section][field])
    config: Config = from_dict(Config, plain, where)
    data = config.data
    if not data.exclude_novel and (data.list_file or data.dataset == "custom"):
        raise ValueError(
            f"Expected data.exclude_novel to be on in {where}, because training and test photos are of one list, but "
            "got off. Set it, or leave data.list_file empty to use the dataset's own train and val lists."
        )
    return config


def _value(name: str, value: Any, current: Any) -> Any:
    """Converts `value` to the type of the option's `current` value; "x2" doubles that value. Raises ValueError."""
    if type(current) in (int, float) and isinstance(value, str) and (found := re.fullmatch(r"x(\d+(\.\d+)?)", value)):
        return type(current)(current * float(found[1]))
    if type(current) is float and type(value) is int:
        return float(value)
    if isinstance(current, list) and type(value) in (int, float):
        return value  # one value for all folds in place of a list; where a list is needed, building the config says so
    wanted = int if current is None else type(current)  # options that may be null hold numbers
    if type(value) is not wanted and not (value is current is None):
        raise ValueError(f"Expected {name} to be of type {wanted.__name__}, but got {value!r}.")
    if isinstance(value, list) and not all(type(item) is int for item in value):
        raise ValueError(f"Expected {name} to be a list of whole numbers, but got {value!r}.")
    return value
