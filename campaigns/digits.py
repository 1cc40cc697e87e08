"""The same scores on every machine: instruction sets, threads, batches and ranks change no figure by more than 0.001.

    PYTHONPATH=tests:src python -m campaigns.digits --out docs/results/campaigns/digits.json

Scores the bundled model on rendered photos, or with `--root` on a dataset in the custom layout, once for each way of
computing. `ATEN_CPU_CAPABILITY` limits the instructions that torch uses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rendered import make_custom

from campaigns.common import written_record

TOLERANCE = 0.001
"""Largest difference of a score in percent. A pixel in many photos may fall on the other side of the threshold."""
WAYS: dict[str, dict[str, Any]] = {
    "native, 1 thread, batch 1": {},
    "native, 2 threads, batch 1": {"threads": 2},
    "native, 1 thread, batch 8": {"batch": 8},
    "avx2, 1 thread, batch 1": {"capability": "avx2"},
    "avx2, 2 threads, batch 8": {"capability": "avx2", "threads": 2, "batch": 8},
    "default, 1 thread, batch 1": {"capability": "default"},
    "default, 2 threads, batch 8": {"capability": "default", "threads": 2, "batch": 8},
    "native, 2 ranks": {"ranks": 2},
}


def main() -> None:
    """Writes the scores of all ways, and fails where two differ by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="")
    parser.add_argument("--list-file", default="")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or str(make_custom(Path(folder) / "dataset", per_class=6, mixed=4))
        words = ["--dataset", "custom", "--root", root, "--fold", str(arguments.fold), "--seeds", "0"]
        words += ["--episodes", str(arguments.episodes), "--min-area", "256"]
        words += ["--list-file", arguments.list_file] if arguments.list_file else []
        found = {name: _scores(words, Path(folder) / "result.json", **way) for name, way in WAYS.items()}
    first = next(iter(found.values()))
    off = {name: max(abs(scores[key] - value) for key, value in first.items()) for name, scores in found.items()}
    figures = {"episodes": arguments.episodes, "largest difference": max(off.values()), "tolerance": TOLERANCE}
    written_record(arguments.out, {**figures, "differences": off, "scores": found})
    sys.exit(1 if max(off.values()) > TOLERANCE else 0)


def _scores(
    words: list[str], out: Path, *, capability: str = "", threads: int = 1, batch: int = 1, ranks: int = 1
) -> dict[str, float]:
    """mIoU, FB-IoU and the IoU of each class in percent."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    start = (
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
        if ranks > 1
        else [sys.executable]
    )
    command = [*start, "-m", "rifenet", "evaluate", *words, "--threads", str(threads), "--batch-size", str(batch)]
    subprocess.run([*command, "--out", str(out)], env=environment, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    scores = {name: 100 * result["scores"][name]["mean"] for name in ("miou", "fb_iou")}
    return {**scores, **{row["name"]: 100 * row["iou"] for row in result["per_class"]}}


if __name__ == "__main__":
    main()
