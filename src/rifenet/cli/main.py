"""`rifenet COMMAND ...`: finds the command, and turns what goes wrong into one sentence and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from rifenet import __version__

COMMANDS = {
    "demo": ("rifenet.cli.demo", "learn and segment the photos that ship with the program, and write a report"),
    "segment": ("rifenet.cli.segment", "learn classes from annotated photos and segment other photos"),
    "advise": ("rifenet.cli.advise", "which annotated photo hurts, and which photos to annotate next"),
    "serve": ("rifenet.cli.serve", "the page and the HTTP API"),
    "data": ("rifenet.cli.data", "scan a dataset, or show its episodes"),
    "train": ("rifenet.cli.train", "meta-train a model; resumes by itself"),
    "evaluate": ("rifenet.cli.evaluate", "score a model on novel classes"),
    "ablate": ("rifenet.cli.ablate", "train and score the rows of a grid; one table with paired intervals"),
    "report": ("rifenet.cli.report", "turn results into tables, published figures beside ours"),
    "export": ("rifenet.cli.export", "a model as ONNX graphs, which run without torch"),
    "bench": ("rifenet.cli.bench", "this machine's times and memory, as JSON and a table"),
    "info": ("rifenet.cli.info", "versions, devices and the model's card"),
}
"""Command -> (module with `main(argv) -> int`, what it does)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command: 0 done, 1 failed (a sentence on stderr; with `--debug` the traceback), 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"rifenet {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1) or list(COMMANDS)
        return _fail("rifenet", f"Expected a command, but got {command!r}. Did you mean {' or '.join(close)}?", 2)
    try:
        code = int(import_module(COMMANDS[command][0]).main(rest))
        sys.stdout.flush()
        return code
    except SystemExit as exit:  # argparse: 0 after --help, 2 after a wrong option
        return exit.code if isinstance(exit.code, int) else 1
    except KeyboardInterrupt:
        return _fail(f"rifenet {command}", "Interrupted. What was written before is complete.", 130)
    except BrokenPipeError:  # `rifenet info | head -1`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        return 1
    except Exception as error:
        if debug:
            raise
        return _fail(f"rifenet {command}", _sentence(error), 1)


def entry() -> None:
    """The installed `rifenet`."""
    sys.exit(main())


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rifenet COMMAND ... [--debug]",
            "",
            "Few-shot segmentation: learn a class from a few annotated photos, find it in others.",
            "",
            *lines,
            "",
            "rifenet COMMAND --help says more, with an example; rifenet --version tells the version.",
        ]
    )


def _sentence(error: Exception) -> str:
    """What the user can do something about, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}. Run it again with --debug to see where."


def _fail(program: str, sentence: str, code: int) -> int:
    print(f"{program}: {sentence}", file=sys.stderr)
    return code
