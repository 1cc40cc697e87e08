"""`rifenet demo`: learns classes from some of the bundled photos, and segments the others."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rifenet import __version__
from rifenet.cli.console import print_json, progress
from rifenet.cli.options import add_engine, model_of
from rifenet.data.class_names import seen_classes
from rifenet.drawing import visualize
from rifenet.drawing.visualize import Figure, Report, Section
from rifenet.examples.samples import Example, load_examples
from rifenet.formats.pictures import binary_mask, load_image, load_mask

if TYPE_CHECKING:
    from rifenet.segmenting.result import Result
    from rifenet.segmenting.segmenter import Segmenter

BUNDLED_MODEL = (
    "This is the bundled model: small, and trained on few photos. It shows how the program works, not how well the"
    " method can do."
)
SCORES = ("alone", "together")


def main(argv: list[str]) -> int:
    """Writes `report.html` and `result.json`, and prints a table of scores."""
    parser = argparse.ArgumentParser(
        prog="rifenet demo",
        description="Learns several classes at once from annotated photos that ship with the program. Segments the"
        " other bundled photos, scores the masks, and writes report.html.",
        epilog="example: rifenet demo --out demo",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for the report (default: ./demo)")
    add_engine(parser)
    parser.add_argument("--json", action="store_true", help="print result.json")
    arguments = parser.parse_args(argv)

    from rifenet.engines.load import load_engine
    from rifenet.files import write_bytes
    from rifenet.segmenting.segmenter import Segmenter

    started = time.perf_counter()
    engine = load_engine(model_of(arguments), arguments.device, arguments.threads)
    baseline = engine.baseline()
    classes, examples = load_examples()
    queries = [example for example in examples if not example.support]
    truths = [load_mask(example.mask) for example in queries]
    results, scores = {}, {}
    for label, used in {"model": engine, **({"prototype": baseline} if baseline else {})}.items():
        results[label] = segment_examples(Segmenter(used), classes, examples, label)
        scores[label] = score(results[label], truths, classes)
    outcome = {
        "rifenet": __version__,
        "model": {
            "name": engine.name,
            "hash": engine.hash,
            "size": engine.size,
            "bundled": arguments.model == "default",
            "classes_trained_on": engine.classes_trained_on,
        },
        "seconds": round(time.perf_counter() - started, 1),
        "classes": [
            {
                "name": name,
                "shots": sum(example.support and name in example.classes for example in examples),
                "queries": sum(name in example.classes for example in queries),
                **{f"{label}_{kind}": scores[label][kind][name] for label in scores for kind in SCORES},
            }
            for name in classes
        ],
        "mean": {
            f"{label}_{kind}": float(np.mean(list(scores[label][kind].values()))) for label in scores for kind in SCORES
        },
    }
    out = Path(arguments.out)
    page = visualize.render(report(outcome, examples, queries, results["model"], truths))
    write_bytes(out / "report.html", page.encode())
    write_bytes(out / "result.json", json.dumps(outcome, indent=1).encode())
    if arguments.json:
        print_json(outcome)
    else:
        _print_table(outcome, out)
    return 0


def segment_examples(segmenter: Segmenter, classes: list[str], examples: list[Example], label: str) -> list[Result]:
    """Learns every class from its supports, then segments the other photos with all classes at once."""
    for name in classes:
        shots = [example for example in examples if example.support and name in example.classes]
        # A mask may show several classes. Pixels of the other classes are background for this one.
        masks = [load_mask(shot.mask) for shot in shots]
        wanted = classes.index(name) + 1
        own = [binary_mask(mask, wanted) for mask in masks]
        segmenter.learn(name, [shot.image for shot in shots], own)
    queries = [example.image for example in examples if not example.support]
    return list(progress(segmenter.segment_many(queries, batch_size=1), len(queries), f"segmenting ({label})"))


def score(results: list[Result], truths: list[Any], classes: list[str]) -> dict[str, dict[str, float]]:
    """IoU of each class, from the pixels of all photos together, in two ways.

    - `alone`: uses only photos that show the class, and segments them with this class alone, as few-shot benchmarks do.
    - `together`: uses all photos, and the mask of all classes that `segment` gives.
    """
    from rifenet.metrics import IoUMeter, class_iou, intersection_union

    ids = range(1, len(classes) + 1)
    meters = {kind: IoUMeter(ids) for kind in SCORES}
    for result, truth in zip(results, truths, strict=True):
        for class_id, name in enumerate(classes, 1):
            target = binary_mask(truth, class_id)
            together = intersection_union((result.mask == class_id).astype(np.uint8), target)
            meters["together"].update(together[None], [class_id])
            if (truth == class_id).any():
                alone = intersection_union(result.alone(name).astype(np.uint8), target)
                meters["alone"].update(alone[None], [class_id])
    return {kind: dict(zip(classes, map(float, class_iou(meters[kind].state)), strict=True)) for kind in SCORES}


def table(outcome: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the terminal and the page; the last row is the mean."""
    header, columns = ["class", "shots", "photos"], []
    for kind in SCORES:
        for label, shown in (("model", "IoU"), ("prototype", "prototype")):
            if f"{label}_{kind}" in outcome["mean"]:  # an export has no baseline
                header.append(f"{shown} {kind}")
                columns.append(f"{label}_{kind}")
    rows = [
        [
            entry["name"],
            str(entry["shots"]),
            str(entry["queries"]),
            *(f"{100 * entry[column]:.1f}" for column in columns),
        ]
        for entry in outcome["classes"]
    ]
    total = sum(entry["queries"] for entry in outcome["classes"])
    rows.append(["mean", "", str(total), *(f"{100 * outcome['mean'][column]:.1f}" for column in columns)])
    return header, rows


