"""What no command can use is refused before any work, and what is stored is shown as it is stored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oliveira.cli import main
from oliveira.errors import DiskError
from oliveira.files import write_atomic
from oliveira.lifecycle.ledger import Ledger


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["oliveira", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return (int(ended.value.code or 0), *capsys.readouterr())  # type: ignore[return-value]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "words",
    [("adapt", "ana", "texts", "--lr"), ("adapt", "ana", "texts", "--alpha"), ("compile", "champion", "--max-loss")],
)
def test_a_number_that_is_none(words: tuple[str, ...], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words, value)
    assert code == 2 and not out and err.count("\n") == 1 and words[-1] in err, (out, err)


@pytest.mark.parametrize(
    "words", [("status", "--home", ""), ("adapt", "ana", ""), ("up", "--home", ""), ("keys", "list", "--home", "")]
)
def test_an_empty_path_is_not_this_folder(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *words)
    assert code == 2 and not out and "is empty" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--text", ""),
        ("up", "--world", ""),
        ("train", "forecast/power", "mlp", "--budget", ""),
        ("list", "--task", ""),
    ],
)
def test_an_empty_word_is_not_the_default(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words)
    assert code == 2 and not out and "is empty" in err


def test_stored_words_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add_key("a\x1b[31m[red]x[/nope]", ("use",))
        ledger.add_artifact("d" * 64, "base", tmp_path / "a", {}, {})
        ledger.decide("approve", "rejected", digest="d" * 64, actor="[/x]", numbers={"reason": "[bold]because[/] [/x]"})
    for words in (("keys", "list"), ("history",)):
        code, out, _ = said(capsys, *words, "--home", str(tmp_path))
        assert code == 0 and "[/" in out and "\x1b[31m" not in out
    code, _, err = said(capsys, "keys", "create", "a\nb", "--home", str(tmp_path))
    assert code == 2 and "can be shown" in err


def test_a_place_that_takes_no_folders() -> None:
    with pytest.raises(DiskError, match="cannot write to /proc/none"):
        write_atomic(Path("/proc/none/a"), b"")
