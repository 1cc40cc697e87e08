"""The kinds of files that the program reads: a whole one of each, and the public entry that reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from colour_engine import ColourEngine
from PIL import Image
from rendered import CUSTOM_NAMES, make_coco, make_custom, make_voc
from tiny_model import write_smallest_model

from campaigns.mutations import as_json, damaged_bytes, damaged_header, damaged_values
from rifenet import Segmenter, load_model
from rifenet.bench.compare import compare
from rifenet.bench.compare import read as read_bench
from rifenet.cli.main import main as command
from rifenet.config import Config, load_config
from rifenet.data.sampling import Episode, episodes_to_json
from rifenet.data.sources import open_dataset
from rifenet.engines.load import load_engine
from rifenet.engines.torch import TorchEngine
from rifenet.evaluation.grid import read_grid
from rifenet.evaluation.lists import read_episodes
from rifenet.export.folder import write_unchecked
from rifenet.formats.label_files import load_labels

Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """A file that `read` opens at `path`. `damages` are tried in turns."""

    path: Path
    read: Callable[[Path], Any]
    damages: tuple[Damage, ...]


def _pictures(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [np.full((20, 20, 3), (255, 0, 0), np.uint8)], [np.eye(20, dtype=np.uint8)])
    saved = {
        "photo.png": {},
        "photo.jpg": {"quality": 80},
        "photo.webp": {},
        "photo.bmp": {},
        "photo.gif": {},
        "photo.tif": {"compression": "tiff_lzw"},
    }
    for name, options in saved.items():
        photo.save(folder / name, **options)
    mask = Image.fromarray(np.eye(48, 64, dtype=np.uint8) * 3, "P")
    mask.putpalette(list(range(256)) * 3)
    mask.save(folder / "mask.png")
    whole = {name: Kind(folder / name, segmenter.segment, (damaged_bytes,)) for name in saved}
    whole["mask.png"] = Kind(folder / "mask.png", lambda path: load_labels(path, "red"), (damaged_bytes,))
    return whole


def _labels(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    points = [[x, y] for x, y in zip(square[::2], square[1::2], strict=True)]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 7, "name": "red"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "segmentation": [square],
                "bbox": [10, 10, 20, 20],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 7,
                "segmentation": {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]},
                "iscrowd": 1,
            },
        ],
    }
    labelme = {
        "imagePath": "a.jpg",
        "imageWidth": 64,
        "imageHeight": 48,
        "shapes": [
            {"label": "red", "points": points, "shape_type": "polygon"},
            {"label": "red", "points": points[:3:2], "shape_type": "rectangle"},
            {"label": "red", "points": points[:2], "shape_type": "circle"},
        ],
    }
    corners = [[100 * x / 64, 100 * y / 48] for x, y in points]
    sizes = {"original_width": 64, "original_height": 48}
    studio = [
        {
            "data": {"image": "/data/upload/1/abcd1234-a.jpg"},
            "annotations": [
                {
                    "result": [
                        {**sizes, "type": "polygonlabels", "value": {"points": corners, "polygonlabels": ["red"]}},
                        {
                            **sizes,
                            "type": "rectanglelabels",
                            "value": {"x": 1, "y": 2, "width": 30, "height": 40, "rectanglelabels": ["red"]},
                        },
                    ]
                }
            ],
        }
    ]
    kinds = {}
    for name, tree in (("coco.json", coco), ("labelme.json", labelme), ("label_studio.json", studio)):
        path = folder / name
        path.write_bytes(as_json(tree))
        kinds[name] = Kind(path, lambda path: load_labels(path, "red", photo="a.jpg"), (_json_values, damaged_bytes))
    return kinds


def _models(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    model = write_smallest_model(folder / "model.safetensors", size=33)
    engine = ColourEngine()
    segmenter = Segmenter(engine)
    segmenter.learn("red", [np.full((20, 20, 3), (255, 0, 0), np.uint8)], [np.eye(20, dtype=np.uint8)])
    segmenter.save_classes(folder / "classes.safetensors")
    return {
        "model.safetensors": Kind(model, load_model, (damaged_header, damaged_header, damaged_bytes)),
        "classes.safetensors": Kind(
            folder / "classes.safetensors",
            lambda path: Segmenter(engine).load_classes(path),
            (damaged_header, damaged_header, damaged_bytes),
        ),
    }


def _exports(folder: Path) -> dict[str, Kind]:
    model = write_smallest_model(folder.with_suffix(".safetensors"), size=33)
    write_unchecked(TorchEngine.load(model, device="cpu"), folder)

    def read(path: Path) -> object:
        return load_engine(str(path.parent))

    return {
        "rifenet.json": Kind(folder / "rifenet.json", read, (_json_values, damaged_bytes)),
        "decode.onnx": Kind(folder / "decode.onnx", read, (damaged_bytes,)),
    }


def _texts(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    root = Path(__file__).resolve().parents[1]
    copies = {
        "config.yaml": root / "configs/bundled_lite2_449.yaml",
        "grid.yaml": next((root / "configs/grids").glob("*.yaml")),
        "result.json": root / "docs/results/examples/result.json",
    }
    for name, source in copies.items():
        (folder / name).write_bytes(source.read_bytes())
    figures = {"figures": {name: {"median": 0.5, "units": 1.0} for name in ("unit", "query")}}
    cases = [
        {"model": "default", "size": size, "shots": 1, "batch": 1, "weights": "loaded", **figures}
        for size in (321, 449)
    ]
    bench = {"format": 1, "machine": {"cpu": "A", "threads": 2}, "settings": {"runs": 5}, "cases": cases}
    (folder / "bench.json").write_text(json.dumps(bench), encoding="utf-8")
    values = (_json_values, _json_values, damaged_bytes)
    return {
        "config.yaml": Kind(folder / "config.yaml", load_config, (_yaml_values, _yaml_values, damaged_bytes)),
        "grid.yaml": Kind(
            folder / "grid.yaml", lambda path: read_grid(path, Config()), (_yaml_values, _yaml_values, damaged_bytes)
        ),
        "result.json": Kind(
            folder / "result.json",
            lambda path: _commanded("report", str(path), "--out", str(path.with_name("report.md"))),
            values,
        ),
        "bench.json": Kind(folder / "bench.json", lambda path: compare(bench, read_bench(path)), values),
    }


def _datasets(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    folds = {0: CUSTOM_NAMES[:3], 1: CUSTOM_NAMES[3:]}
    custom = make_custom(folder / "custom", per_class=2, mixed=1, folds=folds)
    voc = make_voc(folder / "voc", per_class=2, mixed=1)
    coco = make_coco(folder / "coco", class_ids=range(1, 9), per_class=1, mixed=1)
    index = open_dataset("custom", custom)
    of_first = index.images_of(1)
    listed = folder / "episodes.json"
    listed.write_text(episodes_to_json(index, [Episode(1, of_first[0], tuple(of_first[1:2]))]), encoding="utf-8")
    return {
        "episodes.json": Kind(listed, lambda path: read_episodes(path, index), (_json_values, damaged_bytes)),
        "classes.txt": Kind(custom / "classes.txt", lambda path: open_dataset("custom", path.parent), (damaged_bytes,)),
        "folds.yaml": Kind(
            custom / "folds.yaml", lambda path: open_dataset("custom", path.parent), (_yaml_values, damaged_bytes)
        ),
        "voc list": Kind(
            voc / "ImageSets/Segmentation/train.txt", lambda _: open_dataset("pascal", voc), (damaged_bytes,)
        ),
        "instances.json": Kind(
            coco / "annotations/instances_train2017.json",
            lambda _: open_dataset("coco", coco),
            (_json_values, damaged_bytes),
        ),
    }


def _commanded(*words: str) -> None:
    """Runs a command; one that ends with a sentence is an answer as good as any."""
    if command(["--debug", *words]) not in (0, 1):
        raise AssertionError(f"rifenet {' '.join(words)} ended with wrong usage.")


def _json_values(data: bytes, rng: random.Random) -> bytes:
    return damaged_values(data, json.loads, as_json, rng)


def _yaml_values(data: bytes, rng: random.Random) -> bytes:
    return damaged_values(data, yaml.safe_load, _as_yaml, rng)


def _as_yaml(tree: Any) -> bytes:
    """The tree as YAML. Where it is nested so deep that PyYAML's writer crashes, as JSON, which is YAML, too."""
    text = as_json(tree)
    return text if b"[" * 200 in text.replace(b" ", b"") else yaml.safe_dump(tree).encode()


GROUPS: dict[str, Callable[[Path], dict[str, Kind]]] = {
    "pictures": _pictures,
    "labels": _labels,
    "models": _models,
    "exports": _exports,
    "texts": _texts,
    "datasets": _datasets,
}
"""Each writes whole files into a folder that it makes, and says how they are read."""
