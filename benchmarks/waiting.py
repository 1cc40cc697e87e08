"""Measures what users wait for with the bundled model, and other programs beside it, in units.

    python -m benchmarks.waiting --out docs/results/waiting.json
    python -m benchmarks.waiting --cpu --threads 1 --only photo five_classes --out docs/results/waiting.json

All tasks take turns in one process with the unit of `benchmarks.performance`: one plain forward of ResNet-50 on one 473
px image. A photo is decoded, segmented and scaled back; a class is learned with what a fit costs by default. The other
programs have random weights, which do not change the work, and encode one photo at their own sizes.

`--cpu` counts the seconds that the processor works for this process, and not those on the clock. With one thread both
are the same on an idle machine, and on a busy one the former hardly change.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Values, parser, write_record
from benchmarks.performance import CPU, plain, resnet50
from rifenet.bench.measure import figures, machine, measure, timed, unit
from rifenet.examples.samples import Example, load_examples
from rifenet.formats.pictures import load_image
from rifenet.segmenting.segmenter import Segmenter

Call = Callable[[], Any]
SHOTS = (1, 5)


def ours(threads: int) -> dict[str, Call]:
    """The bundled model's tasks by name."""
    names, examples = load_examples()
    shown = [each for each in examples if each.support][: len(names)]
    photo = load_image(next(each.image for each in examples if not each.support))
    several = Segmenter.from_pretrained(device="cpu", threads=threads)
    for each in shown:
        several.learn(each.classes[0], *([part] for part in _shot(each, names)), fit=False)
    one, learner = Segmenter(several.engine), Segmenter(several.engine)
    image, mask = _shot(shown[0], names)
    one.learn("it", [image], [mask], fit=False)

    def learn(shots: int, fit: bool) -> Call:
        moved = [[np.roll(part, 37 * number, 1) for number in range(shots)] for part in (image, mask)]
        return lambda: learner.learn("it", *moved, replace=True, fit=fit)

    return {
        "photo": lambda: one.segment(photo).mask,
        "five_classes": lambda: several.segment(photo, keep_absent=True).mask,
        "tiles_refined": lambda: one.segment(photo, tiles=True, refine=True, keep_absent=True).mask,
        **{f"learn_{shots}_without_fit": learn(shots, False) for shots in SHOTS},
        **{f"learn_{shots}": learn(shots, True) for shots in SHOTS},
    }


def _shot(example: Example, names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    number = names.index(example.classes[0]) + 1
    with Image.open(example.mask) as stored:
        return load_image(example.image), (np.asarray(stored) == number).astype(np.uint8)


def others() -> dict[str, Callable[[], Call]]:
    """What makes the task of each other program, which encodes one photo (SegGPT: segments it by one shot)."""
    import transformers as hf

    def encoder(kind: Any, config: Any, side: int) -> Callable[[], Call]:
        def make() -> Call:
            network, image = kind(config).eval(), torch.rand(1, 3, side, side)
            return lambda: network(image)

        return make

    def seggpt() -> Call:
        network = hf.SegGptForImageSegmentation(hf.SegGptConfig()).eval()
        image, pair = torch.rand(1, 3, 448, 448), torch.rand(1, 3, 448, 448)
        return lambda: network(pixel_values=image, prompt_pixel_values=image, prompt_masks=pair)

    small = hf.Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, patch_size=14, image_size=518)
    return {
        "dinov2_small_518": encoder(hf.Dinov2Model, small, 518),
        "sam2_tiny_encoder_1024": encoder(hf.Sam2VisionModel, hf.Sam2VisionConfig(), 1024),
        "sam_base_encoder_1024": encoder(hf.SamVisionModel, hf.SamVisionConfig(), 1024),
        "seggpt_448": seggpt,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the tasks, and writes the record after each of the other programs."""
    words = parser(__doc__, threads=2)
    words.add_argument("--runs", type=int, default=10, help="rounds of the bundled model's tasks")
    words.add_argument("--others", type=int, default=3, help="rounds beside each other program; 0 leaves them out")
    words.add_argument("--only", nargs="+", default=[], help="some of the bundled model's tasks")
    words.add_argument("--cpu", action="store_true", help="count the processor's seconds; takes --threads 1")
    options = words.parse_args(argv)
    if options.cpu and options.threads != 1:
        raise ValueError(f"Expected --threads 1 with --cpu, but got {options.threads}: threads' seconds would add up.")
    torch.set_num_threads(options.threads)
    now = time.process_time if options.cpu else time.perf_counter
    case, network = resnet50()
    one_pass, calls = unit(network, case, CPU), ours(options.threads)
    chosen = {name: calls[name] for name in options.only or calls}
    record: Values = {"settings": settings(options), "machine": machine(CPU), "others": {}}
    record["figures"] = in_turns({"unit": one_pass, **chosen}, options.runs, now)
    write_record(options.out, record)
    print(
        {name: round(figure.get("units", figure.get("value")), 3) for name, figure in record["figures"].items()},
        flush=True,
    )
    for name, make in others().items() if options.others else ():
        call = torch.inference_mode()(make())
        record["others"][name] = in_turns({"unit": one_pass, "photo": calls["photo"], name: call}, options.others, now)
        write_record(options.out, record)
        print(name, round(record["others"][name][name]["units"], 2), flush=True)
        del call
        gc.collect()


def in_turns(calls: dict[str, Call], runs: int, now: Callable[[], float]) -> Values:
    """Medians, quartiles and units of the calls, one after the other in each round, and their ratios to a photo."""
    found = figures(measure([timed(name, call, now) for name, call in calls.items()], range(runs + 1), 1))
    if "photo" in found:
        photo = found["photo"]["median"]
        found |= plain({f"{name}_over_photo": found[name]["median"] / photo for name in calls if name != "photo"})
    return found


def settings(options: argparse.Namespace) -> Values:
    """How it was measured."""
    clock = "seconds of the processor" if options.cpu else "seconds"
    return {"clock": clock, "threads": options.threads, "runs": options.runs, "others": options.others}


if __name__ == "__main__":
    main()
