"""kill -9 at random moments: nothing is lost, the end is the same, and no unfinished file stays.

    PYTHONPATH=tests:src python -m campaigns.kills --count 100 --out docs/results/campaigns/kills.json

Each job runs once undisturbed. Then it is started in a new folder and killed five times, after a time drawn from what
it takes; the sixth run ends by itself. What it leaves is compared to what the undisturbed run left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from rendered import make_custom
from safetensors.numpy import load_file
from tiny_model import write_smallest_model

from campaigns.common import written_record
from rifenet.examples.samples import load_examples
from rifenet.formats.pictures import load_mask

TIMES = re.compile(
    rb'"(seconds|episodes_per_second|seconds_per_episode|time|date|started|finished|created|s'
    rb'|process|resumed)": *("[^"]*"|[-\d.e+]+)'
)
"""Entries of a record that differ between runs of the same command: times, the memory of the process, and how much an
earlier run had done."""
KILLS_A_FOLDER = 5


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder. `compared` names, as patterns, the files whose content must be the same."""

    words: Callable[[Path], Sequence[str]]
    compared: tuple[str, ...]


def main() -> None:
    """Kills the jobs, writes what was found, and fails where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", nargs="*", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        every = jobs(folder)
        names = arguments.jobs or [*every, "server"]
        shares = {name: len(range(at, arguments.count, len(names))) for at, name in enumerate(names)}
        found: dict[str, dict[str, Any]] = {}
        for name, share in shares.items():
            rng = random.Random(f"{arguments.seed} {name}")
            found[name] = (
                _attack_server(folder, share, rng)
                if name == "server"
                else _attack(every[name], folder / name, share, rng)
            )
            faults = sum(len(each["faults"]) for each in found.values())
            kills = sum(each["kills"] for each in found.values())
            written_record(arguments.out, {"kills": kills, "faults": faults, "of each job": found})
    sys.exit(1 if faults else 0)


def jobs(folder: Path) -> dict[str, Job]:
    """Small jobs of every command that writes, over rendered photos that this writes into `folder`."""
    dataset = make_custom(folder / "dataset", per_class=6, mixed=4)
    model = write_smallest_model(folder / "smallest.safetensors")
    names, examples = load_examples()
    shot = next(each for each in examples if each.support)
    mask = folder / "mask.png"
    own = load_mask(shot.mask) == names.index(shot.classes[0]) + 1
    Image.fromarray(own).save(mask)
    photos = [str(each.image) for each in examples if not each.support][:6]
    support = ["--support", "it", str(shot.image), str(mask)]
    small = ["--model.backbone", "resnet18", "--model.width", "0.125", "--model.pretrained", "false"]
    small += ["--train.random_backbone", "true"]
    size = ["--data.image_size", "65", "--data.min_area", "1", "--data.root", str(dataset), "--data.dataset", "custom"]
    steps = ["--train.steps", "12", "--train.batch_size", "2", "--train.save_every", "2", "--train.validate_every", "4"]
    steps += ["--train.validate_episodes", "4", "--model.embed_dim", "16", "--model.heads", "2", "--model.points", "3"]
    steps += ["--train.unlabeled", "1", "--data.holdout", "0.2", *small, *size]
    grid = folder / "grid.yaml"
    grid.write_text(
        "baseline: all\nfolds: [0]\nseeds: [0]\nrows:\n  all: {}\n  no local: {model.use_local: false}\n",
        encoding="utf-8",
    )
    config = folder / "config.yaml"
    config.write_text("data: {dataset: custom}\n", encoding="utf-8")
    scored = ["--dataset", "custom", "--root", str(dataset), "--min-area", "1", "--episodes", "60", "--seeds", "0,1"]
    return {
        "train": Job(
            lambda out: ["train", "--config", str(config), *steps, "--train.out", str(out)],
            ("model.safetensors", "state.safetensors"),
        ),
        "evaluate": Job(
            lambda out: ["evaluate", "--model", str(model), *scored, "--out", str(out / "result.json")],
            ("result.json",),
        ),
        "ablate": Job(
            lambda out: [
                *["ablate", "--config", str(config), "--grid", str(grid), *steps, "--train.steps", "4"],
                *["--eval.episodes", "20", "--eval.seeds", "[0]", "--train.out", str(out)],
            ],
            ("*.md",),
        ),
        "segment": Job(
            lambda out: ["segment", "--model", str(model), *support, "--query", *photos, "--out", str(out)],
            ("*.png", "*.json"),
        ),
        "export": Job(lambda out: ["export", "--model", str(model), "--out", str(out)], ("*.onnx", "rifenet.json")),
        "adapt": Job(
            lambda out: ["segment", "--model", str(model), *support, "--adapt", "--query", *photos, "--out", str(out)],
            ("*.png", "*.json"),
        ),
    }


def _attack(job: Job, folder: Path, count: int, rng: random.Random) -> dict[str, Any]:
    start = time.monotonic()
    faults: list[str] = []
    whole = folder / "whole"
    whole.mkdir(parents=True)
    if problem := _finish(job, whole):
        return {"kills": 0, "faults": [f"undisturbed: {problem}"]}
    seconds = time.monotonic() - start
    expected = content_of(job, whole)
    if not expected:
        return {"kills": 0, "faults": [f"undisturbed: nothing of {', '.join(job.compared)}"]}
    kills = 0
    while kills < count:
        out = folder / "killed"
        out.mkdir()
        for _ in range(min(KILLS_A_FOLDER, count - kills)):
            if not _killed(job, out, rng.uniform(0, seconds)):
                break  # it was done before
            kills += 1
        if problem := _finish(job, out):
            faults.append(f"after {kills} kills: {problem}")
        elif (found := content_of(job, out)) != expected:
            different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            faults.append(f"after {kills} kills other content: {', '.join(different)}")
        if left := _unfinished(folder):
            faults.append(f"after {kills} kills left: {', '.join(left)}")
        shutil.rmtree(out)
    return {"kills": kills, "seconds undisturbed": round(seconds, 1), "faults": faults}


def _attack_server(folder: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Kills a server that learns and segments. The next one takes the same port at once and gives the same masks."""
    shot, mask, query = (folder / "shot.png", folder / "mask.png", folder / "query.png")
    Image.open(next(each.image for each in load_examples()[1] if each.support)).save(shot)
    Image.open(next(each.image for each in load_examples()[1] if not each.support)).save(query)
    faults: list[str] = []
    masks = set()
    port = "0"
    for kill in range(count + 1):
        words = [sys.executable, "-m", "rifenet", "serve", "--port", port, "--threads", "1"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if address is None:
            faults.append(f"after {kill} kills no server: {line.strip()}")
            process.kill()
            process.communicate()
            continue
        port = address[1]
        # The last one is not killed, so that there is always a mask.
        killer = threading.Timer(rng.uniform(0, 4), process.kill) if kill < count else None
        if killer is not None:
            killer.start()
        with contextlib.suppress(requests.ConnectionError):
            masks.add(_served(address[0], shot, mask, query))
        if killer is not None:
            killer.join()
        process.kill()
        process.communicate()
    if len(masks) != 1:
        faults.append(f"expected one mask of all servers, but got {len(masks)}")
    return {"kills": count, "faults": faults}


def _served(address: str, shot: Path, mask: Path, query: Path) -> bytes:
    """The mask that a server gives after it has learned the class."""
    project = {"X-Project": "kills"}
    with shot.open("rb") as image, mask.open("rb") as label:
        files = [("images", ("shot.png", image)), ("masks", ("mask.png", label))]
        url = f"{address}/api/classes"
        requests.post(url, data={"name": "it"}, files=files, headers=project, timeout=60).raise_for_status()
    with query.open("rb") as image:
        url, files = f"{address}/api/segment", [("images", ("query.png", image))]
        answer = requests.post(url, files=files, headers={**project, "Accept": "image/png"}, timeout=60)
        answer.raise_for_status()
    return answer.content


def _process(job: Job, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "rifenet", *job.words(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out.parent / "cache")}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def _killed(job: Job, out: Path, after: float) -> bool:
    """Starts the job and kills it with all its processes; False if it ended first."""
    process = _process(job, out)
    try:
        process.communicate(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True


def _finish(job: Job, out: Path) -> str:
    """Runs the job to its end; what it says where it fails."""
    process = _process(job, out)
    _, words = process.communicate()
    return "" if process.returncode == 0 else words.decode(errors="replace").strip()[-300:] or "no word"


def content_of(job: Job, out: Path) -> dict[str, str]:
    """Hash of each compared file, without times and the folder's own name; of a model, of its weights."""
    files = sorted({file for pattern in job.compared for file in out.rglob(pattern) if file.is_file()})
    found = {}
    for file in files:
        data = file.read_bytes()
        if file.suffix in (".json", ".md"):
            data = TIMES.sub(b"", data).replace(str(out).encode(), b"")
        if file.suffix == ".safetensors":  # the header names the folder
            weights = load_file(file)
            data = b"".join(name.encode() + weights[name].tobytes() for name in sorted(weights))
        found[str(file.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return found


def _unfinished(out: Path) -> list[str]:
    """Hidden folders and temporary files. The lock of a folder stays, empty, by design."""
    return sorted(
        str(path.relative_to(out)) for path in out.rglob("*") if ".tmp" in path.name or path.name.startswith(".~")
    )


if __name__ == "__main__":
    main()
