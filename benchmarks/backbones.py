"""Measures what the ready configs over other backbones cost on this machine, as JSON, and writes the table of the page.

    python -m benchmarks.backbones --out docs/results/backbones.json
    python -m benchmarks.backbones --out docs/results/backbones.json --page docs/backbones.md

With `--page` nothing is measured. Weights are random, which does not change the work; the architectures have their true
sizes. Times are medians of a few calls on one photo, in seconds that the process computed: other work on the machine
does not count. A config that --out already has is not measured again.

Figures for a GPU are computed, not measured: multiply-adds over a third of the peak of an A100 in bfloat16. That
leaves out everything but convolutions and products of matrices.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import Values, parser, rewrite_page, write_record
from rifenet.bench.measure import machine
from rifenet.bench.memory import in_fresh_process, peak_resident
from rifenet.bench.workload import Case, Workload, square_mask
from rifenet.config import Config, TrainConfig, load_config
from rifenet.evaluation.costs import costs
from rifenet.models import Features, RiFeNet, build_model
from rifenet.training import losses
from rifenet.training.loop import loss_terms

CONFIGS = Path(__file__).parents[1] / "configs"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dinov2_small": {
        "model_type": "dinov2",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 518,
        "patch_size": 14,
    },
    "dinov2_base": {
        "model_type": "dinov2",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 518,
        "patch_size": 14,
    },
    "dinov3_small": {
        "model_type": "dinov3_vit",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 224,
        "patch_size": 16,
        "num_register_tokens": 4,
    },
    "swin_base": {
        "model_type": "swin",
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 12,
        "image_size": 384,
    },
    **{
        f"{dataset}_resnet{name}_hub": {"model_type": "resnet", "depths": depths, "layer_type": "bottleneck"}
        for dataset in ("pascal", "coco")
        for name, depths in (("50", [3, 4, 6, 3]), ("101", [3, 4, 23, 3]))
    },
}
"""Ready config -> its backbone's configuration, as published."""
RUNS = 3
PEAK, SHARE = 312e12, 1 / 3  # floating point operations a second of an A100 in bfloat16, and the part that is reached
MARKERS = "<!-- costs of results/backbones.json -->", "<!-- end of costs -->"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, or writes the table."""
    words = parser(__doc__)
    words.add_argument("--page", type=Path, help="document whose table is written from --out")
    options = words.parse_args(argv)
    if options.page:
        rewrite_page(options.page, options.out, with_table)
        return
    record: Values = {"machine": machine(torch.device("cpu")), "threads": options.threads, "configs": {}}
    if options.out.is_file():
        record = json.loads(options.out.read_text(encoding="utf-8"))
    for name in ARCHITECTURES:
        if name not in record["configs"]:
            record["configs"][name] = in_fresh_process(measured, name, options.threads)
            print(name, json.dumps(record["configs"][name]), flush=True)
            write_record(options.out, record)


def measured(name: str, threads: int) -> Values:
    """Times in seconds, peak memory in MiB, parameters and multiply-adds of one ready config."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        config = over_random_weights(name, Path(folder))
        counted = costs(config.model, config.data.image_size)
        torch.manual_seed(0)
        model = build_model(config.model)
    assert isinstance(model, RiFeNet)
    size = config.data.image_size
    image = torch.rand(1, 3, size, size)
    work = Workload(model.eval(), Case(model=name, size=size, shots=1, batch=1), torch.device("cpu"), threads)
    known = work.learn()
    times = {
        "backbone_seconds": median(lambda: model.backbone(image)),
        "query_seconds": median(lambda: work.query(known)),
    }
    times["trained_step_seconds"] = median(step_of_the_trained_part(model.train(), size))
    parts = {part: cost._asdict() for part, cost in counted.items()}
    return {
        **times,
        "memory_mib": peak_resident(),
        "backbone_parameters": parts["backbone"]["parameters"],
        "trained_parameters": parts["all"]["parameters"] - parts["backbone"]["parameters"],
        "backbone_multiply_adds": parts["backbone"]["query"],
        "query_multiply_adds": parts["all"]["query"],
        "trained_step_multiply_adds": parts["all"]["step"] - parts["backbone"]["step"],
        "size": size,
        "grid": list(model.backbone.grid(size, size)),
    }


