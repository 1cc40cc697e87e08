"""Draw small changes of the source (mutants) and see whether the tests notice them.

    python scripts/mutants.py --each 40 --seed 0 --out docs/results/mutants.json

mutmut makes every mutant of the packages that `[tool.mutmut]` of pyproject.toml names, and runs for each the tests that
reach the changed function. Running all of them takes days, so that this program draws the same number from each
package. Changes of a message's words alone are left out and counted. What survives is written with its change, to be
explained in docs/lab/mutants.md or mended by a test.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from rifenet.bench.measure import machine

PACKAGES = ("models", "training", "data", "metrics", "formats")
KILLED = (1, 3, 24, 36, 152, 255, -11, -9, -24)
"""pytest's exit codes of a failed test, and those of a test run that a time limit or a crash ended."""
SURVIVED = 0
NO_TESTS = 33


def main() -> None:
    """Draws, runs and counts."""
    arguments = _arguments()
    _mutmut("rifenet.metrics.x_sigmoid__mutmut_1")  # makes the mutants, learns which test reaches what
    found = sorted(_exit_codes())
    drawn, messages = _draw(found, arguments.each, arguments.seed)
    _mutmut(*drawn)
    codes = _exit_codes()
    written = {
        "machine": machine(torch.device("cpu")),
        "commit": _output("git", "rev-parse", "HEAD").strip(),
        "seed": arguments.seed,
        "mutants": len(found),
        "left out as a message's words": messages,
        "packages": {package: _counts(package, drawn, codes) for package in PACKAGES},
        "survivors": {name: _change(name) for name in drawn if codes[name] in (SURVIVED, NO_TESTS)},
    }
    Path(arguments.out).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(written["packages"], indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=40, help="mutants drawn from each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="mutants.json")
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


def _counts(package: str, drawn: list[str], codes: dict[str, int | None]) -> dict[str, float]:
    own = [codes[name] for name in drawn if _package(name) == package]
    unknown = sorted({str(code) for code in own if code not in (*KILLED, SURVIVED, NO_TESTS)})
    if unknown:
        sys.exit(f"Expected every mutant to have been run, but got exit codes {', '.join(unknown)} in {package}.")
    killed = sum(code in KILLED for code in own)
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


def _exit_codes() -> dict[str, int | None]:
    return dict(
        item for file in _metas() for item in json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"].items()
    )


def _metas() -> Iterator[Path]:
    return Path("mutants/src").rglob("*.meta")


def _package(name: str) -> str:
    return name.split(".")[1]


def _mutmut(*names: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open("mutants.log", "a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", "run", "--max-children", str(os.cpu_count() or 1), *names],
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
