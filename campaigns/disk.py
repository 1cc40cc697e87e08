"""Full and read-only disks, files that vanish, two processes in one folder, clocks that jump: a sentence, nothing lost.

    PYTHONPATH=tests:src python -m campaigns.disk --out docs/results/campaigns/disk.json

It mounts small disks, which takes root. Each command writes into a folder that already holds its earlier result. What
fails has to end with exit code 1 and one line that names a path. The earlier files have to be whole, and the same
command has to succeed afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tiny_disk import tiny_disk

from campaigns.common import written_record
from campaigns.kills import Job, content_of, jobs

JUMPS = textwrap.dedent("""
    import random, time
    _clock, _rng = time.time, random.Random(0)
    time.time = lambda: _clock() + _rng.choice((-1e6, -3600, 0, 3600, 1e6))
""")
"""A sitecustomize module: the time of day jumps by up to eleven days, forth and back, at each look."""


def main() -> None:
    """Runs every job on every bad disk, writes what was found, and fails where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", nargs="*", default=[])
    arguments = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        every = jobs(folder)
        for name in arguments.jobs or list(every):
            found[name] = {
                trial.__name__.strip("_").replace("_", " "): trial(every[name], folder / f"{name} {number}")
                for number, trial in enumerate((_full_disk, _read_only, _vanishing_input, _two_at_once, _clock_jumps))
            }
            faults = sum(text.startswith("FAULT") for each in found.values() for text in each.values())
            trials = sum(map(len, found.values()))
            written_record(arguments.out, {"trials": trials, "faults": faults, "of each job": found})
    sys.exit(1 if faults else 0)


def _full_disk(job: Job, folder: Path) -> str:
    folder.mkdir()
    with tiny_disk(folder / "disk", kilobytes=40_000) as disk:
        return _fails_and_recovers(job, disk.folder / "out", disk.fill, disk.release)


def _read_only(job: Job, folder: Path) -> str:
    folder.mkdir()
    with tiny_disk(folder / "disk", kilobytes=40_000) as disk:
        if not disk.mounted:
            return "not tried: this user may not mount a disk"
        return _fails_and_recovers(
            job, disk.folder / "out", lambda: _remount(disk.folder, "ro"), lambda: _remount(disk.folder, "rw")
        )


def _vanishing_input(job: Job, folder: Path) -> str:
    """The first photo or model file is away for a second run, and comes back for a third."""
    folder.mkdir()
    words = job.words(folder / "out")
    files = [Path(word) for word in words if Path(word).is_file() and folder.parent in Path(word).parents]
    if not files:
        return "no single file is read"
    away = files[-1].with_name(f"away {files[-1].name}")
    return _fails_and_recovers(
        job, folder / "out", lambda: files[-1].rename(away), lambda: away.rename(files[-1]), fresh=True
    )


def _two_at_once(job: Job, folder: Path) -> str:
    """Two of the same command in one folder. One may be refused with a sentence; what stays is that of one alone."""
    (folder / "alone").mkdir(parents=True)
    (folder / "both").mkdir()
    if fault := _problem(_run(job, folder / "alone"), (0,)):
        return f"FAULT alone: {fault}"
    ends: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: ends.append(_run(job, folder / "both"))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    if faults := [fault for end in ends if (fault := _problem(end, (0, 1)))]:
        return f"FAULT: {faults[0]}"
    if all(end.returncode for end in ends):
        return f"FAULT: both refused: {ends[0].stderr.strip()[-200:]}"
    if content_of(job, folder / "both") != content_of(job, folder / "alone"):
        return "FAULT: other content than of one alone"
    refused = [end.stderr.strip().splitlines()[-1] for end in ends if end.returncode]
    return f"one refused: {refused[0].replace(str(folder), '')}" if refused else "both done, same content"


def _clock_jumps(job: Job, folder: Path) -> str:
    (folder / "plain").mkdir(parents=True)
    (folder / "jumping").mkdir()
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(JUMPS, encoding="utf-8")
    if fault := _problem(_run(job, folder / "plain"), (0,)) or _problem(
        _run(job, folder / "jumping", PYTHONPATH=f"{folder}/site:{os.environ.get('PYTHONPATH', '')}"), (0,)
    ):
        return f"FAULT: {fault}"
    same = content_of(job, folder / "plain") == content_of(job, folder / "jumping")
    return "same content" if same else "FAULT: other content"


def _fails_and_recovers(
    job: Job, out: Path, worsen: Callable[[], object], mend: Callable[[], object], fresh: bool = False
) -> str:
    out.mkdir()
    if fault := _problem(_run(job, out), (0,)):
        return f"FAULT before: {fault}"
    before = content_of(job, out)
    if fresh:  # all of its work is to be done again
        shutil.rmtree(out)
        out.mkdir()
    worsen()
    try:
        end = _run(job, out)
    finally:
        mend()
    if fault := _problem(end, (0, 1, 2)):  # 2: what was typed is wrong, as the name of a config that is away
        return f"FAULT: {fault}"
    if not fresh and content_of(job, out) != before:
        return "FAULT: the earlier files changed"
    if fault := _problem(_run(job, out), (0,)):
        return f"FAULT afterwards: {fault}"
    if content_of(job, out) != before:
        return "FAULT: other content afterwards"
    return end.stderr.strip().splitlines()[-1].replace(str(out.parent), "") if end.returncode else "had nothing to do"


def _run(job: Job, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rifenet", *job.words(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out.parent.parent / "cache"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


def _problem(end: subprocess.CompletedProcess[str], codes: Sequence[int]) -> str:
    """What is wrong with how a command ended: its code, a traceback, or no sentence with a path."""
    words = end.stderr.strip()
    if end.returncode not in codes:
        return f"exit code {end.returncode}: {words[-300:]}"
    if "Traceback" in words:
        return f"a traceback: {words[-300:]}"
    if end.returncode and "/" not in words.splitlines()[-1]:
        return f"no path in: {words.splitlines()[-1]}"
    return ""


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


if __name__ == "__main__":
    main()
