"""Compares exported models with torch: equal masks, time of a query, and mIoU on real episodes.

    python -m benchmarks.export --voc VOC2012 --half-width HALF_WIDTH.pth --out docs/results/export

Each model runs in three engines: torch, ONNX Runtime float32, and ONNX Runtime int8. The engines take turns in one
process, round by round, so other load on the machine affects all alike. A query encodes one photo and decodes one
learned class. The torch engine is the one that users get: norms folded, channels last. All three are scored on the same
episodes of novel classes. Full-width ResNet-50 has random weights, so it is only timed. The half-width ResNet-50 is a
photo classifier (see its NOTICE), never trained on masks. It serves the training-free prototype, and is only scored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.common import Values, parser, write_record
from rifenet.bench import measure as bench
from rifenet.bench.measure import Task, machine
from rifenet.config import DataConfig
from rifenet.data.episodes import load_episode
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import resize_and_pad, restore
from rifenet.engines import Engine
from rifenet.engines.onnx import OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.examples.samples import load_examples
from rifenet.export.check import compare, learning_inputs
from rifenet.export.folder import write_unchecked
from rifenet.formats.pictures import load_image
from rifenet.metrics import IoUMeter, intersection_union
from rifenet.models import build_model
from rifenet.segmenting.margins import margins

SEED = 5
WARMUP = 3
PARTS = ("query", "encode_query", "decode")


def main(argv: Sequence[str] | None = None) -> None:
    """Writes one JSON file for each model into the folder OUT, and prints it."""
    words = parser(__doc__, threads=2)
    words.add_argument("--voc", type=Path, help="VOC2012; without it, no scores")
    words.add_argument("--half-width", type=Path, help="weights of the half-width ResNet-50; without, it is skipped")
    words.add_argument("--fold", type=int, default=2)
    words.add_argument("--episodes", type=int, default=300)
    words.add_argument("--runs", type=int, default=20)
    words.add_argument("--models", nargs="+", default=["default", "resnet50", "resnet50-half"], help="or other models")
    options = words.parse_args(argv)
    torch.set_num_threads(options.threads)
    for name in options.models:
        if name == "resnet50-half" and options.half_width is None:
            continue
        record = measure(engine_of(name, options.half_width), name, options)
        write_record(options.out / f"{Path(name).stem}.json", record)
        print(json.dumps(record, indent=1), flush=True)


def engine_of(name: str, half_width: Path | None) -> TorchEngine:
    """RiFeNet over ResNet-50 with random weights, the prototype over half-width weights, or any model by its name."""
    torch.manual_seed(0)
    if name == "resnet50":
        return TorchEngine(build_model(backbone="resnet50", pretrained=False).eval(), device="cpu")
    if name != "resnet50-half":
        return TorchEngine.load(name, device="cpu")
    options = {"stride_on": "conv1", "stem": "caffe", "normalization": "caffe", "width": 0.5}
    model = build_model(kind="prototype", backbone="resnet50", weights=str(half_width), **options)
    return TorchEngine(model.eval(), device="cpu")


def measure(engine: TorchEngine, name: str, options: argparse.Namespace) -> Values:
    """The record of one model: agreement with torch, times and scores."""
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {"torch": engine}
        for precision in ("float32", "int8"):
            write_unchecked(engine, Path(folder) / precision, int8=precision == "int8")
            engines[f"onnx_{precision}"] = OnnxEngine(Path(folder) / precision, threads=options.threads)
        record: Values = {
            "model": engine.name,
            "hash": engine.hash,
            "size": engine.size,
            "machine": machine(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__},
            "agreement_with_torch": {
                label: compare(engine, other)._asdict() for label, other in engines.items() if label != "torch"
            },
        }
        if name != "resnet50-half":
            record["seconds"] = seconds(engines, options.runs)
        if options.voc is not None and name != "resnet50":
            record["scores"] = scores(engines, options)
    return record


def seconds(engines: dict[str, Engine], runs: int) -> Values:
    """Median and quartiles of a query and its two parts by engine, and the ratios that the docs' bars limit."""
    names, examples = load_examples()
    shot = next(example for example in examples if example.support)
    support = learning_inputs([shot], names.index(shot.classes[0]) + 1, engines["torch"].size)
    photo = next(example.image for example in examples if not example.support)
    image, valid, _ = resize_and_pad(load_image(photo), engines["torch"].size)

    def task(label: str, engine: Engine) -> Task:
        context = engine.encode_support(*support)

        def query() -> dict[str, float]:
            start = time.perf_counter()
            features = engine.encode_query(image[None], valid[None])
            middle = time.perf_counter()
            engine.decode(features, context)
            end = time.perf_counter()
            return dict(
                zip((f"{label}.{part}" for part in PARTS), (end - start, middle - start, end - middle), strict=True)
            )

        return query

    taken = bench.measure([task(*item) for item in engines.items()], range(runs + WARMUP), WARMUP)
    table = {label: {part: bench.quartiles(taken[f"{label}.{part}"]) for part in PARTS} for label in engines}
    median = {label: row["query"]["median"] for label, row in table.items()}
    return {
        "runs": runs,
        "engines": table,
        "onnx_float32_over_torch": median["onnx_float32"] / median["torch"],
        "int8_speedup_over_onnx_float32": median["onnx_float32"] / median["onnx_int8"],
        "int8_speedup_over_torch": median["torch"] / median["onnx_int8"],
    }


def scores(engines: dict[str, Engine], options: argparse.Namespace) -> Values:
    """mIoU of each engine over the same one-shot episodes, and each ONNX engine's difference to torch."""
    index = open_dataset("pascal", options.voc)
    pool = EpisodePool(index, index.novel_classes(options.fold), shots=1, min_area=DataConfig().min_area)
    episodes = [pool.episode(SEED, number) for number in range(options.episodes)]
    table: dict[str, dict[str, float]] = {}
    for label, engine in engines.items():
        meter = IoUMeter(pool.classes)
        counts = np.stack([_counts(engine, index, each) for each in episodes])
        meter.update(counts, [each.class_id for each in episodes])
        table[label] = {"miou": 100 * meter.compute()["miou"]}
        if label != "torch":
            table[label]["minus_torch"] = table[label]["miou"] - table["torch"]["miou"]
    return {"dataset": "voc-mini", "fold": options.fold, "episodes": len(episodes), "engines": table}


def _counts(engine: Engine, index: ImageIndex, episode: Episode) -> np.ndarray[Any, Any]:
    arrays = load_episode(index, episode, engine.size)
    context = engine.encode_support(arrays["support_images"], arrays["support_masks"], arrays["support_valid"])
    features = engine.encode_query(arrays["query_images"][None], arrays["query_valid"][None])
    scores = restore(margins(engine, features, context)[0], arrays["placement"])
    return intersection_union((scores > 0).astype(np.uint8), arrays["query_mask_original"])


if __name__ == "__main__":
    main()
