"""Measures whether advice is worth following, on photos with known masks.

    python scripts/measure_advice.py shots --root union --list-file photos.txt --classes dog bus --out shots.json
    python scripts/measure_advice.py next --root union --list-file photos.txt --classes dog bus --out next.json

`shots`: five shots of a class, as they are and with one of them corrupted; how often advice warns, and of which.
`next`: from one shot, the next two by advice and at random; mIoU on photos that were no candidates.
Written after each draw, so a run that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rifenet.advice.photos import describe, look_at, ranked
from rifenet.advice.shots import MARGIN, agreement, inverted, judged, predicted
from rifenet.data.episodes import binary_mask, load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.engines import Context
from rifenet.engines.torch import TorchEngine
from rifenet.files import write_text
from rifenet.metrics import class_iou, intersection_union, mean_interval
from rifenet.models import Features, aligned_resize
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.storage import LearnedClass, Shots

SHOTS, POOL, TEST = 5, 12, 12
STEPS = 3  # shots, the first one included
SHIFT = 0.3  # of the photo's sides
LEAST_OTHER = 1000  # pixels of another object

Shot = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]


class CachedEngine(TorchEngine):
    """The engine, with the backbone's features of each photo and each decoding kept: the same numbers, sooner."""

    def __init__(self, engine: TorchEngine) -> None:
        self.__dict__.update(engine.__dict__)
        self._features: dict[bytes, Features] = {}
        self._decoded: dict[tuple[bytes, bytes], NDArray[np.float32]] = {}

    @torch.inference_mode()
    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        """Learns a class."""
        levels = zip(*(self._of(image)[1] for image in images), strict=True)
        features = Features(*(torch.cat(level)[None] for level in levels))
        context = self.model.encode_support(features, torch.from_numpy(masks)[None], torch.from_numpy(valid)[None])
        return {name: field.numpy() for name, field in context._asdict().items()}

    @torch.inference_mode()
    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        """Encodes images, each under the digest of its pixels."""
        return [
            (key, self.model.encode_query(features, torch.from_numpy(valid[i : i + 1])))
            for i, (key, features) in enumerate(map(self._of, images))
        ]

    @torch.inference_mode()
    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        """Segments one class."""
        taught = _digest(*context.values())
        found = []
        for key, part in features:
            if (key, taught) not in self._decoded:
                logits = self.model.decode(part, self._context(*map(torch.from_numpy, context.values())))
                self._decoded[key, taught] = logits.numpy()
            found.append(aligned_resize(torch.from_numpy(self._decoded[key, taught]), (self.size, self.size)).numpy())
        return np.concatenate(found)

    def _of(self, image: NDArray[np.float32]) -> tuple[bytes, Features]:
        key = _digest(image)
        if key not in self._features:
            self._features[key] = self.model.backbone(torch.from_numpy(np.ascontiguousarray(image))[None])
        return key, self._features[key]


def main() -> None:
    """Draws, measures and writes."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    index = open_dataset("custom", options.root, list_file=options.list_file, part="val", progress=False)
    engine = TorchEngine.load(options.model, device="cpu")
    numbers = {index.class_name(id): id for id in range(1, len(index.class_names) + 1)}
    draws: list[dict[str, Any]] = []
    for number in range(options.draws):
        name = options.classes[number % len(options.classes)]
        rng = random.Random(f"{options.seed} {number}")
        images = list(index.images_of(numbers[name], options.min_area))
        rng.shuffle(images)
        one = judge_draw if options.what == "shots" else next_draw
        draws.append({"class": name, **one(CachedEngine(engine), index, numbers[name], images, rng)})
        summary = summarise_shots(draws) if options.what == "shots" else summarise_next(draws)
        record = {
            "what": options.what,
            "model": {"name": engine.name, "hash": engine.hash},
            "dataset": index.hash,
            "classes": options.classes,
            "seed": options.seed,
            "min_area": options.min_area,
            "margin": MARGIN,
            "summary": summary,
            "draws": draws,
        }
        write_text(options.out, json.dumps(record, indent=1) + "\n")
        print(number + 1, name, json.dumps(summary), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("shots", "next"))
    parser.add_argument("--root", required=True, help="a custom dataset")
    parser.add_argument("--list-file", default="", help="image names to use")
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--draws", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-area", type=int, default=2048)
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def judge_draw(
    engine: CachedEngine, index: ImageIndex, class_id: int, images: list[int], rng: random.Random
) -> dict[str, Any]:
    """Advice on five shots, then with one of them corrupted in each way that its photo allows."""
    shots = [shot_of(engine, index, image, class_id) for image in images[:SHOTS]]
    bad = rng.randrange(SHOTS)
    told = {"none": verdicts(engine, shots)}
    for kind, mask in corruptions(engine, index, images[bad], class_id, shots[bad], rng):
        changed = [*shots[:bad], (shots[bad][0], mask, shots[bad][2]), *shots[bad + 1 :]]
        told[kind] = verdicts(engine, changed)
    return {"images": [index.records[image].name for image in images[:SHOTS]], "corrupted": bad + 1, "advice": told}


def corruptions(
    engine: CachedEngine, index: ImageIndex, image: int, class_id: int, shot: Shot, rng: random.Random
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and masks; a photo without another annotated object has no `other`, and one shifted out no `shifted`."""
    _, mask, valid = shot
    yield "inverted", inverted(mask)
    areas = index.records[image].areas
    if others := [other for other in areas if other != class_id and areas[other] >= LEAST_OTHER]:
        yield "other object", shot_of(engine, index, image, rng.choice(others))[1]
    shift = shifted(mask, valid, (rng.choice((-1, 1)), rng.choice((-1, 1))))
    if (shift == 1).any():
        yield "shifted", shift


