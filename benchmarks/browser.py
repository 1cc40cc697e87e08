"""Compares the time of a photo in the browser with the server's, in a real Chromium, as JSON.

    rifenet export --out exports/float32 && rifenet export --int8 --out exports/int8
    python -m benchmarks.browser --runtime build/onnxruntime-web --exports exports --out docs/results/browser.json

A page learns two classes of the bundled example photos and segments one photo: by its own worker, with ONNX Runtime
Web, and by a request to the server that it is of. Both times are the page's, from the photo's file to the mask and
all that is said of it. Three servers take turns with the browser, photo by photo: over the export in 8 bits, over
that in float32, and over torch, as `rifenet serve` runs without an export. Each is a process of its own, and only one
of them works at a time.

The masks of the browser are compared with the server's over the same export, on six photos.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.common import Values, parser, write_record
from rifenet.bench.measure import machine, quartiles

CLASSES = 2
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

WORDS = {
    "browser int8": "browser, 8 bits",
    "server int8": "server, 8 bits",
    "browser float32": "browser, float32",
    "server float32": "server, float32",
    "server torch": "server, torch: `rifenet serve`",
}

LEARN = """async () => {
  const { addSample } = await import("/static/sample.js"), { lesson, teach } = await import("/static/jobs.js");
  await addSample();
  await teach(lesson());
  return (await (await fetch("/api/classes")).json()).classes.length;
}"""
ONE = """async ([number, here, plain]) => {
  const { prepare } = await import("/static/here.js"), { lesson, predict } = await import("/static/jobs.js");
  const { photosOf, project } = await import("/static/project.js"), photo = photosOf("query")[number];
  const taught = lesson();
  if (plain) Object.assign(taught.options, { tiles: "no", refine: "no" });
  project.here = here;
  if (here) await prepare(undefined, { begin() {} });
  const start = performance.now(), { labels } = await predict(photo, taught);
  const seconds = (performance.now() - start) / 1000;
  project.here = false;
  return { seconds, name: photo.name, width: photo.width, height: photo.height, labels: [...labels.data] };
}"""
FACTS = """async () => ({
  isolated: crossOriginIsolated,
  cores: navigator.hardwareConcurrency,
})"""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the record to OUT."""
    words = parser(__doc__, threads=2)
    words.add_argument("--runtime", type=Path, required=True, help="folder of ONNX Runtime Web")
    words.add_argument("--exports", type=Path, required=True, help="folder with the exports float32 and int8")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--warmup", type=int, default=2)
    options = words.parse_args(argv)
    record = measure(options)
    write_record(options.out, record)
    print(record["seconds"], record["ratios"], record["masks"], sep="\n")


def measure(options: argparse.Namespace) -> Values:
    """The record: times by way, ratios, and agreement of the masks."""
    with contextlib.ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        path = next(found for name in CHROMIUM if (found := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages: dict[str, Page] = {}
        for name in ("int8", "float32"):
            folder = options.exports / name
            address = stack.enter_context(serving(options.threads, "--model", folder, "--in-browser", options.runtime))
            pages[name] = opened(browser, address)
        pages["torch"] = opened(browser, stack.enter_context(serving(options.threads)))
        facts = pages["int8"].evaluate(FACTS)
        taken = seconds(pages, options)
        masks = {name: agreement(pages[name]) for name in ("int8", "float32")}
        version = browser.version
        browser.close()
    return {
        "machine": machine(torch.device("cpu")),
        "browser": {"name": "Chromium", "version": version, "headless": True, **facts},
        "threads": options.threads,
        "classes": CLASSES,
        "rounds": options.rounds,
        "seconds": taken,
        "ratios": {label: ratios(own) for label, own in taken.items()},
        "masks": masks,
    }


@contextlib.contextmanager
def serving(threads: int, *options: object) -> Iterator[str]:
    """Address of `rifenet serve` in a process of its own."""
    command = [sys.executable, "-m", "rifenet", "serve", "--port", "0", "--seconds", "600", "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([*command, *map(str, options)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+(?=/)", process.stdout.readline())
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def opened(browser: Browser, address: str) -> Page:
    """The page of a server, in a profile of its own, with the classes learned."""
    page = browser.new_context().new_page()
    page.set_default_timeout(600_000)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    learned = page.evaluate(LEARN)
    assert learned == CLASSES
    return page


def seconds(pages: dict[str, Page], options: argparse.Namespace) -> Values:
    """Quartiles of each way, the options left to the examples, and without tiles and edges."""
    ways = {
        "browser int8": ("int8", True),
        "server int8": ("int8", False),
        "browser float32": ("float32", True),
        "server float32": ("float32", False),
        "server torch": ("torch", False),
    }
    taken: dict[str, dict[str, list[float]]] = {}
    for label, plain in (("as the examples need it", False), ("whole photo, smooth edges", True)):
        own: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(options.warmup + options.rounds):
            for way, (name, here) in ways.items():
                found = pages[name].evaluate(ONE, [0, here, plain])
                if number >= options.warmup:
                    own[way].append(found["seconds"])
        taken[label] = own
    return {label: {way: quartiles(values) for way, values in own.items()} for label, own in taken.items()}


def ratios(taken: Values) -> Values:
    """How many times the server's median the browser's is, over the same export and over torch."""
    return {
        f"browser {name} over server {other}": taken[f"browser {name}"]["median"] / taken[f"server {other}"]["median"]
        for name in ("int8", "float32")
        for other in (name, "torch")
    }


def agreement(page: Page, photos: int = 6) -> Values:
    """How much browser and server agree: of the pixels with a class in either mask, the share with the same in both."""
    shares, differing, pixels = [], 0, 0
    for number in range(photos):
        one, other = (np.array(page.evaluate(ONE, [number, here, False])["labels"]) for here in (True, False))
        either = (one > 0) | (other > 0)
        shares.append(float((one == other)[either].mean()) if either.any() else 1.0)
        differing += int((one != other).sum())
        pixels += one.size
    return {"photos": photos, "least_agreement": min(shares), "differing_pixels": differing / pixels}


def table(record: Values) -> list[str]:
    """The page's table: median seconds of a photo."""
    rows = ["| who segments | as the examples need it | whole photo, smooth edges |", "|---|---|---|"]
    for way in record["seconds"]["whole photo, smooth edges"]:
        cells = [f"{own[way]['median']:.2f} s" for own in record["seconds"].values()]
        rows.append(f"| {WORDS[way]} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()
