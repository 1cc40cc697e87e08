"""Measures the figures of docs/performance.md on this machine.

    python -m benchmarks.performance --voc VOC2012 --out docs/results/performance.json

`--only query training ...` measures some parts and keeps the others in the JSON. `benchmarks.performance_tables` writes
the page's tables from it. The unit of time is one plain forward of ResNet-50 on one 473 px image. Each part takes turns
with the unit, on two threads by default. Keep the machine free of other work meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Values, each_picture_once, parser, write_record
from rifenet.bench.measure import Plan, Task, figures, machine, measure, tasks, timed, unit
from rifenet.bench.memory import in_fresh_process, of_status, peak_memory, peak_resident
from rifenet.bench.workload import Case, Workload, training_step
from rifenet.config import ModelConfig
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, evaluation_episodes
from rifenet.data.sources import open_dataset
from rifenet.evaluation import scoring
from rifenet.evaluation.scoring import score_episodes
from rifenet.models import Prototype, RiFeNet
from rifenet.models.files.hub import load_model

CPU = torch.device("cpu")
SIZE = 473


def query(options: argparse.Namespace) -> Values:
    """Queries, their stages, and learning, with the engine that users get."""
    case, network = resnet50()
    todo = tasks(network, case, CPU, Plan(models=(case.model,), classes=(5,), threads=options.threads))
    for shots in (5, 10):
        work = Workload(network, dataclasses.replace(case, shots=shots), CPU, options.threads)
        todo.append(timed(f"query_{shots}_shots", partial(work.query, work.learn())))
    bundled = load_model("default")
    own_case = Case(model="default", size=int(bundled.metadata["image_size"]), shots=1, batch=1)
    own = Workload(bundled, own_case, CPU, options.threads)
    todo.append(timed("bundled_query", partial(own.query, own.learn())))
    return {"runs": options.runs, "figures": taken_in_turns(todo, options.runs)}


def training(options: argparse.Namespace) -> Values:
    """A training step of the paper's recipe, and the peak memory of a process that runs two steps."""
    case, model = resnet50()
    todo = [timed("unit", unit(model, case, CPU)), timed("training_step", training_step(model.config, case, CPU))]
    runs = max(options.runs // 3, 3)
    memory = {
        name: in_fresh_process(peak_memory, "training_step", case, CPU, options.threads, (), checkpointed)["process"]
        for name, checkpointed in (("memory_mib", False), ("checkpointed_memory_mib", True))
    }
    return {"runs": runs, "figures": taken_in_turns(todo, runs) | plain(memory)}


def evaluation(options: argparse.Namespace) -> Values:
    """Time of 1,000 episodes over 445 images of five classes, or a share of both, over that of its network calls."""
    _voc(options)  # a missing folder fails here
    measured: Values = in_fresh_process(_evaluation, options)
    return measured


def _evaluation(options: argparse.Namespace) -> Values:
    index, count = _voc(options), options.episodes
    classes = sorted(range(1, 21), key=lambda number: -len(index.images_of(number, 2048)))[:5]
    each = max(round(count * 445 / 1000 / len(classes)), 2)
    images: list[int] = []
    for number in classes:
        images += [image for image in index.images_of(number, 2048) if image not in images][:each]
    few = index.with_records(index.records[image] for image in images)
    episodes = evaluation_episodes(few, tuple(classes), shots=1, seed=0, episodes=count, min_area=2048, class_area=True)
    case, model = resnet50()
    one_pass = unit(model, case, CPU)
    work = Workload(model, case, CPU, options.threads)  # accelerates the backbone, as `evaluate` does
    known, features = work.learn(), work.encode_query()
    decode = timed("decode", lambda: work.engine.decode(features, known))
    parts = taken_in_turns([timed("unit", one_pass), decode], 10)
    started = time.perf_counter()
    score_episodes(model, few, list(episodes), SIZE)
    seconds = time.perf_counter() - started
    least = 2 * len(few) * parts["unit"]["median"] + len(episodes) * parts["decode"]["median"]
    peak = peak_resident()
    context = sum(array.nbytes for array in known.values())
    # The cache may not be full here, so add its unused part.
    full = None if peak is None else peak + max(scoring.CACHE_BYTES - context * len(few), 0) / 2**20
    values = {"ratio": seconds / least, "seconds": seconds, "memory_mib": full, "seen_memory_mib": peak}
    return {"episodes": len(episodes), "images": len(few), "figures": parts | plain(values)}


CAP_SHOTS = (5, 10)


def caps(options: argparse.Namespace) -> Values:
    """mIoU of the bundled model on real episodes of 5 and 10 shots, with the caps of its config and without.

    Classes run one after another, so that the photos of a class are encoded once for all its episodes and both configs.
    """
    model = load_model("default")
    assert isinstance(model, RiFeNet)
    model.backbone.accelerate()
    voc, size = _voc(options), int(model.metadata["image_size"])
    configs = cap_configs(model)
    enough = tuple(number for number in range(1, 21) if len(voc.images_of(number, 2048)) > max(CAP_SHOTS))
    episodes = {
        shots: evaluation_episodes(
            voc, enough, shots=shots, seed=0, episodes=options.cap_episodes, min_area=2048, class_area=True
        )
        for shots in CAP_SHOTS
    }
    counts = np.zeros((len(CAP_SHOTS), len(configs), len(enough), 2, 2), np.int64)
    for column, class_id in enumerate(enough):
        with each_picture_once(model.backbone):
            for row, shots in enumerate(CAP_SHOTS):
                own = [episode for episode in episodes[shots] if episode.class_id == class_id]
                counts[row, :, column] = scores_by_config(model, configs, voc, own, size).sum(1)
        print(f"{voc.class_name(class_id)}: {_cap_scores(counts[:, :, : column + 1], configs)}", flush=True)
    values = _cap_scores(counts, configs)
    return {"episodes": options.cap_episodes, "figures": plain(values)}


def cap_configs(model: RiFeNet) -> dict[str, ModelConfig]:
    """The model's config with its caps and without."""
    most = 10**6
    free = dataclasses.replace(model.config, max_prior_keys=most, max_support_tokens=most, max_evidence_keys=most)
    return {"capped": model.config, "uncapped": free}


def _cap_scores(counts: NDArray[np.int64], configs: dict[str, ModelConfig]) -> dict[str, float]:
    shares = 100 * (counts[..., 1, 0] / np.maximum(counts[..., 1, 1], 1)).mean(2)  # [shots,configs]
    scores = {
        f"{name}_{shots}_shots": float(shares[row, column])
        for row, shots in enumerate(CAP_SHOTS)
        for column, name in enumerate(configs)
    }
    costs = {f"cost_{k}_shots": scores[f"uncapped_{k}_shots"] - scores[f"capped_{k}_shots"] for k in CAP_SHOTS}
    return scores | costs


def scores_by_config(
    model: RiFeNet, configs: Mapping[str, ModelConfig], index: ImageIndex, episodes: list[Episode], size: int
) -> NDArray[np.int64]:
    """Pixel counts of each config and episode, [configs,N,2,2]."""
    counts = []
    for model.config in configs.values():
        counts.append(score_episodes(model, index, episodes, size))
    return np.stack(counts)


def index(options: argparse.Namespace) -> Values:
    """Time to scan 12,031 masks, as many as PASCAL with SBD has; the files are links to those of the dataset."""
    from PIL import Image

    source = _voc(options)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
            (root / name).mkdir(parents=True)
        names = [f"2008_{number:06d}" for number in range(12_031)]
        for number, name in enumerate(names):
            record = source.records[number % min(len(source), 200)]
            os.link(record.image_path, root / "JPEGImages" / f"{name}.jpg")
            os.link(record.mask_path, root / "SegmentationClassAug" / f"{name}.png")
        assert Image.open(record.mask_path).size == Image.open(record.image_path).size
        (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names))
        os.environ["RIFENET_CACHE"] = str(root / "cache")
        took = []
        for _ in range(2):
            started = time.perf_counter()
            open_dataset("pascal", root, progress=False)
            took.append(time.perf_counter() - started)
    return {"figures": plain({"first_seconds": took[0], "cached_seconds": took[1]})}


