"""`rifenet report`: turns result files into Markdown tables, published figures beside ours where they may stand."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Writes the report and returns 0."""
    parser = argparse.ArgumentParser(
        prog="rifenet report",
        description="Tables from result files: models, the training-free prototype, intervals, classes and sources.",
        epilog="example: rifenet report runs/*/result*.json --out results.md",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="result.json", help="files of rifenet evaluate")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write (default: print it)")
    options = parser.parse_args(argv)

    from rifenet.evaluation.report import report

    if options.out is None:
        print(report(options.results))
        return 0
    text = report(options.results, relative_to=options.out.parent)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"Wrote {options.out}: {len(options.results)} results.")
    return 0
