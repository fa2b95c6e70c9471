"""A terminal that cannot print a character degrades; a full device is one sentence: for every process of ours."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oliveira import terminal
from oliveira.errors import DiskError

PACKAGE = Path(terminal.__file__).parent
SIGNS = "1.0 → 2.0 × ≥ … bênção “a” 中 \udce9"
# What `python -m oliveira.tasks.NAME` prints is plain already; `python -m oliveira` is the command line.
PLAIN_ALREADY = {"tasks/few_shot.py", "__main__.py"}


def python(code: str, encoding: str, **streams: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    if not streams:
        streams = {"stdout": subprocess.PIPE}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False, timeout=60, **streams)  # type: ignore[call-overload]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_no_character_ends_a_process(encoding: str) -> None:
    code = f"import sys; from oliveira import terminal; terminal.set_up(); print({SIGNS!r}); "
    done = python(code + f"print({SIGNS!r}, file=sys.stderr)", encoding)
    assert done.returncode == 0
    for said in (done.stdout, done.stderr):
        text = said.decode(encoding)
        assert text.endswith("\\udce9\n"), "half a character of a file's name"
        if encoding == "utf-8":
            assert "→" in text and "中" in text
        else:
            assert text.replace("×", "x").startswith("1.0 -> 2.0 x >= ... b") and "\\u4e2d" in text
        if encoding == "ascii":
            assert 'bencao "a"' in text


COMMAND = "import sys; from oliveira.cli import main; sys.argv = ['oliveira', *{arguments!r}]; main()"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["up", "--print-world", "--world", "tiny"]])
def test_commands_on_a_poor_terminal(arguments: list[str], encoding: str) -> None:
    done = python(COMMAND.format(arguments=arguments), encoding)
    assert done.returncode == 0 and not done.stderr and done.stdout.decode(encoding)


def test_a_full_device_is_one_sentence() -> None:
    for arguments in (["--help"], ["up", "--print-world", "--world", "tiny"]):
        with Path("/dev/full").open("w") as full:
            done = python(COMMAND.format(arguments=arguments), "utf-8", stdout=full)
        said = done.stderr.decode()
        assert done.returncode == DiskError.exit_code, said
        assert said.startswith("oliveira: cannot write to standard output: No space left") and said.count("\n") == 1


def test_a_reader_that_left_is_no_error_worth_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = python(COMMAND.format(arguments=["up", "--print-world"]), "utf-8", stdout=writing)
    os.close(writing)
    assert done.returncode == 1 and done.stderr == b""


def test_another_files_trouble_is_not_called_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(OSError, match="elsewhere"), terminal.checked_output():
        raise OSError(28, "elsewhere")


def test_every_process_sets_its_output_up() -> None:
    """Each module that can be run calls it before it says a word."""
    runnable = [
        path
        for path in PACKAGE.rglob("*.py")
        if "\nif __name__ == " in path.read_text(encoding="utf-8")
        and path.relative_to(PACKAGE).as_posix() not in PLAIN_ALREADY
    ]
    assert len(runnable) >= 5
    for path in [*runnable, PACKAGE / "cli" / "__init__.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert "terminal.set_up" in calls, path
