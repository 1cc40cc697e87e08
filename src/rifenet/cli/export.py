"""`rifenet export`: writes a model as ONNX graphs, which run without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rifenet.cli.console import note, print_json
from rifenet.cli.options import add_model, add_threads, model_of, photos_in
from rifenet.config import needs


def main(argv: list[str]) -> int:
    """Writes the folder if the masks of its graphs agree with those of torch, and prints how closely."""
    arguments = _parser().parse_args(argv)
    photos = _photos(arguments.calibration, arguments.int8)
    with needs("rifenet[export]"):
        from rifenet.export import export
    from rifenet.engines import is_export
    from rifenet.engines.torch import TorchEngine

    if is_export(arguments.model):
        raise ValueError(
            f"Expected a model to export, but {arguments.model} is an export. Give the model that it was made from."
        )
    engine = TorchEngine.load(model_of(arguments), device="cpu", threads=arguments.threads)
    card = export(
        engine,
        arguments.out,
        int8=arguments.int8,
        calibration=photos,
        tell=lambda step: note(f"rifenet export: {step} ..."),
    )
    if arguments.json:
        print_json(card)
    else:
        _print(card, Path(arguments.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rifenet export",
        description="Writes a model as three ONNX graphs and a card, and checks them against torch on real photos. Give"
        " the folder as --model to other commands: they then use ONNX Runtime instead of torch.",
        epilog="example: rifenet export --out exported && rifenet demo --model exported",
    )
    add_model(parser, exports=False)
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder, or an earlier export to replace")
    parser.add_argument("--int8", action="store_true", help="run the backbone in 8 bits: faster, slightly less exact")
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="with --int8: a folder of photos like those to segment (default: the bundled photos)",
    )
    add_threads(parser, "torch")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    return parser


def _photos(folder: str | None, int8: bool) -> list[Path]:
    if folder is None:
        return []
    if not int8:
        raise ValueError(
            "Expected --int8 with --calibration, but got --calibration alone. Add --int8, or leave --calibration out."
        )
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"Expected a folder of photos at {path}, but there is none.")
    return photos_in(path)


def _print(card: dict[str, Any], out: Path) -> None:
    agreement = card["agreement_with_torch"]
    size = sum((out / f"{name}.onnx").stat().st_size for name in card["graphs"]) / 1e6
    print(
        f"Wrote {card['name']} ({card['hash']}, {card['precision']}) to {out}: {size:.1f} MB. On"
        f" {agreement['photos']} photos its masks and torch's have an IoU of {agreement['mask_iou']:.4f}; their logits"
        f" differ by at most {agreement['logit_difference']:.2g}."
    )
