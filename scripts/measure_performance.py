"""Takes the figures of docs/performance.md on this machine, and writes its tables.

    python scripts/measure_performance.py --voc VOC2012 --out docs/results/performance.json
    python scripts/measure_performance.py --tables docs/performance.md --out docs/results/performance.json

The tables also hold the figures of `scripts/measure_export.py` in the folders `export*` beside the JSON.
Each part (`--only query training ...`) goes into the JSON by itself and leaves the others there, so that a part can be
taken again. Times of one part are taken in turns with the unit, one plain forward of ResNet-50 on one 473 px image;
two threads throughout. The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rifenet.bench.measure import Plan, Task, figures, machine, measure, tasks
from rifenet.bench.memory import _peak_resident, in_fresh_process, peak_memory
from rifenet.bench.workload import Case, Workload, training_step
from rifenet.config import ModelConfig
from rifenet.data.episodes import collate_evaluation, load_episode
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, evaluation_episodes
from rifenet.data.sources import open_dataset
from rifenet.evaluation import scoring
from rifenet.evaluation.prediction import predicted_mask
from rifenet.evaluation.scoring import score_episodes
from rifenet.files import write_text
from rifenet.metrics import intersection_union
from rifenet.models import Features, RiFeNet
from rifenet.models.beyond.support_views import viewed_features
from rifenet.models.files.hub import load_model

CPU = torch.device("cpu")
THREADS = 2
SIZE = 473
MARKERS = "<!-- {} of performance.json -->", "<!-- end of {} -->"
BARS = (  # what, part, figure, upper bound, what it counts
    ("a query, class learned from 1 photo", "query", "query", 1.45, "units"),
    ("the same, 5 photos", "query", "query_5_shots", 1.6, "units"),
    ("the same, 10 photos", "query", "query_10_shots", 1.7, "units"),
    ("five classes at once", "query", "query_5_classes", 2.8, "units"),
    ("learning a class from one photo", "query", "learn", 1.2, "units"),
    ("a query of the bundled model", "query", "bundled_query", 0.25, "units"),
    ("a training step, batch 1, U = 2", "training", "training_step", 12, "units"),
    ("its peak memory", "training", "memory_mib", 3 * 1024, "MiB"),
    ("its peak memory, activations checkpointed", "training", "checkpointed_memory_mib", 3 * 1024, "MiB"),
    ("evaluation over its passes and decodes", "evaluation", "ratio", 1.2, "times"),
    ("its peak memory with a full cache", "evaluation", "memory_mib", 4 * 1024, "MiB"),
    ("mIoU that the caps cost, 5 photos", "caps", "cost_5_shots", 0.3, "points"),
    ("mIoU that the caps cost, 10 photos", "caps", "cost_10_shots", 0.3, "points"),
    ("index of 12,031 masks, first", "index", "first_seconds", 90, "s"),
    ("the same from its cache", "index", "cached_seconds", 1, "s"),
    ("rifenet --help", "start", "help_seconds", 0.5, "s"),
    ("rifenet info over import torch", "start", "info_ratio", 1.5, "times"),
    ("memory that a folder of 1,000 photos adds from its 100th photo on", "folder", "growth_mib", 50, "MiB"),
)
Values = dict[str, Any]


def query(options: argparse.Namespace) -> Values:
    """Queries and learning, by the product's own engine, and the stages of the first."""
    model, case = Case(model="resnet50", size=SIZE, shots=1, batch=1), None
    network = model.load()
    plan = Plan(models=("resnet50",), classes=(5,), threads=THREADS)
    todo = tasks(network, model, CPU, plan)
    for shots in (5, 10):
        work = Workload(network, dataclasses.replace(model, shots=shots), CPU, THREADS)
        todo.append(_timed(f"query_{shots}_shots", partial(work.query, work.learn())))
    bundled = load_model("default")
    case = Case(model="default", size=int(bundled.metadata["image_size"]), shots=1, batch=1)
    own = Workload(bundled, case, CPU, THREADS)
    known = own.learn()
    todo.append(_timed("bundled_query", lambda: own.query(known)))
    return {"runs": options.runs, "figures": _medians(todo, options.runs)}


