"""The dispatcher: exit codes, one sentence for an error, and help without torch."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from rifenet import __version__
from rifenet.cli import main as cli


def command(monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], int]) -> None:
    """Makes `run` the command `try`."""
    module = types.ModuleType("rifenet_try")
    module.main = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rifenet_try", module)
    monkeypatch.setitem(cli.COMMANDS, "try", ("rifenet_try", "a command of this test"))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert "usage: rifenet" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rifenet {__version__}\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_exists_and_explains_itself_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("demo", "segment", "info"):
        assert cli.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"usage: rifenet {name}" in text
        assert f"example: rifenet {name}" in " ".join(text.split())
    else:
        assert importlib.util.find_spec(cli.COMMANDS[name][0]) is not None


@pytest.mark.parametrize("argv", [["segmnt"], ["segment"], ["info", "--nonsense"], ["demo", "--threads", "many"]])
def test_wrong_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert capsys.readouterr().err


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["segmnt"])
    assert capsys.readouterr().err == "rifenet: Expected a command, but got 'segmnt'. Did you mean segment?\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("Expected\n  a, but got b."), "Expected a, but got b."),
        (FileNotFoundError("Expected x, but there is none."), "Expected x, but there is none."),
        (
            OSError(28, "No space left on device", "out/a.png"),
            "No space left on device: out/a.png. Make room on that disk, or give a path on another, and run the command"
            " again.",
        ),
        (
            OSError(13, "Permission denied", b"out/a.png"),
            "Permission denied: out/a.png. Change its permissions, or give a path that you may use.",
        ),
        (OSError(5, "Input/output error"), "Input/output error. Run it again with --debug to see where."),
        (RuntimeError("odd"), "RuntimeError: odd. Run it again with --debug to see where."),
        (ValueError(), "ValueError: . Run it again with --debug to see where."),
    ],
)
def test_an_error_is_one_sentence_and_1(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    command(monkeypatch, fail)
    assert cli.main(["try"]) == 1
    assert capsys.readouterr().err == f"rifenet try: {sentence}\n"
    with pytest.raises(type(error)):
        cli.main(["try", "--debug"])


def test_arguments_and_exit_code_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    command(monkeypatch, run)
    assert cli.main(["try", "--debug", "a b", "--json"]) == 7
    assert seen == [["a b", "--json"]]


def test_interrupting_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    command(monkeypatch, interrupt)
    assert cli.main(["try"]) == 130
    assert "Interrupted" in capsys.readouterr().err


TEMPORARY = """
import os, sys, tempfile, types
from rifenet.cli import main as cli
def run(argv):
    with tempfile.TemporaryDirectory(dir=argv[0]):
        worker = os.fork() if argv[1:] == ["fork"] else None
        if worker != 0:
            print("ready", flush=True)
        sys.stdin.read()
    return 0
sys.modules["try"] = module = types.ModuleType("try")
module.main = run
cli.COMMANDS["try"] = ("try", "")
cli.entry()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it.")
@pytest.mark.parametrize("group", [False, True])
def test_termination_is_143_and_leaves_no_temporary_folder(group: bool, tmp_path: Path) -> None:
    """With `group` the signal comes twice, and to a forked worker, too, as from `timeout` and from Slurm."""
    words = [sys.executable, "-c", TEMPORARY, "try", str(tmp_path), *(["fork"] if group else [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        if group:
            os.killpg(process.pid, signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert errors == "rifenet try: Terminated. The files written so far are complete.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="No device that is always full here.")
def test_a_full_disk_below_the_output_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "rifenet", "info", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("rifenet info: No space left on device: standard output. Make room")
    assert done.stderr.count("\n") == 1


def test_names_that_no_console_can_show_are_printed_with_backslashes() -> None:
    code = (
        "import sys, types\n"
        "from rifenet.cli import main as cli\n"
        "def run(argv):\n    print(argv[0])\n    open(argv[0])\n"
        "sys.modules['try'] = module = types.ModuleType('try')\n"
        "module.main = run\n"
        "cli.COMMANDS['try'] = ('try', '')\n"
        "cli.entry()\n"
    )
    words = [sys.executable, "-c", code, "try", b"caf\xe9"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, check=False, env=environment, timeout=60)
    assert done.stdout == b"caf\\udce9\n"
    assert done.stderr == b"rifenet try: No such file or directory: caf\\udce9. Check the path.\n"


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    code = (
        "import sys, types\n"
        "from rifenet.cli import main as cli\n"
        "sys.modules['long'] = module = types.ModuleType('long')\n"
        "module.main = lambda argv: print('x' * 10**6) or 0\n"
        "cli.COMMANDS['long'] = ('long', '')\n"
        "sys.exit(cli.main(['long']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    own: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards, whatever the program sets
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "main", lambda: 5 if os.environ.get("GOMP_SPINCOUNT") == found else 6)
    monkeypatch.setattr(cli.signal, "signal", lambda *arguments: None)
    for stream in ("stdout", "stderr"):  # which the program sets up for itself
        monkeypatch.setattr(sys, stream, io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    assert ended.value.code == 5


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere torch comes with another OpenMP.")
def test_torch_reads_how_its_threads_wait() -> None:
    """The program sets it before torch is imported, which reads it once."""
    code = "from rifenet.cli import main; main.main = lambda: int(not __import__('torch')); main.entry()"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    if "GOMP_" not in done.stderr:
        pytest.skip("This torch comes with another OpenMP than GNU's.")
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
