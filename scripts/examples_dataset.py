"""Writes the example photos as a custom dataset with all classes in fold 0; the bundled model saw none of them.

    python scripts/examples_dataset.py examples
    rifenet evaluate --model default --baseline --dataset custom --root examples --fold 0 --episodes 200 --seeds 0
    rifenet report result.json --strips default --root examples --out report.md

Their licences allow showing these photos (`src/rifenet/examples/ATTRIBUTION.md`), so the documentation shows strips of
them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rifenet.examples.samples import load_examples


def main() -> None:
    """Writes images/, masks/, classes.txt and folds.yaml into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    classes, examples = load_examples()
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for example in examples:
        shutil.copy(example.image, out / "images")
        shutil.copy(example.mask, out / "masks")
    (out / "classes.txt").write_text("\n".join(classes) + "\n")
    (out / "folds.yaml").write_text(f"0: [{', '.join(classes)}]\n")
    print(f"{out}: {len(examples)} photos of {', '.join(classes)}")


if __name__ == "__main__":
    main()
