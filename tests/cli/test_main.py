"""The dispatcher: exit codes, one sentence for an error, and help without torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable

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
        (OSError(28, "No space left on device", "out/a.png"), "No space left on device: out/a.png."),
        (OSError(5, "Input/output error"), "Input/output error."),
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
