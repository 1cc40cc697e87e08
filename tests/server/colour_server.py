"""A server over the colour engine, as a program of its own: `python colour_server.py` prints its address.

The first argument holds its limits, the second, if there is one, how many files it may have open.
"""

from __future__ import annotations

import json
import sys

from colour_engine import ColourEngine

from rifenet.server.limits import Limits
from rifenet.server.run import serve

if __name__ == "__main__":
    if len(sys.argv) > 2:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
    serve(
        ColourEngine(),
        port=0,
        limits=Limits(**json.loads(sys.argv[1])),
        ready=lambda address: print(address, flush=True),
    )
