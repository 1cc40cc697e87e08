"""`rifenet COMMAND ...`: runs a command, and turns an error into one sentence and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from rifenet import __version__

COMMANDS = {
    "demo": ("rifenet.cli.demo", "try the program on bundled photos, and write a report"),
    "segment": ("rifenet.cli.segment", "learn classes from annotated photos and segment other photos"),
    "advise": ("rifenet.cli.advise", "warn of annotated photos that hurt, and suggest photos to annotate next"),
    "serve": ("rifenet.cli.serve", "serve the web page and the HTTP API"),
    "data": ("rifenet.cli.data", "count what a dataset holds, or draw its episodes"),
    "train": ("rifenet.cli.train", "meta-train a model; the same command resumes a stopped run"),
    "evaluate": ("rifenet.cli.evaluate", "score a model on novel classes"),
    "ablate": ("rifenet.cli.ablate", "train and score each row of a grid, and compare the rows in one table"),
    "report": ("rifenet.cli.report", "turn result files into tables, with published figures beside them"),
    "export": ("rifenet.cli.export", "write a model as ONNX graphs, which run without torch"),
    "bench": ("rifenet.cli.bench", "measure times and memory on this machine"),
    "info": ("rifenet.cli.info", "show versions, devices and the model's card"),
}
"""Command -> (module with `main(argv) -> int`, summary for `--help`)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, and returns 0 (done), 1 (failed) or 2 (wrong usage).

    A failure prints one sentence on stderr. With `--debug` it raises, so that Python prints the traceback.
    """
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
        return _fail(f"rifenet {command}", "Interrupted. The files written so far are complete.", 130)
    except BrokenPipeError:  # `rifenet info | head -1`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        return 1
    except Exception as error:
        if debug:
            raise
        return _fail(f"rifenet {command}", _sentence(error), 1)


def entry() -> None:
    """The program `rifenet`, as installed."""
    sys.exit(main())


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rifenet COMMAND ... [--debug]",
            "",
            "Few-shot segmentation: learn a class from a few annotated photos, and segment it in others.",
            "",
            *lines,
            "",
            "rifenet COMMAND --help lists the options, with an example. rifenet --version prints the version.",
            "With --debug a command that fails prints the traceback.",
        ]
    )


def _sentence(error: Exception) -> str:
    """The error on one line; an unexpected one also gets its type and a hint at `--debug`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}. Run it again with --debug to see where."


def _fail(program: str, sentence: str, code: int) -> int:
    print(f"{program}: {sentence}", file=sys.stderr)
    return code
