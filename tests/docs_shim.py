"""Stands for the programs that the shell blocks of the documentation call, so that a test can run them as they are.

    python docs_shim.py PROGRAM ARGUMENT ...

The rules, all of them:

- `rifenet train`, `evaluate`, `ablate` and `bench` get the words of `SHORTER` at their end, also under `torchrun`: two
  small steps, three episodes, unless a list of episodes is given. All other commands of `rifenet` run as written.
- `rifenet serve` starts on a free port, in the background, and is left running until the next one or the page's end.
- `pip install` installs nothing: each name must be this package (`rifenet`, or `.` in a clone) with extras that it
  has, or be pinned in constraints.txt.
- `make` says what it would do (`make -n`) in the repository, which fails for a target that is not there.
- `python -m venv` makes the environment without pip.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATE = "RIFENET_DOCS_STATE"
"""Environment variable: the folder in which `serve` leaves its process id (`server.pid`) and port (`server.port`)."""

PATH = "RIFENET_DOCS_PATH"
"""Environment variable: the path without the stand-ins."""

_STEPS = (
    "--train.steps",
    "2",
    "--train.batch_size",
    "2",
    "--train.validate_every",
    "2",
    "--train.validate_episodes",
    "2",
)
_SMALL = ("--data.image_size", "97", "--data.holdout", "0.4", "--data.workers", "0", "--data.cache_dir", "")
SHORTER = {
    "train": (*_STEPS, *_SMALL),
    "ablate": (*_STEPS, *_SMALL, "--eval.episodes", "3", "--eval.partial", "true", "--folds", "2", "--seeds", "0"),
    "evaluate": ("--episodes", "3", "--partial", "--seeds", "0"),
    "bench": ("--runs", "1", "--warmup", "0"),
}


def main(words: list[str]) -> int:
    """Runs one program; its exit status."""
    program, *arguments = words
    os.environ["PATH"] = os.environ[PATH]  # what this starts is the real thing
    if program == "pip":
        return pip(arguments)
    if program == "make":
        return subprocess.run(["make", "-n", "-C", str(ROOT), *arguments]).returncode
    if program == "rifenet" and arguments[:1] == ["serve"]:
        return serve(arguments)
    if program == "rifenet":
        return python(["-m", "rifenet", *arguments])
    if program == "torchrun":
        return python(["-m", "torch.distributed.run", "--standalone", *arguments])
    return python(arguments)


def python(arguments: list[str]) -> int:
    """Runs Python in place of this process."""
    if arguments[:2] == ["-m", "venv"]:
        arguments = [*arguments, "--without-pip"]
    if "rifenet" in arguments and (command := arguments[arguments.index("rifenet") + 1 :][:1]):
        listed = command[0] == "evaluate" and "--episodes-from" in arguments
        arguments = [*arguments, *(() if listed else SHORTER.get(command[0], ()))]
    os.execv(sys.executable, [sys.executable, *arguments])


def pip(arguments: list[str]) -> int:
    """0 where every package named exists for us."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()}
    for word in arguments[1:]:
        own = re.fullmatch(r"(?:rifenet|\.)(?:\[([\w,]+)\])?", word)
        known = (
            set((own[1] or "").split(",")) - {""} <= project["optional-dependencies"].keys() if own else word in pinned
        )
        if arguments[0] != "install" or not known:
            print(f"Expected `pip install` of this package or of a pinned one, but got {word}.", file=sys.stderr)
            return 1
    return 0


def serve(arguments: list[str]) -> int:
    """Starts the server and returns once it answers."""
    state = Path(os.environ[STATE])
    stop(state)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (state / "server.log").open("w") as log:
        command = [sys.executable, "-m", "rifenet", *arguments, "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    (state / "server.pid").write_text(str(process.pid))
    (state / "server.port").write_text(str(port))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        said = (state / "server.log").read_text()
        if "open http://" in said:
            print(said)
            return 0
        time.sleep(0.05)
    print((state / "server.log").read_text(), file=sys.stderr)
    return 1


def stop(state: Path) -> None:
    """Ends the server that `serve` left running, if there is one."""
    pid = state / "server.pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):  # it ended by itself; what needed it has said so
            os.kill(int(pid.read_text()), signal.SIGTERM)
        pid.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