def over_random_weights(name: str, folder: Path) -> Config:
    """The ready config over a folder of its architecture, which holds no weights."""
    (folder / "config.json").write_text(json.dumps(ARCHITECTURES[name]), encoding="utf-8")
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours), encoding="utf-8")
    config = load_config(CONFIGS / f"{name}.yaml")
    trained = dataclasses.replace(config.model, backbone=str(folder), pretrained=False, aux=config.train.w_aux > 0)
    return dataclasses.replace(config, model=trained)


def step_of_the_trained_part(model: RiFeNet, size: int) -> Callable[[], None]:
    """Forward, losses and backward of one episode of one shot, given the frozen features, as from the cache."""
    with torch.no_grad():
        features = model.backbone(torch.rand(2, 3, size, size))
    mask = torch.from_numpy(square_mask(size))
    real = torch.ones(1, size, size, dtype=torch.bool)
    batch = {
        "support_images": Features(*(level[None, :1] for level in features)),
        "query_images": Features(*(level[1:] for level in features)),
        "support_masks": mask[None, None],
        "query_masks": mask[None],
        "support_valid": real[None],
        "query_valid": real,
    }
    settings = TrainConfig(unlabeled=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        losses.total(loss_terms(model, model, batch, settings), settings.w_aux, settings.beta).backward()
        nn.utils.clip_grad_norm_(trained, settings.clip)
        model.zero_grad()

    return step


def median(call: Callable[[], Any]) -> float:
    """Median of the seconds that `RUNS` calls compute, after one that warms up."""
    seconds = []
    for _ in range(RUNS + 1):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return round(float(np.median(seconds[1:])), 3)


def with_table(text: str, record: Values) -> str:
    """The page with the table of the record between its markers."""
    start, end = (text.index(marker) for marker in MARKERS)
    return f"{text[: start + len(MARKERS[0])]}\n{table(record)}\n{text[end:]}"


def table(record: Values) -> str:
    """The table, and in the lines below it where its figures come from."""
    lines = [
        "| config | backbone, trained: parameters | backbone, a photo | a query | a training episode, features cached "
        "| peak memory | a training episode without a cache on an A100, *computed* |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in record["configs"].items():
        lines.append(
            f"| `{name}` | {row['backbone_parameters'] / 1e6:.1f} M, {row['trained_parameters'] / 1e6:.1f} M | "
            f"{row['backbone_seconds']:.2f} s, {row['backbone_multiply_adds'] / 1e9:.0f} G | "
            f"{row['query_seconds']:.2f} s | {row['trained_step_seconds']:.2f} s | {row['memory_mib'] / 1024:.1f} GiB "
            f"| {1000 * on_a_gpu(row):.0f} ms |"
        )
    threads = "one thread" if record["threads"] == 1 else f"{record['threads']} threads"
    lines += [
        "",
        f"Measured in computing time on {threads} of {record['machine']['cpu']}, one class, one shot, no unlabeled "
        "photos, random weights; G is 10^9 multiply-adds. Computed: two photos through the backbone and three times "
        f"the forward pass of what is trained, two operations a multiply-add, at a third of {PEAK / 1e12:.0f} TFLOP/s. "
        "No GPU has run it.",
    ]
    return "\n".join(lines)


def on_a_gpu(row: Values) -> float:
    """Computed seconds of a training episode without a cache: the support and the query, forward and backward."""
    multiply_adds = 2 * row["backbone_multiply_adds"] + 3 * row["trained_step_multiply_adds"]
    return float(2 * multiply_adds / (PEAK * SHARE))


if __name__ == "__main__":
    main()