def start(options: argparse.Namespace) -> Values:
    """Start-up time of the program, in turns with `import torch`."""
    commands = {
        "help": ["-m", "rifenet", "--help"],
        "info": ["-m", "rifenet", "info"],
        "torch": ["-c", "import torch"],
    }
    todo = [timed(name, partial(_run, words)) for name, words in commands.items()]
    medians = {name: float(np.median(values)) for name, values in measure(todo, range(8), 1).items()}
    values = {
        "help_seconds": medians["help"],
        "info_seconds": medians["info"],
        "import_torch_seconds": medians["torch"],
        "info_ratio": medians["info"] / medians["torch"],
    }
    return {"figures": plain(values)}


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def folder(options: argparse.Namespace) -> Values:
    """Memory of `rifenet segment` on 1,000 photos and a broken one: growth from the 100th photo on, and the peak."""
    records = _voc(options).records
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photos").mkdir()
        for number in range(options.photos):
            os.link(records[number % len(records)].image_path, root / "photos" / f"{number:05d}.jpg")
        (root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
        shown = next(record for record in records if record.areas)
        words = ["segment", "--support", "object", str(shown.image_path), str(shown.mask_path)]
        words += [
            "--query",
            str(root / "photos"),
            "--out",
            str(root / "out"),
            "--threads",
            str(options.threads),
            "--json",
        ]
        started = time.perf_counter()
        with (root / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "rifenet", *words], stdout=log, stderr=log)
            sizes: dict[int, float] = {}
            while process.poll() is None:
                done = len(list((root / "out").glob("*.json"))) if (root / "out").is_dir() else 0
                sizes[done] = of_status("VmRSS", process.pid) or sizes.get(done, 0.0)
                time.sleep(0.5)
        seconds = time.perf_counter() - started
        manifest = json.loads((root / "out" / "manifest.json").read_text())
    early = max(size for done, size in sizes.items() if done <= max(options.photos // 10, 1))
    late = max(size for done, size in sizes.items() if done >= options.photos // 2)
    values = {
        "growth_mib": late - early,
        "memory_mib": late,
        "photos": len(manifest["results"]),
        "skipped": len(manifest["failed"]),
        "seconds_a_photo": seconds / options.photos,
    }
    return {"figures": plain(values)}


def _voc(options: argparse.Namespace) -> ImageIndex:
    if not options.voc:
        raise ValueError(
            "Expected --voc with a VOC2012 folder for this part, but got none. Give it, or choose parts by --only."
        )
    return open_dataset("pascal", options.voc, list_file=options.list, progress=False)


def resnet50() -> tuple[Case, RiFeNet | Prototype]:
    """The shape of the inputs, and the paper's network with random weights."""
    case = Case(model="resnet50", size=SIZE, shots=1, batch=1)
    return case, case.load()


def taken_in_turns(todo: list[Task], runs: int) -> Values:
    """Medians and quartiles of tasks, including the unit, after two rounds of warm-up."""
    return figures(measure(todo, range(runs + 2), 2))


def plain(values: Mapping[str, float | None]) -> Values:
    """Figures of one number each, without quartiles."""
    return {name: {"value": value} for name, value in values.items()}


PARTS = {part.__name__: part for part in (query, training, evaluation, caps, index, start, folder)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the parts, and writes each to the JSON as soon as it is finished."""
    words = parser(__doc__, threads=2)
    words.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    words.add_argument("--voc", default="", help="VOC2012 folder for the parts that need real photos")
    words.add_argument("--list", default="voc_mini", help="its list of images")
    words.add_argument("--runs", type=int, default=20, help="runs a figure")
    words.add_argument("--episodes", type=int, default=200, help="episodes of the evaluation, of 1,000 over 445 images")
    words.add_argument("--cap-episodes", type=int, default=400, help="episodes of the caps")
    words.add_argument("--photos", type=int, default=1000, help="photos of the folder")
    options = words.parse_args(argv)
    known: Values = {"parts": {}}
    if options.out.is_file():
        known = json.loads(options.out.read_text(encoding="utf-8"))
    torch.set_num_threads(options.threads)
    for name in options.only:
        started = time.perf_counter()
        part = PARTS[name](options)
        known["parts"][name] = part | {"machine": machine(CPU), "seconds": time.perf_counter() - started}
        write_record(options.out, known)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