def training(options: argparse.Namespace) -> Values:
    """A training step of the paper's recipe, and the peak memory of a process that does two."""
    case = Case(model="resnet50", size=SIZE, shots=1, batch=1)
    model = case.load()
    plain = copy.deepcopy(model.backbone)
    image = torch.rand(1, 3, SIZE, SIZE)
    step = training_step(model.config, case, CPU)
    todo = [_timed("unit", lambda: plain(image)), _timed("training_step", step)]
    runs = max(options.runs // 3, 3)
    memory = in_fresh_process(peak_memory, "training_step", case, CPU, THREADS, (1,))["process"]
    checkpointed = in_fresh_process(_checkpointed_memory, case)
    values = {"memory_mib": memory, "checkpointed_memory_mib": checkpointed}
    return {"runs": runs, "figures": _medians(todo, runs) | {name: {"value": it} for name, it in values.items()}}


def _checkpointed_memory(case: Case) -> float | None:
    torch.set_num_threads(THREADS)
    step = training_step(case.load().config, case, CPU, checkpointed=True)
    for _ in range(2):
        step()
    return _peak_resident()


def evaluation(options: argparse.Namespace) -> Values:
    """1,000 episodes over 445 images of five classes, or a share of both, over the passes and decodes that it takes."""
    _voc(options)  # a missing folder is told here
    measured: Values = in_fresh_process(_evaluation, options.voc, options.list, options.episodes)
    return measured


def _evaluation(voc: str, list_file: str, count: int) -> Values:
    torch.set_num_threads(THREADS)
    index = open_dataset("pascal", voc, list_file=list_file, progress=False)
    classes = sorted(range(1, 21), key=lambda number: -len(index.images_of(number, 2048)))[:5]
    each = max(round(count * 445 / 1000 / len(classes)), 2)
    images: list[int] = []
    for number in classes:
        images += [image for image in index.images_of(number, 2048) if image not in images][:each]
    few = index.with_records(index.records[image] for image in images)
    episodes = evaluation_episodes(few, tuple(classes), shots=1, seed=0, episodes=count, min_area=2048)
    case = Case(model="resnet50", size=SIZE, shots=1, batch=1)
    model = case.load()
    plain = copy.deepcopy(model.backbone)
    work = Workload(model, case, CPU, THREADS)  # accelerates the backbone, as `evaluate` does
    known, features, image = work.learn(), work.encode_query(), torch.rand(1, 3, SIZE, SIZE)
    decode = _timed("decode", lambda: work.engine.decode(features, known))
    parts = _medians([_timed("unit", lambda: plain(image)), decode], 10)
    started = time.perf_counter()
    score_episodes(model, few, list(episodes), SIZE)
    seconds = time.perf_counter() - started
    least = 2 * len(few) * parts["unit"]["median"] + len(episodes) * parts["decode"]["median"]
    peak = _peak_resident()
    context = sum(array.nbytes for array in known.values())
    # Contexts are kept up to a limit; the share above may not reach it.
    full = None if peak is None else peak + max(scoring.CACHE_BYTES - context * len(few), 0) / 2**20
    values = {"ratio": seconds / least, "seconds": seconds, "memory_mib": full, "seen_memory_mib": peak}
    counted = {"episodes": len(episodes), "images": len(few)}
    return counted | {"figures": parts | {name: {"value": value} for name, value in values.items()}}


CAP_SHOTS = (5, 10)


def caps(options: argparse.Namespace) -> Values:
    """mIoU of the bundled model on real episodes of 5 and 10 shots, with the caps of its config and without.

    A class at a time, whose photos are encoded once for all its episodes; both configs see the same features.
    """
    model = load_model("default")
    assert isinstance(model, RiFeNet)
    model.backbone.accelerate()
    voc, size = _voc(options), int(model.metadata["image_size"])
    configs = cap_configs(model)
    enough = tuple(number for number in range(1, 21) if len(voc.images_of(number, 2048)) > max(CAP_SHOTS))
    episodes = {
        shots: evaluation_episodes(voc, enough, shots=shots, seed=0, episodes=options.cap_episodes, min_area=2048)
        for shots in CAP_SHOTS
    }
    counts = np.zeros((len(CAP_SHOTS), len(configs), len(enough), 2, 2), np.int64)
    for column, class_id in enumerate(enough):
        seen: dict[int, Any] = {}
        for row, shots in enumerate(CAP_SHOTS):
            for episode in episodes[shots]:
                if episode.class_id == class_id:
                    counts[row, :, column] += _capped_and_not(model, configs, voc, episode, size, seen)
        print(f"{voc.class_name(class_id)}: {_cap_scores(counts[:, :, : column + 1], configs)}", flush=True)
    values = _cap_scores(counts, configs)
    return {"episodes": options.cap_episodes, "figures": {name: {"value": value} for name, value in values.items()}}


def cap_configs(model: RiFeNet) -> dict[str, ModelConfig]:
    """The two configs that are compared."""
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


@torch.inference_mode()
def _capped_and_not(
    model: RiFeNet,
    configs: dict[str, ModelConfig],
    voc: ImageIndex,
    episode: Episode,
    size: int,
    seen: dict[int, Any],
) -> NDArray[np.int64]:
    """Pixel counts of each config, [configs,2,2]; `seen` holds the supports of the class that were encoded before."""
    views = configs["capped"].support_views
    for record in set(episode.supports) - seen.keys():
        one = collate_evaluation([load_episode(voc, dataclasses.replace(episode, supports=(record,)), size)])
        images, masks, valid = (one[f"support_{part}"] for part in ("images", "masks", "valid"))
        seen[record] = viewed_features(model._encode, images, masks, valid, views)

    def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:  # a view of all shots after the other, as the model
        return torch.cat([part[:, view : view + 1] for view in range(views) for part in parts], 1)

    levels, masks, valid = zip(*(seen[record] for record in episode.supports), strict=True)
    support = Features(*map(together, zip(*levels, strict=True))), together(masks), together(valid)
    one = collate_evaluation([load_episode(voc, episode, size)])
    encoded = model.encode_query(one["query_images"], one["query_valid"])
    counts = []
    for config in configs.values():
        model.config = config
        mask = predicted_mask(model.decode(encoded, model.encode_support(*support)), one["placement"][0])
        counts.append(intersection_union(mask, one["query_mask_original"][0]))
    return np.array(counts)


def index(options: argparse.Namespace) -> Values:
    """The scan of 12,031 masks, as many as PASCAL with SBD has, linked from those of the data set."""
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
    return {"figures": {"first_seconds": {"value": took[0]}, "cached_seconds": {"value": took[1]}}}


def start(options: argparse.Namespace) -> Values:
    """Start of the program, in turns with `import torch`."""
    commands = {
        "help": ["-m", "rifenet", "--help"],
        "info": ["-m", "rifenet", "info"],
        "torch": ["-c", "import torch"],
    }
    todo = [_timed(name, lambda words=words: _run(words)) for name, words in commands.items()]
    medians = {name: float(np.median(values)) for name, values in measure(todo, range(8), 1).items()}
    values = {
        "help_seconds": medians["help"],
        "info_seconds": medians["info"],
        "import_torch_seconds": medians["torch"],
        "info_ratio": medians["info"] / medians["torch"],
    }
    return {"figures": {name: {"value": value} for name, value in values.items()}}


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def folder(options: argparse.Namespace) -> Values:
    """`rifenet segment` on a folder of 1,000 photos, one of them broken: its memory after 100 photos and at the end."""
    records = _voc(options).records
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photos").mkdir()
        for number in range(options.photos):
            os.link(records[number % len(records)].image_path, root / "photos" / f"{number:05d}.jpg")
        (root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
        shown = next(record for record in records if record.areas)
        words = ["segment", "--support", "object", str(shown.image_path), str(shown.mask_path)]
        words += ["--query", str(root / "photos"), "--out", str(root / "out"), "--threads", str(THREADS), "--json"]
        started = time.perf_counter()
        with (root / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "rifenet", *words], stdout=log, stderr=log)
            sizes: dict[int, float] = {}
            while process.poll() is None:
                done = len(list((root / "out").glob("*.json"))) if (root / "out").is_dir() else 0
                sizes[done] = _resident(process.pid) or sizes.get(done, 0.0)
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
    return {"figures": {name: {"value": value} for name, value in values.items()}}


def _resident(process: int) -> float | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def _voc(options: argparse.Namespace) -> ImageIndex:
    if not options.voc:
        raise ValueError(
            "Expected --voc with a VOC2012 folder for this part, but there is none. Name it, or use --only."
        )
    return open_dataset("pascal", options.voc, list_file=options.list, progress=False)


def _timed(name: str, call: Callable[[], Any]) -> Task:
    def task() -> dict[str, float]:
        started = time.perf_counter()
        with torch.set_grad_enabled(name == "training_step"):
            call()
        return {name: time.perf_counter() - started}

    return task


def _medians(todo: list[Task], runs: int) -> dict[str, dict[str, float]]:
    return figures(measure(todo, range(runs + 2), 2))


def exports_table(records: list[Values]) -> list[str]:
    """Rows of the exports' bars, of the files of `scripts/measure_export.py`."""
    rows = ["| model | what | measured | bar | |", "|---|---|---|---|---|"]
    for record in records:
        times, masks = record.get("seconds", {}), record["agreement_with_torch"]
        points = record.get("scores", {}).get("engines", {}).get("onnx_int8", {}).get("minus_torch")
        for what, value, least, bound in (
            ("float32, masks: IoU with torch's", masks["onnx_float32"]["mask_iou"], True, 0.999),
            ("float32, a query: times torch's", times.get("onnx_float32_over_torch"), False, 1.2),
            ("8 bits, a query: faster than float32", times.get("int8_speedup_over_onnx_float32"), True, 1.8),
            ("8 bits, a query: faster than torch", times.get("int8_speedup_over_torch"), True, 1.4),
            ("8 bits, mIoU minus torch's, points", points, True, -0.7),
        ):
            if value is not None:
                held = value >= bound if least else value <= bound
                bar = f"at {'least' if least else 'most'} {bound:g}"
                rows.append(
                    f"| {record['model']}, {record['size']} px | {what} | {value:.3f} | {bar} | {_verdict(held)} |"
                )
    return rows


def _verdict(held: bool) -> str:
    return "yes" if held else "no"


def exports_beside(figures_file: Path) -> dict[str, list[Values]]:
    """The files of `scripts/measure_export.py` by their folder's name."""
    folders = sorted(each for each in figures_file.parent.glob("export*") if each.is_dir())
    return {each.name: [json.loads(file.read_text()) for file in sorted(each.glob("*.json"))] for each in folders}


def write_tables(path: Path, parts: Values, exports: dict[str, list[Values]]) -> None:
    """Puts the tables between their markers in a document; `exports` as `exports_beside` gives them.

    Raises ValueError where it has no such markers.
    """
    bars = ["| what | measured | at most | |", "|---|---|---|---|"]
    for what, part, name, bound, kind in BARS:
        figure = parts.get(part, {}).get("figures", {}).get(name, {})
        value = figure.get("units", figure.get("value"))
        shown, verdict = ("not measured", "") if value is None else (f"{value:.2f}", _verdict(value <= bound))
        bars.append(f"| {what} | {shown} | {bound:g} {kind} | {verdict} |")
    stages = ["| step or stage | median | quartiles | units |", "|---|---|---|---|"]
    for part in ("query", "training"):
        for name, figure in parts.get(part, {}).get("figures", {}).items():
            if "median" in figure:
                low, middle, high = (f"{1000 * figure[key]:.1f}" for key in ("q1", "median", "q3"))
                stages.append(f"| `{name}` | {middle} ms | {low} to {high} ms | {figure['units']:.3f} |")
    text = path.read_text(encoding="utf-8")
    tables = {"bars": bars, **{name: exports_table(records) for name, records in exports.items()}, "stages": stages}
    for name, rows in tables.items():
        first, last = (marker.format(name) for marker in MARKERS)
        before, found, rest = text.partition(first)
        _, closed, after = rest.partition(last)
        if not (found and closed):
            raise ValueError(
                f"Expected {first} and {last} in {path}, but they are not there. Put them where a table goes."
            )
        text = before + first + "\n" + "\n".join(rows) + "\n" + last + after
    write_text(path, text)


PARTS = {part.__name__: part for part in (query, training, evaluation, caps, index, start, folder)}


def main() -> None:
    """Measures parts into the JSON; with `--tables`, writes the document's tables from it instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the JSON: written, or with --tables read")
    parser.add_argument(
        "--tables", type=Path, help="document whose tables are written from the JSON; nothing is measured"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--voc", default="", help="VOC2012 folder for the parts that need real photos")
    parser.add_argument("--list", default="voc_mini", help="its list of images")
    parser.add_argument("--runs", type=int, default=20, help="runs a figure")
    parser.add_argument(
        "--episodes", type=int, default=200, help="episodes of the evaluation, of 1,000 over 445 images"
    )
    parser.add_argument("--cap-episodes", type=int, default=400, help="episodes of the caps")
    parser.add_argument("--photos", type=int, default=1000, help="photos of the folder")
    options = parser.parse_args()
    known: Values = json.loads(options.out.read_text()) if options.out.is_file() else {"parts": {}}
    if options.tables:
        write_tables(options.tables, known["parts"], exports_beside(options.out))
        return
    torch.set_num_threads(THREADS)
    for name in options.only:
        started = time.perf_counter()
        part = PARTS[name](options)
        known["parts"][name] = part | {"machine": machine(CPU), "seconds": time.perf_counter() - started}
        write_text(options.out, json.dumps(known, indent=1) + "\n")
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
