"""Measures how good advice is, on photos with known masks.

    python -m benchmarks.advice shots --root union --list-file photos.txt --classes dog bus --out shots.json
    python -m benchmarks.advice next --root union --list-file photos.txt --classes dog bus --out next.json
    python -m benchmarks.advice worst --root union --list-file photos.txt --classes dog bus --out worst.json

`shots`: judges five shots of a class, first as they are, then with one mask corrupted, and counts right and wrong
warnings.
`next`: starts with one shot and adds two, by advice or at random; the score is mIoU on photos that are not candidates.
`worst`: learns one shot, and orders other photos by advice and by what the model expects of its masks; tells where in
the order of their true IoU the first photo of each order is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Draw, Values, add_draws, difference, each_picture_once, measure_draws, parser
from rifenet.advice.photos import PROBABLE, describe, look_at, ranked
from rifenet.advice.shot_agreement import MARGIN, agreement, inverted, iou, judged, predicted
from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.engines.torch import TorchEngine
from rifenet.metrics import class_iou, intersection_union, mean_interval
from rifenet.segmenting.margins import margins
from rifenet.segmenting.quality import expected_iou, signs_of
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.storage import LearnedClass, Shots

SHOTS, POOL, TEST = 5, 12, 12
SEEN = 8  # photos of a draw of `worst`
STEPS = 3  # shots, the first one included
SHIFT = 0.3  # of the photo's sides
LEAST_OTHER = 1000  # pixels of another object

Shot = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, measures and writes."""
    words = parser(__doc__)
    words.add_argument("what", choices=("shots", "next", "worst"))
    add_draws(words, draws=14)
    options = words.parse_args(argv)
    engine = TorchEngine.load(options.model, device="cpu", threads=options.threads)
    one, summarise = {
        "shots": (judge_draw, summarise_shots),
        "next": (next_draw, summarise_next),
        "worst": (worst_draw, summarise_worst),
    }[options.what]

    def measure(draw: Draw) -> Values:
        with each_picture_once(engine.model.backbone):
            return one(engine, draw)

    measure_draws(options, engine, measure, summarise, {"what": options.what, "margin": MARGIN})


def judge_draw(engine: TorchEngine, draw: Draw) -> Values:
    """Advice on five shots, then with one of them corrupted in each way that its photo allows."""
    images = draw.images[:SHOTS]
    shots = [shot_of(engine, draw, image) for image in images]
    bad = draw.rng.randrange(SHOTS)
    told = {"none": verdicts(engine, shots)}
    for kind, mask in corruptions(engine, draw, images[bad], shots[bad]):
        changed = [*shots[:bad], (shots[bad][0], mask, shots[bad][2]), *shots[bad + 1 :]]
        told[kind] = verdicts(engine, changed)
    return {"images": [draw.index.records[image].name for image in images], "corrupted": bad + 1, "advice": told}


def corruptions(engine: TorchEngine, draw: Draw, image: int, shot: Shot) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and masks. `other object` needs a second annotated object, `shifted` a mask that stays in the photo."""
    _, mask, valid = shot
    yield "inverted", inverted(mask)
    areas = draw.index.records[image].areas
    if others := [other for other in areas if other != draw.class_id and areas[other] >= LEAST_OTHER]:
        yield "other object", shot_of(engine, draw, image, draw.rng.choice(others))[1]
    shift = shifted(mask, valid, (draw.rng.choice((-1, 1)), draw.rng.choice((-1, 1))))
    if (shift == 1).any():
        yield "shifted", shift


def shifted(mask: NDArray[np.uint8], valid: NDArray[np.bool_], signs: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask moved by a share of the photo's height and width; parts outside the photo are cut off."""
    height, width = (int(valid.any(axis).sum()) for axis in (1, 0))
    rows, columns = (round(SHIFT * side) * sign for side, sign in zip((height, width), signs, strict=True))
    moved = np.full_like(mask, 255)
    moved[:height, :width] = 0
    source = mask[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)]
    top, left = max(0, rows), max(0, columns)
    moved[top : top + source.shape[0], left : left + source.shape[1]] = source
    return moved


def verdicts(engine: TorchEngine, shots: Sequence[Shot]) -> Values:
    """Warnings, verdicts and figures of the advice on shots."""
    advice = judged("", [""] * len(shots), agreement(engine, stacked(shots)))
    return {
        "warned": [each.number for each in advice if each.warns],
        "verdicts": [each.verdict for each in advice],
        "ious": [round(each.iou, 4) for each in advice],
        "gains": {each.number: round(each.gain, 4) for each in advice if each.gain is not None},
    }


