"""Damaged files of every kind through what reads them: nothing but ValueError or OSError, within five seconds.

    PYTHONPATH=tests:src python -m campaigns.files --count 10000 --out docs/results/campaigns/files.json

Each kind runs in a process of its own, so that a crash of native code counts as a fault and ends nothing else. A file
that gave a fault is kept beside the figures, in `faults/`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from campaigns.common import written_record
from campaigns.kinds import GROUPS

SECONDS = 5
MEMORY = 8 * 2**30
"""Address space of a process: a damaged size that asks for more is a fault, not a slow machine."""
ALLOWED = (ValueError, OSError)


class TooSlowError(BaseException):
    """Raised by the alarm. It passes through every `except Exception`."""


def main() -> None:
    """Reads the files of every kind and writes what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child, arguments.count, arguments.seed, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = {group: make(Path(folder) / group) for group, make in GROUPS.items()}
    names = arguments.kinds or [f"{group} {name}" for group, kinds in made.items() for name in kinds]
    share = -(-arguments.count // len(names))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = _run_kind(name, share, arguments.seed, arguments.out.parent / "faults")
        written_record(
            arguments.out,
            {
                "files": share * len(found),
                "kinds": len(found),
                "faults": sum(len(each["faults"]) for each in found.values()),
                "slowest seconds": max(each["slowest seconds"] for each in found.values()),
                "of each kind": found,
            },
        )


def _run_kind(name: str, count: int, seed: int, faults: Path) -> dict[str, Any]:
    """Starts processes until all `count` files were read: one that crashes is followed by one for the rest."""
    outcomes: collections.Counter[str] = collections.Counter()
    failed, slowest, start = [], 0.0, 0
    while start < count:
        words = [sys.executable, "-m", "campaigns.files", "--child", f"{start} {name}", "--count", str(count)]
        process = subprocess.Popen(
            [*words, "--seed", str(seed), "--out", str(faults)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        number = start - 1
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            number = row["number"]
            outcomes[row["outcome"]] += 1
            slowest = max(slowest, row["seconds"])
            if row["fault"]:
                failed.append({key: row[key] for key in ("number", "fault")})
        process.wait()
        start = number + 1
        if process.returncode:
            failed.append({"number": start, "fault": f"the process ended with {process.returncode}"})
            outcomes["crash"] += 1
            start += 1
    return {"outcomes": dict(outcomes), "faults": failed, "slowest seconds": round(slowest, 2)}


def _child(job: str, count: int, seed: int, faults: Path) -> None:
    first, group, name = job.split(" ", 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _late)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        kind = GROUPS[group](Path(folder) / group)[name]
        whole = kind.path.read_bytes()
        kind.read(kind.path)  # the whole one is read
        for number in range(int(first), count):
            rng = random.Random(f"{seed} {name} {number}")
            data = kind.damages[number % len(kind.damages)](whole, rng)
            kind.path.write_bytes(data)
            row = {"number": number, **_outcome(kind.read, kind.path)}
            if row["fault"]:
                faults.mkdir(parents=True, exist_ok=True)
                (faults / f"{number} {name}").write_bytes(data)
            print(json.dumps(row), flush=True)
            kind.path.write_bytes(whole)


def _outcome(read: Any, path: Path) -> dict[str, Any]:
    start = time.perf_counter()
    fault = ""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            signal.alarm(SECONDS)
            read(path)
        outcome = "read"
    except ALLOWED as error:
        outcome = type(error).__name__
        if not str(error).strip():
            fault = f"{outcome} without a sentence"
    except TooSlowError:
        outcome, fault = "too slow", f"over {SECONDS} s"
    except BaseException as error:
        outcome = type(error).__name__
        fault = f"{outcome}: {error}"[:300]
    finally:
        signal.alarm(0)
    return {"outcome": outcome, "fault": fault, "seconds": time.perf_counter() - start}


def _late(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


if __name__ == "__main__":
    main()
