"""Pairs of texts in a user's own table: which columns, no leak between the splits, a run, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oliveira.data.labelled import plain_words
from oliveira.data.pair_table import FEWEST_PAIRS
from oliveira.errors import UserError
from oliveira.runs.predict import Predictor
from oliveira.runs.run import fit
from oliveira.study.own_data import describe_data
from oliveira.tasks.catalogue import task
from oliveira.tasks.own_pairs import OwnPairs

ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
UNS = ["um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito", "nove", "dez", "onze", "doze"]


def pairs(count: int = 140) -> list[tuple[str, str]]:
    """`count` ≤ 144"""
    numbers = [(a, b) for a in range(12) for b in range(12)][:count]
    return [(f"I see {ONES[a]} and {ONES[b]}.", f"Eu vejo {UNS[a]} e {UNS[b]}.") for a, b in numbers]


def put(path: Path, rows: list[tuple[str, ...]], header: str = "") -> Path:
    path.write_text(header + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def opened(path: Path, **options: Any) -> OwnPairs:
    found = task(f"translate/path:{path}" + ("?" + "&".join(f"{k}={v}" for k, v in options.items()) if options else ""))
    assert isinstance(found, OwnPairs)
    return found


@pytest.mark.parametrize("end", [".", ""])
@pytest.mark.parametrize(
    ("header", "names"),
    [("", None), ("source\ttarget\n", ("source", "target")), ("English\tPortuguês\n", ("English", "Português"))],
)
def test_the_first_line_is_a_pair_unless_it_names_sides(
    header: str, names: tuple[str, str] | None, end: str, tmp_path: Path
) -> None:
    rows = [(source[:-1] + end, target[:-1] + end) for source, target in pairs()]
    roles = opened(put(tmp_path / "p.tsv", rows, header)).roles()[0]
    assert sum(map(len, roles.parts.values())) == 140
    assert roles.names == (names or (("column 1", "column 2") if end else None)), "no sentence is a name"
    assert any(pair == rows[0] for part in roles.parts.values() for pair in part)


def test_columns_are_named_where_several_could_be_meant(tmp_path: Path) -> None:
    rows = [(*pair, f"nota {n}") for n, pair in enumerate(pairs())]
    path = put(tmp_path / "p.tsv", rows, "en\tpt\tnota\n")
    with pytest.raises(UserError, match="may be any of 'en', 'pt', 'nota'"):
        opened(path).check()
    assert opened(path, source="pt", target="en").roles()[0].names == ("pt", "en")


def test_no_text_is_on_two_sides(tmp_path: Path) -> None:
    rows = pairs() + [(source.upper(), f"{target} {n}") for n, (source, target) in enumerate(pairs()[:60])]
    rows += [(f"{source} again {n}", target) for n, (source, target) in enumerate(pairs()[:20])]
    rows += [*pairs()[:5], ("", "x"), (" ".join(["palavra"] * 41), "y")]
    roles = opened(put(tmp_path / "p.tsv", rows, "source\ttarget\n")).roles()[0]
    for side in (0, 1):
        texts = {split: {tuple(plain_words(pair[side])) for pair in part} for split, part in roles.parts.items()}
        assert not texts["train"] & (texts["test"] | texts["validation"]) and not texts["test"] & texts["validation"]
    said = " | ".join(roles.said)
    for part in ("1 rows without", "1 pairs of more than 40 words", "5 pairs that come again", "share a text with one"):
        assert part in said, said


@pytest.mark.parametrize(
    ("rows", "header", "sentence"),
    [
        (pairs(20), "source\ttarget\n", f"there are 20 different pairs.*needs {FEWEST_PAIRS}"),
        ([(a, a) for a, _ in pairs()], "source\ttarget\n", "more than half of the targets are their sources"),
        ([(a,) for a, _ in pairs()], "", "there is one column"),
        ([(a, "sim") for a, _ in pairs()], "source\ttarget\n", "two columns of texts that hardly repeat"),
        ([(a, f"{n}") for n, (a, _) in enumerate(pairs())], "source\ttarget\n", "two columns of texts"),
        ([(a, " ".join([b] * 20)) for a, b in pairs()], "en\tpt\n", "there are 0 different pairs"),
    ],
)
def test_what_makes_no_translation(rows: list[Any], header: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        opened(put(tmp_path / "p.tsv", rows, header)).check()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"source": "nada"}, "--source 'nada' is no column"), ({"source": "pt", "target": "pt"}, "cannot be source and")],
)
def test_wrong_columns(options: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        opened(put(tmp_path / "p.tsv", pairs(), "en\tpt\n"), **options).check()


def test_a_run_on_pairs(tmp_path: Path) -> None:
    path, home, said = put(tmp_path / "pares.tsv", pairs()), tmp_path / "home", []
    name = f"translate/path:{path}"
    run = fit(name, model="seq2seq", home=home, say=said.append, budget="steps=2", batch_size=8, d_model=16)
    assert "UTF-8" in " ".join(said) and "vejo" not in " ".join(said)
    assert run.result["baselines"].keys() == {"the source text", "likest training verse"}
    path.unlink()
    predictor = Predictor(run.folder)
    assert predictor.example == {"text": "a text"} and "translation" in predictor({"text": "I see one and two."})


def test_what_a_file_of_pairs_is(tmp_path: Path) -> None:
    found = describe_data(str(put(tmp_path / "p.tsv", pairs(), "source\ttarget\n")), home=tmp_path / "home")
    one = next(task for task in found.tasks if task.kind == "translate")
    assert one.fits and one.commands[0].endswith("p.tsv transformer --source source --target target")
    assert Path(found.picture).exists() and "transformer" in one.models
