"""Measures exports beside torch: same masks, time of a query, and mIoU on real episodes.

    python scripts/measure_export.py --voc VOC2012 --half-width HALF_WIDTH.pth --out docs/results/export

Three engines of each model, torch, ONNX Runtime float32 and int8, take turns in one process, round by round, so that
what else the machine does meets them alike. A query is one photo's encoding and one learned class's decoding. Torch is
the engine that users have: norms folded, channels last. Scores are those of the same episodes of novel classes for all
three. Full-width ResNet-50 has random weights and is timed only; the half-width file is of a photo classifier
(see its NOTICE), under a prototype, and is scored only: nothing of it was trained on masks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from rifenet.bench.measure import machine
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
from rifenet.files import write_text
from rifenet.formats.pictures import load_image
from rifenet.metrics import IoUMeter, intersection_union
from rifenet.models import build_model
from rifenet.models.files.hub import load_model

SEED = 5


def main() -> None:
    """Writes one JSON file a model, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, help="VOC2012; without it, no scores")
    parser.add_argument("--half-width", type=Path, help="weights of the half-width ResNet-50; without them, none of it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=["default", "resnet50", "resnet50-half"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models:
        if name == "resnet50-half" and options.half_width is None:
            continue
        record = measure(engine_of(name, options.half_width), name, options)
        write_text(options.out / f"{name}.json", json.dumps(record, indent=1) + "\n")
        print(json.dumps(record, indent=1), flush=True)


def engine_of(name: str, half_width: Path | None) -> TorchEngine:
    """The bundled model, the paper's architecture with random weights, or the prototype over half-width weights."""
    torch.manual_seed(0)
    if name == "default":
        return TorchEngine(load_model(), device="cpu")
    if name == "resnet50":
        return TorchEngine(build_model(backbone="resnet50", pretrained=False).eval(), device="cpu")
    options = {"stride_on": "conv1", "stem": "caffe", "normalization": "caffe", "width": 0.5}
    model = build_model(kind="prototype", backbone="resnet50", weights=str(half_width), **options)
    return TorchEngine(model.eval(), device="cpu")


def measure(engine: TorchEngine, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model."""
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {"torch": engine}
        for precision in ("float32", "int8"):
            write_unchecked(engine, Path(folder) / precision, int8=precision == "int8")
            engines[f"onnx_{precision}"] = OnnxEngine(Path(folder) / precision, threads=options.threads)
        record: dict[str, Any] = {
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


def seconds(engines: dict[str, Engine], runs: int) -> dict[str, Any]:
    """Median and quartiles of a query and its two parts by engine, and the ratios that the bars are about."""
    names, examples = load_examples()
    shot = next(example for example in examples if example.support)
    size = engines["torch"].size
    support = learning_inputs([shot], names.index(shot.classes[0]) + 1, size)
    photo = next(example.image for example in examples if not example.support)
    image, valid, _ = resize_and_pad(load_image(photo), size)
    contexts = {label: engine.encode_support(*support) for label, engine in engines.items()}
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in engines}
    for number in range(runs + 3):
        for label, engine in engines.items():
            start = time.perf_counter()
            features = engine.encode_query(image[None], valid[None])
            middle = time.perf_counter()
            engine.decode(features, contexts[label])
            if number >= 3:
                times[label].append((middle - start, time.perf_counter() - middle))
    table = {
        label: {
            part: dict(zip(("q1", "median", "q3"), np.percentile(values, (25, 50, 75)).tolist(), strict=True))
            for part, values in zip(("query", "encode_query", "decode"), _parts(pairs), strict=True)
        }
        for label, pairs in times.items()
    }
    median = {label: row["query"]["median"] for label, row in table.items()}
    return {
        "runs": runs,
        "engines": table,
        "onnx_float32_over_torch": median["onnx_float32"] / median["torch"],
        "int8_speedup_over_onnx_float32": median["onnx_float32"] / median["onnx_int8"],
        "int8_speedup_over_torch": median["torch"] / median["onnx_int8"],
    }


def _parts(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float], list[float]]:
    return [sum(pair) for pair in pairs], [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def scores(engines: dict[str, Engine], options: argparse.Namespace) -> dict[str, Any]:
    """mIoU of each engine over the same one-shot episodes, and how far each ONNX engine is from torch."""
    index = open_dataset("pascal", options.voc)
    classes = index.novel_classes(options.fold)
    pool = EpisodePool(index, classes, shots=1, min_area=DataConfig().min_area)
    episodes = [pool.episode(SEED, number) for number in range(options.episodes)]
    counts = {label: np.stack([_counts(engine, index, each) for each in episodes]) for label, engine in engines.items()}
    ids = np.array([episode.class_id for episode in episodes])
    table = {}
    for label, own in counts.items():
        meter = IoUMeter(pool.classes)
        meter.update(own, ids)
        table[label] = {"miou": 100 * meter.compute()["miou"]}
        if label != "torch":
            meter_of_torch = IoUMeter(pool.classes)
            meter_of_torch.update(counts["torch"], ids)
            table[label]["minus_torch"] = 100 * (meter.compute()["miou"] - meter_of_torch.compute()["miou"])
    return {"dataset": "voc-mini", "fold": options.fold, "episodes": len(episodes), "engines": table}


def _counts(engine: Engine, index: ImageIndex, episode: Episode) -> np.ndarray[Any, Any]:
    arrays = load_episode(index, episode, engine.size)
    context = engine.encode_support(arrays["support_images"], arrays["support_masks"], arrays["support_valid"])
    features = engine.encode_query(arrays["query_images"][None], arrays["query_valid"][None])
    logits = engine.decode(features, context)
    scores = restore(logits[0, 1] - logits[0, 0], arrays["placement"])
    return intersection_union((scores > 0).astype(np.uint8), arrays["query_mask_original"])


if __name__ == "__main__":
    main()
