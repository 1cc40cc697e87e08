"""`rifenet COMMAND ...`: runs a command, and turns an error into one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

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

_ROOM = "Make room on that disk, or give a path on another, and run the command again."
_RIGHTS = "Change its permissions, or give a path that you may use."
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "Nothing can be written to that disk. Give a path on another.",
    errno.ENOENT: "Check the path.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), and run the command again.",
}
SPINS = "1000"  # about a hundredth of a millisecond; GNU's default is 300 times as long
_PROCESS = os.getpid()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, and returns 0 (done), 1 (failed), 2 (wrong usage), 130 (interrupted) or 143 (terminated).

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
    except KeyboardInterrupt as stop:
        how, code = ("Terminated", 143) if isinstance(stop, Terminated) else ("Interrupted", 130)
        return _fail(f"rifenet {command}", f"{how}. The files written so far are complete.", code)
    except BrokenPipeError:  # `rifenet info | head -1`: the reader closed the pipe
        _drop_output()
        return 1
    except Exception as error:
        if debug:
            raise
        return _fail(f"rifenet {command}", _sentence(error), 1)


class Terminated(KeyboardInterrupt):
    """SIGTERM came. What ends after an interrupt ends after this, too, and removes its temporary files."""


def entry() -> None:
    """The program `rifenet`, as installed."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    _let_others_work()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what no console can show
    sys.exit(main())


def _let_others_work() -> None:
    """Has torch's threads spin for a moment only while they wait for each other, and then sleep.

    Beside other programs, threads that spin for milliseconds take the cores from the one that they wait for. On an idle
    machine a photo takes some percent longer. GNU's OpenMP, with which torch comes on Linux, reads this as torch is
    imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _terminate(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _PROCESS:  # a worker process, forked from this one, has nothing to say or to keep
        os._exit(128 + number)
    signal.signal(number, signal.SIG_IGN)  # `timeout`, for one, sends it twice; the second must not stop the tidying
    raise Terminated


def _output_works() -> bool:
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _drop_output() -> None:
    """Lets stdout go nowhere, or the flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        remedy = _REMEDIES.get(error.errno, "Run it again with --debug to see where.")
        where = error.filename
        if where is None and remedy is _ROOM and not _output_works():
            where = "standard output"
            _drop_output()
        name = os.fsdecode(where) if isinstance(where, bytes) else where
        return f"{error.strerror}{'' if name is None else f': {name}'}. {remedy}"
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}. Run it again with --debug to see where."


def _fail(program: str, sentence: str, code: int) -> int:
    print(f"{program}: {sentence}", file=sys.stderr)
    return code
