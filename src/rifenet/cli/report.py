"""`rifenet report`: turns result files into Markdown tables and pictures, with published figures beside them."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from rifenet.cli.console import note
from rifenet.cli.options import add_list_file
from rifenet.config import DataConfig, needs

_TITLE = "Results"
_EXAMPLE = """examples:
  rifenet report runs/*/result*.json --out results.md
  rifenet report runs/fold2/result.json --strips runs/fold2 --root VOC2012 --list-file voc_mini --out results.md
  rifenet report runs/fold2/result.json --strips runs/fold2 --root VOC2012 --html report.html
  rifenet report --ablation runs/ablation/*.json --out ablations.md"""


@needs("rifenet[report]")
def main(argv: list[str]) -> int:
    """Writes the report with its pictures, or prints it, and returns 0."""
    parser = argparse.ArgumentParser(
        prog="rifenet report",
        description="""Turn result files into tables of models, intervals, classes and sources.
With --out the report also gets pictures, in a folder of the same name: training curves (if metrics.jsonl lies beside
the result file), reliability diagrams, bars of ablations, and galleries of episodes. --html puts everything into one
file.""",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("results", nargs="*", type=Path, metavar="result.json", help="result files of rifenet evaluate")
    add("--ablation", nargs="+", type=Path, default=[], metavar="FILE", help="JSON files of rifenet ablate")
    add("--strips", nargs="+", default=[], metavar="MODEL", help="draw episodes from the results of these models")
    add("--root", metavar="DIR", help="folder of the dataset, with --strips")
    add_list_file(parser, "file of image names that was used for scoring, with --strips")
    add(
        "--title",
        default="",
        help="first heading of the report (default: Results, or Ablations where it has no others)",
    )
    add("--out", type=Path, metavar="FILE", help="Markdown file to write (default: print it)")
    add("--html", type=Path, metavar="FILE", help="HTML page to write, with all pictures inside; with or without --out")
    options = parser.parse_args(argv)
    if not (options.results or options.ablation):
        parser.error("give result files, --ablation or both")
    if options.out is None and options.html is None and (options.ablation or options.strips):
        parser.error("--ablation and --strips draw pictures, so give --out or --html")
    if bool(options.strips) != bool(options.root):
        parser.error("give --strips and --root together")

    from rifenet.evaluation.page import page
    from rifenet.evaluation.report import report
    from rifenet.files import write_text

    if options.out is None and options.html is None:
        print(report(options.results, title=options.title or _TITLE))
        return 0
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "report.md"
        text = _markdown(options, out)
        if options.out is not None:
            write_text(out, text)
        if options.html is not None:
            write_text(options.html, page(text, out.parent))
    written = " and ".join(str(path) for path in (options.out, options.html) if path is not None)
    print(f"Wrote {written}: {len(options.results)} results, {len(options.ablation)} ablations.")
    return 0


def _markdown(options: argparse.Namespace, out: Path) -> str:
    """The text of the report at `out`. Writes the pictures beside it."""
    from rifenet.evaluation.report import report

    pictures = _pictures(options, out)
    if options.results:
        return report(options.results, out.parent, pictures, options.title or _TITLE)
    return "\n".join([f"# {options.title or 'Ablations'}", "", "Written by `rifenet report`.", "", *pictures])


def _pictures(options: argparse.Namespace, out: Path) -> list[str]:
    """Lines of the sections with pictures. Writes the pictures into a folder beside the report."""
    from rifenet.evaluation.report_pictures import ablation_sections, curve_sections, reliability_sections

    folder, relative_to = out.with_suffix(""), out.parent
    lines = curve_sections(options.results, folder, relative_to)
    lines += reliability_sections(options.results, folder, relative_to)
    taken: set[str] = set()
    for model in options.strips:
        lines += _strips(options, model, folder, out.parent, taken)
    return lines + ablation_sections(options.ablation, folder, relative_to)


def _is_of(record: dict[str, Any], model: Any) -> bool:
    """Whether a result's record names this model; older records hold only the hash of the weights."""
    if "weights_hash" in record:
        return bool(record["checkpoint_hash"] == model.hash)
    return bool(record["checkpoint_hash"] == model.weights_hash)


def _strips(options: argparse.Namespace, name: str, folder: Path, relative_to: Path, taken: set[str]) -> list[str]:
    from rifenet.data.sources import open_dataset
    from rifenet.evaluation.report_pictures import unused
    from rifenet.evaluation.result_file import read_result
    from rifenet.evaluation.strips import strip_sections
    from rifenet.models.files.hub import load_model

    model = load_model(name)
    results = {path: read_result(path) for path in options.results}
    own = {path: result for path, result in results.items() if _is_of(result["model"], model)}
    if not own:
        raise ValueError(
            f"Expected a result of the model {name} (checkpoint {model.hash[:12]}), but none of the result files is "
            "one. Give its result file, or score the model with rifenet evaluate first."
        )
    indexes: dict[Path, Any] = {}
    for path, result in own.items():
        if reason := _without_strips(result["protocol"]):
            note(f"{path} has no strips: {reason}.")
            continue
        indexes[path] = open_dataset(
            result["dataset"]["name"],
            options.root,
            list_file=options.list_file,
            part="val",
            folds=result["config"]["data"].get("folds", DataConfig.folds),
            progress=False,
        )
    here = {path for path, index in indexes.items() if index.hash == own[path]["dataset"]["hash"]}
    lines: list[str] = []
    for path, index in indexes.items():
        if here and path not in here:
            note(f"{path} has no strips: it was scored on other images than those in --root.")
            continue
        start = unused(f"{path.resolve().parent.name}-{path.stem}", taken)
        lines += strip_sections(model, index, own[path], start, folder, relative_to)
    return lines


def _without_strips(rules: dict[str, Any]) -> str:
    """Why strips cannot show a result with these rules; empty if they can."""
    if rules["name"] != "pfenet":
        return f"strips need a result of the protocol pfenet, and this one is of {rules['name']}"
    if "episode_list" in rules:
        return f"its episodes come from {rules['episode_list']}, and strips can only draw the protocol's own episodes"
    return ""
