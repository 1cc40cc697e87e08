"""`rifenet bench`: measures this machine, and compares the figures with those of another bench."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rifenet.cli.console import print_json, progress
from rifenet.cli.options import TRAINED, add_device, add_threads
from rifenet.config import needs


@needs("rifenet[train]")
def main(argv: list[str]) -> int:
    """Measures, writes `--out`, and prints the figures."""
    arguments = _parser().parse_args(argv)
    if arguments.out is not None and Path(arguments.out).is_dir():
        raise ValueError(f"Expected --out to be a file, but {arguments.out} is a folder.")

    if arguments.training or arguments.full:
        import rifenet.training  # noqa: F401  (a missing package fails here, before minutes of measuring)
    from rifenet.bench import Plan, compare, default_model, read, run

    # A wrong file fails before minutes of measuring.
    other = None if arguments.against is None else read(arguments.against)
    models = [default_model(), "resnet50"] if arguments.full else [default_model()]
    plan = Plan(
        models=tuple(arguments.backbones or models),
        sizes=tuple(arguments.sizes),
        shots=tuple(arguments.shots or ([1, 5, 10] if arguments.full else [1])),
        batches=tuple(arguments.batch),
        classes=tuple(arguments.classes),
        runs=arguments.runs,
        warmup=arguments.warmup,
        training=arguments.training or arguments.full,
        device=arguments.device,
        threads=arguments.threads,
    )
    bench = run(plan, _quiet_progress)
    if other is not None:
        bench["against"] = {"file": Path(arguments.against).name, **compare(bench, other)}
    if arguments.out is not None:
        from rifenet.files import write_bytes

        write_bytes(Path(arguments.out), (json.dumps(bench, indent=1) + "\n").encode())
    if arguments.json:
        print_json(bench)
    else:
        _print_tables(bench)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rifenet bench",
        description="Measures the time of each stage and the peak memory on this machine. Each time is also given in"
        " units: one unit is one forward pass of the backbone on one image. Units allow comparing machines.",
        epilog="example: rifenet bench --backbones resnet50 --sizes 473 --shots 1 5 --out bench.json",
    )
    parser.add_argument(
        "--backbones",
        nargs="+",
        metavar="NAME",
        help=f"architectures, which get random weights, or models: {TRAINED} or hf:owner/name. Without it: the bundled"
        " model, or efficientnet_lite2 if there is none",
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[], metavar="S", help="input sides in pixels (default: the model's own)"
    )
    parser.add_argument("--shots", nargs="+", type=int, metavar="K", help="shots of each class (default: 1)")
    parser.add_argument(
        "--batch", nargs="+", type=int, default=[1], metavar="B", help="query images in a batch (default: 1)"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        type=int,
        default=[5],
        metavar="N",
        help="numbers of learned classes to measure a query with, besides 1 (default: 5)",
    )
    parser.add_argument("--training", action="store_true", help="also measure a training step with 2 unlabeled images")
    parser.add_argument(
        "--full",
        action="store_true",
        help="also measure ResNet-50 (473 px), 1, 5 and 10 shots, and training; takes long",
    )
    parser.add_argument(
        "--runs", type=int, default=20, help="runs of each stage (default: 20); figures of fewer are too noisy to quote"
    )
    parser.add_argument("--warmup", type=int, default=3, help="unmeasured rounds at the start (default: 3)")
    add_device(parser)
    add_threads(parser, "torch")
    parser.add_argument(
        "--against", metavar="FILE", help="another bench that --out wrote: print the ratios to it, and what differs"
    )
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _quiet_progress(items: Iterable[int], total: int, label: str) -> Iterator[int]:
    # A thread that draws the bar would slow down the stages that are measured.
    return progress(items, total, label, auto_refresh=False)


def _print_tables(bench: dict[str, Any]) -> None:
    from rich.console import Console

    console, machine = Console(), bench["machine"]
    processor = f"{machine['cpu']} ({machine['cores']} cores, {machine['threads']} threads)"
    device = "" if machine["device"] == "cpu" else f", {machine['device_name']}"
    console.print(f"{processor}{device}, torch {machine['torch']}", markup=False, highlight=False)
    for case in bench["cases"]:
        console.print()
        console.print(f"{_title(case)}, {case['weights']} weights", markup=False, highlight=False)
        console.print(_times(case))
        for what, peak in case["peak_memory_mib"].items():
            parts = [f"{name} {value:.0f} MiB" for name, value in peak.items() if value is not None]
            console.print(f"peak memory, {what.replace('_', ' ')}: {', '.join(parts) or 'unknown on this machine'}")
    if "against" in bench:
        console.print()
        _print_comparison(bench["against"], console)


def _title(case: dict[str, Any]) -> str:
    shots = f"{case['shots']} shot{'s' if case['shots'] > 1 else ''}"
    return f"{case['model']}, {case['size']} px, {shots}, batch {case['batch']}"


def _label(name: str) -> str:
    whole, _, part = name.partition(".")
    within = part in ("self_attention", "cross_attention")
    return ("    " if within else "  " if part else "") + (part or whole).replace("_", " ")


def _times(case: dict[str, Any]) -> Any:
    table = _table("median ms", "quartiles ms", "units")
    for name, figure in case["figures"].items():
        quartiles = f"{1000 * figure['q1']:.2f} - {1000 * figure['q3']:.2f}"
        table.add_row(_label(name), f"{1000 * figure['median']:.2f}", quartiles, f"{figure['units']:.3f}")
    return table


def _table(*columns: str) -> Any:
    from rich.table import Column, Table

    return Table("", *(Column(name, justify="right") for name in columns), box=None)


def _print_comparison(against: dict[str, Any], console: Any) -> None:
    console.print(f"Ratios to {against['file']}; below 1, this bench is faster.", markup=False, highlight=False)
    for name, (here, there) in against["differs"].items():
        console.print(f"  differs: {name} {here} here, {there} there", markup=False, highlight=False)
    if not against["cases"]:
        console.print("The two benches have no case in common: a case is a model, size, shots and batch.")
    for case in against["cases"]:
        table = _table("seconds", "units")
        for name, ratio in case["ratios"].items():
            table.add_row(_label(name), f"{ratio['seconds']:.3f}", f"{ratio['units']:.3f}")
        console.print()
        console.print(_title(case), markup=False, highlight=False)
        console.print(table)