def summarise_shots(draws: Sequence[Values]) -> Values:
    """Shares of corrupted draws where advice warns of the bad shot, or of it alone; of clean draws with any warning."""
    kinds = sorted({kind for draw in draws for kind in draw["advice"]} - {"none"})
    clean = [draw["advice"]["none"]["warned"] for draw in draws]
    summary: Values = {
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


def next_draw(engine: TorchEngine, draw: Draw) -> Values:
    """mIoU on test photos with 1, 2 and 3 shots, chosen by advice and in two random orders."""
    pool_size = min(POOL, (len(draw.images) - 1) // 2)
    shots = [shot_of(engine, draw, image) for image in draw.images[: 1 + pool_size + TEST]]
    first, pool, test = shots[0], shots[1 : 1 + pool_size], shots[1 + pool_size :]
    queries = [engine.encode_query(shot[0][None], shot[2][None]) for shot in test]

    def score(chosen: Sequence[Shot]) -> float:
        context = engine.encode_support(*stacked(chosen))
        counts = [
            intersection_union(predicted(engine, query, context), shot[1])
            for query, shot in zip(queries, test, strict=True)
        ]
        return float(class_iou(np.sum(counts, axis=0)))

    orders = {f"random {i}": draw.rng.sample(range(pool_size), STEPS - 1) for i in (1, 2)}
    chosen: list[int] = []
    for _ in range(STEPS - 1):
        chosen.append(advised(engine, [first, *(pool[i] for i in chosen)], pool, chosen))
    orders["advice"] = chosen
    scores = {
        name: [score([first, *(pool[i] for i in order[:step])]) for step in range(STEPS)]
        for name, order in orders.items()
    }
    return {"pool": pool_size, "test": len(test), "orders": orders, "miou": scores}


def advised(engine: TorchEngine, known: Sequence[Shot], pool: Sequence[Shot], taken: Sequence[int]) -> int:
    """The candidate that advice ranks first after learning from all shots annotated so far, as a user would."""
    inputs = stacked(known)
    learned = LearnedClass("", len(known), engine.encode_support(*inputs), inputs)
    confidence = Segmenter(engine).confidence
    left = [i for i in range(len(pool)) if i not in taken]
    found = [look_at(engine, [learned], pool[i][0], pool[i][2], str(i), i, confidence) for i in left]
    annotated = [describe(engine, shot[0], shot[2]) for shot in known]
    return ranked(found, annotated, 1)[0].number


def summarise_next(draws: Sequence[Values]) -> Values:
    """Means over draws, and advice minus random with a paired 95% bootstrap interval over draws, in points."""
    summary: Values = {"draws": len(draws)}
    for step in range(STEPS):
        advice = np.array([100 * draw["miou"]["advice"][step] for draw in draws])
        chance = np.array([100 * np.mean([draw["miou"][f"random {i}"][step] for i in (1, 2)]) for draw in draws])
        mean, *interval = difference(advice, chance)
        summary[f"{step + 1} shots"] = {
            "advice": round(float(advice.mean()), 1),
            "random": round(float(chance.mean()), 1),
            "difference": mean,
            "interval": interval,
        }
    return summary


def worst_draw(engine: TorchEngine, draw: Draw) -> Values:
    """What the model thinks of each of the photos after one shot, and how good its mask really is."""
    first, *pool = (shot_of(engine, draw, image) for image in draw.images[: 1 + SEEN])
    learned = LearnedClass("", 1, engine.encode_support(*stacked([first])), stacked([first]))
    confidence = Segmenter(engine).confidence
    found = [look_at(engine, [learned], pixels, valid, "", i, confidence) for i, (pixels, _, valid) in enumerate(pool)]
    order = [each.number for each in ranked(found, [describe(engine, first[0], first[2])], SEEN)]
    queries = [engine.encode_query(pixels[None], valid[None]) for pixels, _, valid in pool]
    qualities = [
        expected_iou(signs_of(margins(engine, query, learned.context)[0, valid]))
        for query, (_, _, valid) in zip(queries, pool, strict=True)
    ]
    photos = [
        {
            "iou": round(iou(predicted(engine, query, learned.context), mask), 4),
            "rank": order.index(look.number) + 1,
            "quality": round(quality, 4),
            **{name: round(getattr(look, name), 4) for name in ("doubt", "confidence", "area", "expected")},
        }
        for look, query, quality, (_, mask, _) in zip(found, queries, qualities, pool, strict=True)
    ]
    return {"photos": photos}


ORDERS: dict[str, Callable[[Values], float]] = {
    "advice": lambda photo: photo["rank"],
    "doubt": lambda photo: -photo["doubt"],
    "confidence": lambda photo: photo["confidence"],
    "expected": lambda photo: photo["expected"],
    "quality": lambda photo: photo["quality"],
    "quality, less where hardly there": lambda photo: -min(photo["confidence"] / PROBABLE, 1) * (1 - photo["quality"]),
}
"""What sorts the photos of a draw; the first is the one that a user sees first."""


def summarise_worst(draws: Sequence[Values]) -> Values:
    """For each order: how far from the worst the first photo's mask is, and the order's correlation with true IoU.

    `place` is 0 for the worst of a draw and 1 for the best; a random photo has 0.5. `worst` is the share of draws whose
    first photo is the worst. `correlation` is the mean of Spearman's, 1 for an order from the worst to the best.
    """
    summary: Values = {"draws": len(draws)}
    for name, key in ORDERS.items():
        places, correlations = [], []
        for draw in draws:
            ious = np.array([photo["iou"] for photo in draw["photos"]])
            keys = np.array([key(photo) for photo in draw["photos"]])
            first = ious[keys.argmin()]
            places.append(((ious < first).sum() + ((ious == first).sum() - 1) / 2) / (len(ious) - 1))
            correlations.append(float(np.corrcoef(ranks(ious), ranks(keys))[0, 1]))
        summary[name] = {
            "place": round(float(np.mean(places)), 3),
            "interval": [round(value, 3) for value in mean_interval(places)],
            "worst": share(place == 0 for place in places),
            "correlation": round(float(np.nanmean(correlations)), 3),
        }
    return summary


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    return np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])


def shot_of(engine: TorchEngine, draw: Draw, image: int, class_id: int | None = None) -> Shot:
    """A photo in the network's input format, with the mask of one class."""
    photo, mask = draw.pair(image, class_id)
    pixels, valid, placement = resize_and_pad(photo, engine.size)
    return pixels, resize_mask(mask, placement), valid


def stacked(shots: Sequence[Shot]) -> Shots:
    """Joins shots into an engine's input."""
    return Shots(*(np.stack(part) for part in zip(*shots, strict=True)))


def share(values: Iterable[bool]) -> float | None:
    """Share of true values; None without values."""
    held = [bool(value) for value in values]
    return round(sum(held) / len(held), 3) if held else None


if __name__ == "__main__":
    main()
