"""A user's own documents: what they are, and what is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from oliveira import cli
from oliveira.ledger import Ledger
from oliveira.lifecycle import own_lengths
from oliveira.study.own_data import describe_data
from oliveira.tasks.catalogue import task
from oliveira.tasks.own import OwnTextFolder
from tests.unit.text_documents import pdf, put

SECRET = "zqxsegredo"


def test_what_texts_are(tmp_path: Path) -> None:
    """Documents of any form: a life of text where there is enough, classes where a folder is one."""
    home, folder = tmp_path / "home", tmp_path / "textos"
    prose = "".join(f"Frase {n} de um texto, com {n * n} palavras. " for n in range(1000))
    put(folder, a__html=f"<p>{prose}</p>", b__pdf=pdf("um"), c__pdf=b"x", d__png=b"x")
    found = describe_data(str(folder), home=home)
    life, classes = found.tasks
    assert (found.documents, found.columns, found.classes) == (2, [], {}) and found.characters > 40_000
    assert life.fits and life.commands == [f"oliveira up --data {folder}", f"oliveira adapt NAME {folder}"]
    assert not classes.fits and "a class is a folder" in classes.why
    assert "1 file(s) that are not" in found.read[0] and "c.pdf is not a whole PDF" in found.read[1]
    small = describe_data(str(folder / "b.pdf"), home=home).tasks
    assert [(task.kind, task.fits) for task in small] == [("text", False)] and "are needed" in small[0].why
    for label in ("sim", "nao"):
        rows = "".join(json.dumps({"id": f"{label}{n}", "corpo": f"{label} {n} {SECRET}"}) + "\n" for n in range(5))
        put(tmp_path / "classes" / label, a__jsonl=rows, b__pdf=pdf(f"{label} em papel"), c__docx=b"x")
    sorted_ = describe_data(str(tmp_path / "classes"), home=home)
    assert sorted_.tasks[1].fits and sorted_.classes == {"nao": 6, "sim": 6}
    assert any("'corpo'" in line for line in sorted_.tasks[1].said) and SECRET not in json.dumps(sorted_.as_json())
    named = task(f"classify/path:{tmp_path}/classes?of=texts&text=id")
    assert isinstance(named, OwnTextFolder) and "sim0" in {text for _, text, _ in named.roles()[0].rows}


def test_documents_are_read_once_as_long_as_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, home = put(tmp_path / "textos", a__pdf=pdf("um"), b__txt="dois"), tmp_path / "home"
    read: list[int] = []
    real = own_lengths.lengths_of
    monkeypatch.setattr(own_lengths, "lengths_of", lambda *given: read.append(1) or real(*given))

    def lengths(max_chars: int = 0) -> object:
        return own_lengths.own_lengths(home, f"path:{folder}", max_chars)

    first = lengths()
    assert first == lengths() and len(read) == 2 and not home.exists(), "no home yet: nothing is written"
    with Ledger(home):
        pass
    assert first == lengths() == lengths() and len(read) == 3
    assert lengths(2) != first and lengths(2) and len(read) == 4
    put(folder, b__txt="outro texto")
    assert lengths(2) and lengths() != first and len(read) == 6
    (home / "cache" / "lengths.json").write_bytes(b"{")
    assert lengths() and len(read) == 7


def test_data_without_a_task_are_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLIVEIRA_LANG", "en")
    folder = put(tmp_path / "textos", a__html="<p>" + " ".join(f"palavra{n}" for n in range(20_000)))
    for words, code, said in (
        ([f"{folder}"], 0, f'"base": "path:{folder}"'),
        ([f"{folder}?text=corpo"], 0, f'"base": "path:{folder}?text=corpo"'),
        (["x.csv"], 2, "x.csv, a table, needs --task"),
        ([f"{folder}", "--target", "x"], 2, "needs --task"),
    ):
        argv = ["oliveira", "up", "--print-world", "--home", str(tmp_path / "home"), "--data", *words]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code and said in " ".join("".join(capsys.readouterr()).split())