def report(
    outcome: dict[str, Any], examples: list[Example], queries: list[Example], results: list[Result], truths: list[Any]
) -> Report:
    """The page: the scores, then for each class its supports beside query, prediction and truth."""
    classes = [entry["name"] for entry in outcome["classes"]]
    header, rows = table(outcome)
    sections = []
    for class_id, entry in enumerate(outcome["classes"], 1):
        name = entry["name"]
        supports = [example for example in examples if example.support and name in example.classes]
        shown = [index for index, example in enumerate(queries) if name in example.classes]
        sections.append(
            Section(
                heading=name,
                columns=("support", "query", "prediction", "truth"),
                aside=[Figure(visualize.overlay(load_image(shot.image), load_mask(shot.mask))) for shot in supports],
                rows=[_row(results[index], truths[index], class_id, classes) for index in shown],
                text=f"Learned from {entry['shots']} photos. IoU together {100 * entry['model_together']:.1f}"
                + (f", prototype {100 * entry['prototype_together']:.1f}." if "prototype_together" in entry else "."),
                class_id=class_id,
            )
        )
    model = outcome["model"]
    shots = sum(entry["shots"] for entry in outcome["classes"])
    return Report(
        title="rifenet: few-shot segmentation of real photos",
        lead=f"The model learned {len(classes)} classes at once from {shots} annotated photos, and segmented"
        f" {len(queries)} other photos.",
        header=header,
        table=rows,
        legend=classes,
        notes=(
            " ".join([f"Model: {model['name']} ({model['hash']}).", *model_notes(outcome)]),
            "IoU in percent, from the pixels of all photos together. Alone: only photos that show the class, segmented"
            " with that class alone. Together: all photos; all classes compete for each pixel.",
            *(
                ["Prototype: a baseline without training, with the same frozen backbone and the same supports."]
                if "prototype_together" in outcome["mean"]
                else []
            ),
            f"The demo took {outcome['seconds']:.0f} seconds on this machine.",
        ),
        sections=sections,
        footer=f"rifenet {outcome['rifenet']}. Photos: Flickr users, from COCO 2017; masks: COCO, CC BY 4.0."
        " Sources in rifenet/examples/ATTRIBUTION.md.",
    )


def model_notes(outcome: dict[str, Any]) -> list[str]:
    """What a reader must know about the model to judge the figures."""
    model = outcome["model"]
    notes = [BUNDLED_MODEL] if model["bundled"] else []
    if model["classes_trained_on"] is not None:
        seen = seen_classes((entry["name"] for entry in outcome["classes"]), model["classes_trained_on"])
        notes.append(
            f"Its training included {', '.join(seen)}." if seen else "Its training included none of these classes."
        )
    return notes


def _row(result: Result, truth: Any, class_id: int, classes: list[str]) -> tuple[Figure, Figure, Figure]:
    """Query, prediction and truth; the caption gives the IoU and the classes that the prediction adds by mistake."""
    from rifenet.metrics import class_iou, intersection_union

    target = binary_mask(truth, class_id)
    iou = class_iou(intersection_union((result.mask == class_id).astype(np.uint8), target))
    shares = np.bincount(result.mask.ravel(), minlength=len(classes) + 1) / result.mask.size
    wrong = [name for other, name in enumerate(classes, 1) if shares[other] >= 0.01 and not (truth == other).any()]
    caption = f"IoU {100 * float(iou):.0f}" + (f", also {', '.join(wrong)}" if wrong else "")
    return (
        Figure(Image.fromarray(result.image)),
        Figure(result.overlay(), caption),
        Figure(visualize.overlay(result.image, truth)),
    )


def _print_table(outcome: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    header, rows = table(outcome)
    model = outcome["model"]
    grid = Table(title=f"{model['name']} ({model['hash']}), IoU in percent", show_footer=True)
    for index, name in enumerate(header):
        grid.add_column(name, footer=rows[-1][index], justify="left" if index == 0 else "right")
    for row in rows[:-1]:
        grid.add_row(*row)
    console.print(grid)
    for text in model_notes(outcome):
        console.print(text, markup=False, highlight=False)
    console.print(f"Open {out / 'report.html'} to see the pictures.", markup=False, highlight=False, soft_wrap=True)
