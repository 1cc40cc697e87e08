"""`rifenet data index` counts what a dataset holds; `rifenet data show` draws episodes as the network sees them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, noted_warnings, print_json
from rifenet.cli.options import add_list_file
from rifenet.config import DATASETS, FOLDS, PROTOCOLS

if TYPE_CHECKING:
    from PIL import Image

    from rifenet.data.index import ImageIndex

SHOWN = 10
"""Files left out that `rifenet data index` prints."""
_EXAMPLES = """examples:
  rifenet data index --dataset custom --root my_photos
  rifenet data show --dataset pascal --root VOCdevkit/VOC2012 --fold 1 --shots 2 --out episodes.png
"""


def main(argv: list[str]) -> int:
    """Runs `rifenet data ...`, and returns 0. Raises ValueError or FileNotFoundError for unusable data."""
    options = _parser().parse_args(argv)
    from rifenet.data.sources import open_dataset

    index = open_dataset(
        options.dataset, options.root, list_file=options.list_file, part=options.part, folds=options.folds
    )
    return _index(index, options) if options.action == "index" else _show(index, options)


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dataset", choices=DATASETS, required=True, help="layout of the dataset")
    shared.add_argument("--root", required=True, help="folder of the dataset")
    add_list_file(shared, "image names to use instead of the dataset's list")
    shared.add_argument("--part", choices=("train", "val"), default="train", help="list to read (default: train)")
    shared.add_argument("--folds", choices=FOLDS, default=FOLDS[0], help="coco: how folds divide the classes")
    shared.add_argument(
        "--min-area", type=int, default=2048, metavar="PX", help="smallest area of a class that counts (default: 2048)"
    )
    texts: dict[str, Any] = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="rifenet data", description="Count or draw what a dataset holds.", **texts)
    actions = parser.add_subparsers(dest="action", required=True)
    scan = actions.add_parser(
        "index", parents=[shared], help="count images, classes and pairs; name each unreadable file", **texts
    )
    scan.add_argument("--json", action="store_true", help="print JSON")
    scan.add_argument(
        "--bad-files",
        type=Path,
        metavar="FILE",
        help=f"write all files left out to FILE (default: to the cache, where there are more than {SHOWN})",
    )
    show = actions.add_parser(
        "show", parents=[shared], help="draw a sheet of episodes as the network sees them", **texts
    )
    show.add_argument("--fold", type=int, default=0, help="fold to draw episodes from (default: 0)")
    show.add_argument("--shots", type=int, default=1, metavar="K", help="support images in an episode (default: 1)")
    show.add_argument("--size", type=int, metavar="PX", help="side of the network's input (default: 473; hsnet: 400)")
    show.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), default="pfenet", help="rules of drawing; hsnet squashes the photos"
    )
    show.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    show.add_argument("--episodes", type=int, default=6, metavar="N", help="number of episodes (default: 6)")
    show.add_argument(
        "--train", action="store_true", help="show training episodes: base classes, random views, two unlabeled images"
    )
    show.add_argument(
        "--out",
        type=Path,
        default=Path("episodes.png"),
        metavar="FILE",
        help="picture to write (default: episodes.png)",
    )
    return parser


def summary(index: ImageIndex, min_area: int) -> dict[str, Any]:
    """The counts that `rifenet data index --json` prints."""
    images = {class_id: index.images_of(class_id, min_area) for class_id in range(1, len(index.class_names) + 1)}
    return {
        "dataset": index.dataset,
        "root": str(index.root),
        "list": index.list_name,
        "hash": index.hash,
        "min_area": min_area,
        "images": len(index),
        "images_without_class": sum(not any(record.areas.values()) for record in index.records),
        "classes": [
            {
                "id": class_id,
                "name": index.class_name(class_id),
                "images": len(found),
                "images_of_any_area": len(index.images_of(class_id)),
            }
            for class_id, found in images.items()
        ],
        "folds": [
            {
                "fold": fold,
                "novel": [index.class_name(class_id) for class_id in novel],
                "novel_pairs": sum(len(images[class_id]) for class_id in novel),
                "novel_pairs_of_any_area": len(index.pairs(novel)),
                "base_pairs": sum(len(images[class_id]) for class_id in index.base_classes(fold)),
                "base_pairs_of_any_area": len(index.pairs(index.base_classes(fold))),
                "images_without_novel": len(index.without_classes(index.held_back(fold))),
            }
            for fold, novel in enumerate(index.folds)
        ],
        "bad_files": [{"file": name, "reason": reason} for name, reason in index.bad_files],
    }


def _index(index: ImageIndex, options: argparse.Namespace) -> int:
    found = summary(index, options.min_area)
    if options.json:
        print_json(found)
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(
        f"{found['root']} ({found['list']}): {found['images']:,} images,"
        f" {found['images_without_class']:,} of them without any class"
    )
    enough = f"{options.min_area:,} px or more"
    classes = Table("id", "class", f"images with {enough}", "of any area")
    for row in found["classes"]:
        classes.add_row(str(row["id"]), row["name"], f"{row['images']:,}", f"{row['images_of_any_area']:,}")
    folds = Table("fold", "novel classes", "novel pairs", "base pairs", "images without novel classes")
    for row in found["folds"]:
        pairs = (f"{row[key]:,} of {row[f'{key}_of_any_area']:,}" for key in ("novel_pairs", "base_pairs"))
        more = [f"and {len(row['novel']) - 20} more"] if len(row["novel"]) > 20 else []
        folds.add_row(str(row["fold"]), ", ".join(row["novel"][:20] + more), *pairs, f"{row['images_without_novel']:,}")
    console.print(classes)
    console.print(folds)
    console.print(
        f"A pair is an image and a class in it. The first number counts pairs with {enough}, the second all pairs."
    )
    _print_left_out(index, options.bad_files, lambda line: console.print(line, soft_wrap=True))
    return 0


def _print_left_out(index: ImageIndex, file: Path | None, say: Callable[[str], None]) -> None:
    """Says which files are left out: the first few, and all of them in a file where that is asked for or needed."""
    from rifenet.data.cache import cache_folder
    from rifenet.files import write_text

    lines = [f"{name}: {reason}" for name, reason in index.bad_files]
    say(f"{len(lines):,} files left out" + (":" if lines else "."))
    for line in lines[:SHOWN]:
        say(f"  {line}")
    if file is not None or len(lines) > SHOWN:
        path = file or cache_folder() / f"left-out-{index.hash[:12]}.txt"
        write_text(path, "".join(f"{line}\n" for line in lines))
        rest = f"  and {len(lines) - SHOWN:,} more. " if len(lines) > SHOWN else "  "
        say(f"{rest}All {len(lines):,} are listed in {path}")


def _show(index: ImageIndex, options: argparse.Namespace) -> int:
    from PIL import Image

    from rifenet.config import DataConfig
    from rifenet.data import episodes as data
    from rifenet.drawing.visualize import contact_sheet
    from rifenet.files import write_atomically

    if options.train and options.protocol != "pfenet":
        raise ValueError(f"Expected no protocol with --train, but got {options.protocol}. Leave one of the two out.")
    if options.episodes < 1:
        raise ValueError(f"Expected at least 1 episode, but got {options.episodes}.")
    kind = Image.registered_extensions().get(options.out.suffix.lower())
    if kind is None:
        raise ValueError(f"Expected a picture such as episodes.png for --out, but got {options.out}.")
    novel, base = index.novel_classes(options.fold), index.base_classes(options.fold)
    size = options.size or PROTOCOLS[options.protocol].image_size or DataConfig.image_size
    config = DataConfig(fold=options.fold, shots=options.shots, image_size=size, min_area=options.min_area)
    if options.train:
        pool = data.EpisodePool(
            index.without_classes(index.held_back(options.fold)),
            base,
            shots=options.shots,
            unlabeled=2,
            min_area=options.min_area,
        )
        for name, reason in pool.left_out:
            note(f"warning: {name} is left out: {reason}.")
        loaded: Any = data.TrainingEpisodes(pool, config, seed=options.seed, episodes=options.episodes)
    else:
        with noted_warnings(True):
            listed = data.evaluation_episodes(
                index,
                novel,
                shots=options.shots,
                seed=options.seed,
                episodes=options.episodes,
                min_area=options.min_area,
                protocol=options.protocol,
            )
        loaded = data.EvaluationEpisodes(index, listed, size, squashed=options.protocol == "hsnet")
    strips = [_strip(loaded[i], index) for i in range(len(loaded))]
    sheet = contact_sheet(strips)
    write_atomically(options.out, lambda file: sheet.save(file, kind))
    print(f"Wrote {options.out}: {len(strips)} episodes, query first.")
    return 0


def _strip(episode: dict[str, Any], index: ImageIndex) -> Image.Image:
    """One loaded episode as a row: query, supports and unlabeled views, with the masks drawn over them."""
    import numpy as np
    from PIL import Image

    from rifenet.drawing.visualize import overlay, strip

    def photo(pixels: Any) -> Any:
        return (255 * pixels.transpose(1, 2, 0)).round().astype(np.uint8)

    panels = [overlay(photo(episode["query_images"]), episode["query_masks"])]
    captions = [f"query: {index.class_name(episode['class_id'])}"]
    for pixels, mask in zip(episode["support_images"], episode["support_masks"], strict=True):
        panels.append(overlay(photo(pixels), mask))
        captions.append(f"support {len(panels) - 1}")
    for weak, strong in zip(episode.get("unlabeled_weak", ()), episode.get("unlabeled_strong", ()), strict=True):
        panels += [Image.fromarray(photo(weak)), Image.fromarray(photo(strong))]
        captions += ["unlabeled, weak", "strong"]
    return strip(panels, captions)
