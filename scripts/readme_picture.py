"""Draws the README's picture: one annotated photo of each class, and the bundled model's masks of three others.

    python scripts/readme_picture.py docs/images/demo.jpg docs/results/picture.json

`ROWS` names the photos. They ship with the program, and the model saw neither them nor their classes. The JSON holds
the IoU of each mask with the truth; the picture and the README's caption repeat it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE, Segmenter
from rifenet.drawing.visualize import contact_sheet, overlay, strip
from rifenet.examples.samples import Example, load_examples
from rifenet.files import write_bytes
from rifenet.formats.pictures import load_image, load_mask
from rifenet.metrics import class_iou, intersection_union

ROWS = {
    "bear": ("000000519611", ("000000318080", "000000353072", "000000249346")),
    "pizza": ("000000092660", ("000000106497", "000000121647", "000000359219")),
}
"""Class -> its annotated photo, and the photos to segment."""

COLOURS = {"bear": 2, "pizza": 6}  # colours of the mask palette that stand out in these photos
HEIGHT = 190


def main() -> None:
    """Writes the picture and the figures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("figures", type=Path)
    arguments = parser.parse_args()
    classes, examples = load_examples()
    photos = {example.image.stem: example for example in examples}
    rows, figures = [], {}
    for name, (support, queries) in ROWS.items():
        class_id = classes.index(name) + 1
        segmenter = Segmenter.from_pretrained()
        shot, mask = photos[support], own_mask(photos[support], class_id)
        segmenter.learn(name, images=[shot.image], masks=[mask])
        panels = [tinted(load_image(shot.image), mask, name)]
        captions = [f"annotated: {name}"]
        figures[name] = {"annotated": support, "iou": {}}
        for query in queries:
            result = segmenter.segment(photos[query].image)
            iou = float(class_iou(intersection_union(result.mask, own_mask(photos[query], class_id))))
            figures[name]["iou"][query] = round(iou, 4)
            panels.append(tinted(result.image, result.mask, name))
            captions.append(f"found, IoU {iou:.2f}")
        rows.append(strip(panels, captions, height=HEIGHT))
    contact_sheet(rows).save(arguments.picture, quality=88)
    content = {
        "written_by": "scripts/readme_picture.py",
        "model": {"name": segmenter.engine.name, "weights_hash": segmenter.engine.weights_hash},
        "classes": figures,
    }
    write_bytes(arguments.figures, (json.dumps(content, indent=1) + "\n").encode())
    print(json.dumps(figures))


def own_mask(example: Example, class_id: int) -> NDArray[np.uint8]:
    """The mask of one class: 1 for the class, 255 for ignored pixels, 0 for all others."""
    mask = load_mask(example.mask)
    return np.where(mask == IGNORE, IGNORE, mask == class_id).astype(np.uint8)


def tinted(image: NDArray[np.uint8], mask: NDArray[np.uint8], name: str) -> Image.Image:
    """The photo with the mask drawn in the colour of class `name`."""
    return overlay(image, ((mask == 1) * COLOURS[name]).astype(np.uint8), opacity=0.45)


if __name__ == "__main__":
    main()
