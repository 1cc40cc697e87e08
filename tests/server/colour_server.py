"""A server over the colour engine, as a program of its own: `python colour_server.py` prints its address."""

from __future__ import annotations

import json
import sys

from colour_engine import ColourEngine

from rifenet.server.limits import Limits
from rifenet.server.run import serve

if __name__ == "__main__":
    serve(
        ColourEngine(),
        port=0,
        limits=Limits(**json.loads(sys.argv[1])),
        ready=lambda address: print(address, flush=True),
    )
