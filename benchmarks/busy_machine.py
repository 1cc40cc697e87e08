"""What waiting threads cost beside other programs: a photo and the whole command, with and without our setting.

    python -m benchmarks.busy_machine --out docs/results/busy_machine.json

The command `rifenet` has torch's threads spin for a moment only while they wait for each other (`rifenet.cli.main`).
Each figure is a process of its own, with two threads and zero, one or two other processes that compute all the time;
the ways take turns. `photo` is the median of 20 photos in that process, `command` one `rifenet segment --no-fit` of one
photo by one shot. Needs an otherwise idle machine, and torch over GNU's OpenMP, that is, Linux.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.common import Values, parser, write_record
from benchmarks.waiting import ours
from rifenet.bench.measure import machine
from rifenet.cli.main import SPINS
from rifenet.examples.samples import load_examples

WAYS = {
    "as torch comes": {},
    "as `rifenet` sets it": {"GOMP_SPINCOUNT": SPINS},
    "never spinning": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = (0, 1, 2)
PHOTOS = 20


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the record after each round."""
    words = parser(__doc__, threads=2)
    words.add_argument("--runs", type=int, default=5, help="processes of each way beside so many others")
    options = words.parse_args(argv)
    record: Values = {"machine": machine(torch.device("cpu")), "threads": options.threads, "runs": options.runs}
    record["seconds"] = {kind: {way: {str(busy): [] for busy in BUSY} for way in WAYS} for kind in ("photo", "command")}
    for _ in range(options.runs):
        for busy in BUSY:
            with busy_processes(busy):
                for way, setting in WAYS.items():
                    for kind, measured in (("photo", photo), ("command", command)):
                        record["seconds"][kind][way][str(busy)].append(measured(setting, options.threads))
        write_record(options.out, record)
    print("\n".join(table(record)))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def photo(setting: dict[str, str], threads: int) -> float:
    """Seconds on the clock of a photo."""
    code = f"from benchmarks import busy_machine; print(busy_machine.timed_photos({threads}))"
    return float(_run([sys.executable, "-c", code], setting))


def timed_photos(threads: int) -> float:
    """The median of this process."""
    segment, seconds = ours(threads)["photo"], []
    segment()  # warms up
    for _ in range(PHOTOS):
        started = time.perf_counter()
        segment()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def command(setting: dict[str, str], threads: int) -> float:
    """Seconds on the clock of the whole command; it is started as no setting of its own would count."""
    shot, query = (each for each in load_examples()[1] if each.support), load_examples()[1][-1]
    first = next(shot)
    with tempfile.TemporaryDirectory() as out:
        words = ["segment", "--support", first.classes[0], str(first.image), str(first.mask), "--no-fit"]
        words += ["--query", str(query.image), "--out", out, "--threads", str(threads)]
        code = f"import sys; from rifenet.cli.main import main; sys.exit(main({words!r}))"
        started = time.perf_counter()
        _run([sys.executable, "-c", code], setting)
        return time.perf_counter() - started


def _run(words: Sequence[str], setting: dict[str, str]) -> str:
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return subprocess.run(words, env={**unset, **setting}, check=True, capture_output=True, text=True).stdout


def table(record: Values) -> list[str]:
    """Medians with the smallest and the largest: a row for each way, a column for each number of busy processes."""
    lines = [f"| what | torch's threads | {' | '.join(f'beside {busy} busy' for busy in BUSY)} |", "|---" * 5 + "|"]
    for kind, what in (("photo", "a photo, ms"), ("command", "the whole command, s")):
        scale, digits = (1000, 0) if kind == "photo" else (1, 2)
        for way in WAYS:
            cells = []
            for busy in BUSY:
                found = [scale * seconds for seconds in record["seconds"][kind][way][str(busy)]]
                middle, low, high = statistics.median(found), min(found), max(found)
                cells.append(f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
            lines.append(f"| {what} | {way} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