def shifted(mask: NDArray[np.uint8], valid: NDArray[np.bool_], signs: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask moved by a share of the photo's height and width; what leaves the photo is lost."""
    height, width = (int(valid.any(axis).sum()) for axis in (1, 0))
    rows, columns = (round(SHIFT * side) * sign for side, sign in zip((height, width), signs, strict=True))
    moved = np.full_like(mask, 255)
    moved[:height, :width] = 0
    source = mask[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)]
    top, left = max(0, rows), max(0, columns)
    moved[top : top + source.shape[0], left : left + source.shape[1]] = source
    return moved


def verdicts(engine: CachedEngine, shots: Sequence[Shot]) -> dict[str, Any]:
    """What advice says of shots, without the words."""
    advice = judged("", [""] * len(shots), agreement(engine, stacked(shots)))
    return {
        "warned": [each.number for each in advice if each.warns],
        "verdicts": [each.verdict for each in advice],
        "ious": [round(each.iou, 4) for each in advice],
        "gains": {each.number: round(each.gain, 4) for each in advice if each.gain is not None},
    }


def summarise_shots(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares: of corrupted draws in which the right shot is warned of, also as the only one; of clean ones with any."""
    kinds = sorted({kind for draw in draws for kind in draw["advice"]} - {"none"})
    clean = [draw["advice"]["none"]["warned"] for draw in draws]
    summary: dict[str, Any] = {
        "none": {
            "draws": len(clean),
            "any_warning": share(bool(warned) for warned in clean),
            "shots_warned": share(number in warned for warned in clean for number in range(1, SHOTS + 1)),
        }
    }
    for kind in kinds:
        told = [(draw["corrupted"], draw["advice"][kind]["warned"]) for draw in draws if kind in draw["advice"]]
        summary[kind] = {
            "draws": len(told),
            "named": share(bad in warned for bad, warned in told),
            "only_it": share(warned == [bad] for bad, warned in told),
        }
    return summary


def next_draw(
    engine: CachedEngine, index: ImageIndex, class_id: int, images: list[int], rng: random.Random
) -> dict[str, Any]:
    """mIoU on test photos with 1, 2, 3 shots: by advice, and by two random orders."""
    pool_size = min(POOL, (len(images) - 1) // 2)
    shots = [shot_of(engine, index, image, class_id) for image in images[: 1 + pool_size + TEST]]
    first, pool, test = shots[0], shots[1 : 1 + pool_size], shots[1 + pool_size :]
    queries = [engine.encode_query(shot[0][None], shot[2][None]) for shot in test]

    def score(chosen: Sequence[Shot]) -> float:
        context = engine.encode_support(*stacked(chosen))
        counts = [
            intersection_union(predicted(engine, query, context), shot[1])
            for query, shot in zip(queries, test, strict=True)
        ]
        return float(class_iou(np.sum(counts, axis=0)))

    orders = {f"random {i}": rng.sample(range(pool_size), STEPS - 1) for i in (1, 2)}
    chosen: list[int] = []
    for _ in range(STEPS - 1):
        chosen.append(advised(engine, [first, *(pool[i] for i in chosen)], pool, chosen))
    orders["advice"] = chosen
    scores = {
        name: [score([first, *(pool[i] for i in order[:step])]) for step in range(STEPS)]
        for name, order in orders.items()
    }
    return {"pool": pool_size, "test": len(test), "orders": orders, "miou": scores}


def advised(engine: CachedEngine, known: Sequence[Shot], pool: Sequence[Shot], taken: Sequence[int]) -> int:
    """The candidate that advice names first, learned anew with what is annotated so far, as a user would."""
    inputs = stacked(known)
    learned = LearnedClass("", len(known), engine.encode_support(*inputs), inputs)
    confidence = Segmenter(engine).confidence
    left = [i for i in range(len(pool)) if i not in taken]
    found = [look_at(engine, [learned], pool[i][0], pool[i][2], str(i), i, confidence) for i in left]
    annotated = [describe(engine, shot[0], shot[2]) for shot in known]
    return ranked(found, annotated, 1)[0].number


def summarise_next(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over draws, and advice minus random with its paired 95% bootstrap interval over draws, in points."""
    summary: dict[str, Any] = {"draws": len(draws)}
    for step in range(STEPS):
        advice = np.array([draw["miou"]["advice"][step] for draw in draws])
        chance = np.array([np.mean([draw["miou"][f"random {i}"][step] for i in (1, 2)]) for draw in draws])
        low, high = mean_interval(advice - chance)
        summary[f"{step + 1} shots"] = {
            "advice": round(100 * float(advice.mean()), 1),
            "random": round(100 * float(chance.mean()), 1),
            "difference": round(100 * float((advice - chance).mean()), 1),
            "interval": [round(100 * float(low), 1), round(100 * float(high), 1)],
        }
    return summary


def shot_of(engine: CachedEngine, index: ImageIndex, image: int, class_id: int) -> Shot:
    """A photo as the network takes it, with the mask of one class."""
    photo, mask = load_pair(index, image)
    pixels, valid, placement = resize_and_pad(photo, engine.size)
    return pixels, resize_mask(binary_mask(mask, index.records[image].value(class_id)), placement), valid


def stacked(shots: Sequence[Shot]) -> Shots:
    """Shots as an engine takes them."""
    return Shots(*(np.stack(part) for part in zip(*shots, strict=True)))


def share(values: Iterable[bool]) -> float | None:
    """Of those that are true; None of none."""
    held = [bool(value) for value in values]
    return round(sum(held) / len(held), 3) if held else None


def _digest(*arrays: NDArray[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


if __name__ == "__main__":
    main()
