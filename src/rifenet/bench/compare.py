"""Compares two benches: the fields that differ, and the ratio of every figure that both have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rifenet.files import misfit, parse_json

FORMAT = 1
"""Format of `bench.json`. Figures of different formats cannot be compared."""
SHAPE = ("model", "size", "shots", "batch")
"""Fields that identify a case."""
_CONTENT = {
    "format": int,
    "machine": dict,
    "settings": dict,
    "cases": [
        {
            **{"model": str, "size": int, "shots": int, "batch": int, "weights?": str},
            "figures": {str: {"median": float, "units": float}},
        }
    ],
}


def read(path: str | Path) -> dict[str, Any]:
    """Reads a bench that `rifenet bench --out` wrote. Raises FileNotFoundError, or ValueError for any other file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a file of rifenet bench at {path}, but there is none.")
    try:
        bench = parse_json(Path(path).read_bytes(), path)
        wrong = misfit(bench, _CONTENT, "it")
    except ValueError as error:
        bench, wrong = {}, str(error)
    if wrong or bench["format"] != FORMAT:
        raise ValueError(
            f"Expected a file of rifenet bench, format {FORMAT}, but {path} is none"
            f"{f' (expected {wrong})' if wrong else ''}. Write it with --out."
        )
    return dict(bench)


def compare(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """Ratios here / there of the cases that both have.

    Returns:
        `differs`: each difference as [here, there]: of machine and settings, and of the models, sizes, shots, batches
        and weights measured. `cases`: for each common case its shape and its `ratios`, by figure, of `seconds` and
        `units`.
    """
    differs = {
        name: [here[part].get(name), there[part].get(name)]
        for part in ("machine", "settings")
        for name in here[part] | there[part]
        if here[part].get(name) != there[part].get(name)
    }
    for name in (*SHAPE, "weights"):
        values = [sorted({case.get(name, "") for case in bench["cases"]}) for bench in (here, there)]
        if values[0] != values[1]:
            differs[name] = values
    others = {_shape(case): case["figures"] for case in there["cases"]}
    return {
        "differs": differs,
        "cases": [
            {**dict(zip(SHAPE, _shape(case), strict=True)), "ratios": _ratios(case["figures"], others[_shape(case)])}
            for case in here["cases"]
            if _shape(case) in others
        ],
    }


def _shape(case: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(case[name] for name in SHAPE)


def _ratios(here: dict[str, Any], there: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "seconds": figure["median"] / there[name]["median"],
            "units": figure["units"] / there[name]["units"],
        }
        for name, figure in here.items()
        if name in there
        and there[name]["median"] > 0
        and there[name]["units"] > 0  # a stage too short for the clock has no ratio
    }
