"""What no command can use is refused before any work, and what is stored is shown as it is stored."""

from __future__ import annotations

import sys
from pathlib import Path

import apsw
import numpy as np
import pytest
import torch

from oliveira.cli import main
from oliveira.errors import DiskError, OliveiraError, explain_memory
from oliveira.files import write_atomic
from oliveira.ledger import Ledger


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


HUGE = "1" + "0" * 23


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--set", f"train.steps={HUGE}"),
        ("up", "--set", f"update.min_new_chars={HUGE}"),
        ("up", "--port", HUGE),
        ("up", "--set", "serve.threads=1000000000"),
        ("up", "--set", "serve.draft=nowhere"),
        ("adapt", "ana", "texts", "--steps", HUGE),
        ("train", "forecast/power", "mlp", f"d_model={HUGE}"),
        ("train", "forecast/power", "mlp", "--seed", HUGE),
        ("train", "forecast/power", "mlp", "--budget", f"steps={HUGE}"),
        ("train", "forecast/power", "mlp", "--budget", "steps=1e23"),
        ("compare", "forecast/power", "mlp", "rnn", "--set", f"mlp.d_model={HUGE}"),
    ],
)
def test_a_number_that_no_machine_can_do(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLIVEIRA_HOME", str(tmp_path / "home"))
    code, out, err = said(capsys, *words)
    assert code == 2 and not out and err.count("\n") == 1 and not (tmp_path / "home").exists(), (out, err)


def test_what_does_not_fit_into_the_memory_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Torch, numpy and Python each say it their own way."""
    for make in (lambda: torch.empty(10**15), lambda: torch.empty(10**12, 10**12), lambda: np.empty(10**16)):
        with pytest.raises(OliveiraError, match="more memory than there is"), explain_memory():
            make()
    with pytest.raises(RuntimeError, match="another"), explain_memory():
        raise RuntimeError("another error is not hidden")
    words = ("train", "probe/functions", "mlp", "d_model=1000000000000", "--home", str(tmp_path))
    code, _, err = said(capsys, *words)
    assert code == 4 and "Traceback" not in err and "more memory than there is" in err


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


def test_the_largest_number_of_an_option_is_the_last_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "no/such", "mlp", "--seed")
    assert "too large" not in said(capsys, *words, str(2**63 - 1))[2]
    assert "too large" in said(capsys, *words, str(2**63))[2]


def test_a_name_that_is_too_long_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("status",), ("train", "probe/functions", "mlp")):
        code, _, err = said(capsys, *words, "--home", str(tmp_path / ("n" * 300)))
        assert code == 4 and err.count("\n") == 1 and "too long" in err


def test_an_empty_ledger_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger.sqlite").touch()
    code, out, err = said(capsys, "status", "--home", str(tmp_path))
    assert code == 2 and not out and "holds no ledger" in err


@pytest.mark.parametrize("content", [b"", None])
@pytest.mark.parametrize(
    "words", [("status",), ("history",), ("keys", "list"), ("keys", "create", "ana"), ("up", "--world", "tiny")]
)
@pytest.mark.parametrize("left", ["artifacts", "stages"])
def test_a_life_without_its_ledger_is_damaged_and_no_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: tuple[str, ...], left: str
) -> None:
    (tmp_path / left / "one").mkdir(parents=True)
    if content is not None:
        (tmp_path / "ledger.sqlite").write_bytes(content)
    code, out, err = said(capsys, *words, "--home", str(tmp_path))
    assert code == 3 and not out and "ledger.sqlite is damaged" in err and "`oliveira restore`" in err
    assert [path.name for path in tmp_path.glob("ledger*") if path.stat().st_size] == []


def test_a_ledger_without_its_tables_is_damaged_beside_a_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apsw.Connection(str(tmp_path / "ledger.sqlite")).pragma("journal_mode", "wal")
    assert "holds no ledger" in said(capsys, "status", "--home", str(tmp_path))[2]
    (tmp_path / "artifacts" / "one").mkdir(parents=True)
    for words in (("status",), ("keys", "create", "ana")):
        code, _, err = said(capsys, *words, "--home", str(tmp_path))
        assert code == 3 and "ledger.sqlite is damaged" in err


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"host": "127.0.0.1", "port": "x"}'])
def test_a_damaged_address_of_the_server_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    Ledger(tmp_path).close()
    (tmp_path / "front.json").write_bytes(content)
    for words in (("chat",), ("prometheus-config", str(tmp_path / "made"))):
        code, _, err = said(capsys, *words, "--home", str(tmp_path))
        assert code == 2 and "has no running server" in err
