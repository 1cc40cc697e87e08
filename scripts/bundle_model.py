"""Makes the file that ships with the program out of a run.

    python scripts/bundle_model.py RUN src/rifenet/weights/default.safetensors

The frozen backbone goes in, weights in float16; the auxiliary head, which only training uses, stays out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rifenet.checkpoint import save_model
from rifenet.hub import load_model


def main(run: str, out: str) -> None:
    """Writes `out` and says how large it is."""
    model = load_model(run)
    save_model(model, out, model.metadata, with_backbone=True)
    print(f"{out}: {Path(out).stat().st_size / 1e6:.1f} MB, of step {model.metadata['step']} of {run}")


if __name__ == "__main__":
    main(*sys.argv[1:])
