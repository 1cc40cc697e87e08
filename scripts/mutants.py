"""Draw small changes of the source (mutants) and see whether the tests notice them.

    python scripts/mutants.py --each 40 --seed 0 --out docs/results/mutants.json

mutmut makes every mutant of the packages that `[tool.mutmut]` of pyproject.toml names, and finds the tests that reach
each changed function. Running all mutants takes days, so that this program draws the same number from each package, and
runs those tests for each, the fast ones first, up to the first that fails. Changes of a message's words alone are left
out and counted. What survives is written with its change, to be explained in docs/lab/mutants.md or mended by a test.
The record is written after each mutant.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rifenet.bench.measure import machine

PACKAGES = ("models", "training", "data", "metrics", "formats")
PATIENCE = 4.0
"""A mutant that makes its tests take so many times as long, and a minute, is killed: it loops."""
KILLED, SURVIVED, NO_TESTS = "killed", "survived", "without a test"


def main() -> None:
    """Draws, runs and counts."""
    arguments = _arguments()
    if not arguments.again:
        _mutmut("rifenet.metrics.x_sigmoid__mutmut_1")  # makes the mutants, learns which test reaches what
    found = _names()
    drawn, messages = _draw(found, arguments.each, arguments.seed)
    outcomes: dict[str, str] = {}
    stats = json.loads(Path("mutants/mutmut-stats.json").read_text(encoding="utf-8"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, outcome in zip(drawn, pool.map(partial(_outcome, stats=stats), drawn), strict=True):
            outcomes[name] = outcome
            written = {
                "machine": machine(torch.device("cpu")),
                "commit": _output("git", "rev-parse", "HEAD").strip(),
                "seed": arguments.seed,
                "mutants": len(found),
                "left out as a message's words": messages,
                "packages": {package: _counts(package, outcomes) for package in PACKAGES},
                "survivors": {each: _change(each) for each, how in outcomes.items() if how != KILLED},
            }
            text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
            Path(arguments.out).write_text(text, encoding="utf-8")
            print(name, outcome, flush=True)
    print(json.dumps(written["packages"], indent=2))


def _outcome(name: str, stats: dict[str, Any]) -> str:
    """What the tests that reach a mutant's function say of it."""
    tests = stats["tests_by_mangled_function_name"].get(name.rpartition("__mutmut_")[0], [])
    if not tests:
        return NO_TESTS
    seconds = stats["duration_by_test"]
    tests = sorted(tests, key=lambda test: seconds.get(test, 0.0))
    limit = PATIENCE * sum(seconds.get(test, 0.0) for test in tests) + 60
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUTANT_UNDER_TEST": name, "PYTHONPATH": "src"}
    try:
        done = subprocess.run(command, cwd="mutants", env=environment, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return KILLED
    return SURVIVED if done.returncode == 0 else KILLED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=40, help="mutants drawn from each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="mutants.json")
    parser.add_argument("--again", action="store_true", help="take the mutants of the last run, which are in mutants/")
    return parser.parse_args()


def _draw(found: list[str], each: int, seed: int) -> tuple[list[str], int]:
    """`each` mutants of every package, and how many were passed over since they change nothing but a message."""
    drawn, messages = [], 0
    for package in PACKAGES:
        candidates = [name for name in found if _package(name) == package]
        random.Random(f"{seed} {package}").shuffle(candidates)
        taken = []
        for name in candidates:
            if len(taken) == each:
                break
            if _changes_words_alone(_change(name)):
                messages += 1
            else:
                taken.append(name)
        drawn += taken
    return drawn, messages


def _changes_words_alone(change: list[str]) -> bool:
    """Whether the change is one of mutmut's three of a string with blanks: marked with XX, all small, all capitals."""
    removed, added = change[0][1:], change[-1][1:]
    unmarked = added.replace("XX", "")
    return " " in removed.strip() and removed != added and removed.lower() in (unmarked.lower(), added.lower())


def _counts(package: str, outcomes: dict[str, str]) -> dict[str, float]:
    own = [how for name, how in outcomes.items() if _package(name) == package]
    killed = own.count(KILLED)
    return {
        "drawn": len(own),
        "killed": killed,
        "survived": own.count(SURVIVED),
        "without a test": own.count(NO_TESTS),
        "share killed": round(killed / max(len(own), 1), 3),
    }


def _change(name: str) -> list[str]:
    """The removed and added lines of a mutant, as `diff` marks them."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = get_diff_for_mutant(name).splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def _names() -> list[str]:
    return sorted(
        name for file in _metas() for name in json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
    )


def _metas() -> Iterator[Path]:
    return Path("mutants/src").rglob("*.meta")


def _package(name: str) -> str:
    return name.split(".")[1]


def _mutmut(name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open("mutants.log", "a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", "run", "--max-children", str(os.cpu_count() or 1), name],
            env=environment,
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        sys.exit(f"mutmut ended with {done.returncode}; its last words are in mutants.log.")


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
