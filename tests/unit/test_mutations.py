"""The list of mutations is of the program as it stands, and the script tells apart what it finds."""

from __future__ import annotations

from pathlib import Path

from mutations.__main__ import Mutation, Outcome, judge, mutations, proven
from oliveira.study.provenance import ROOT


def test_every_mutation_has_its_line_and_its_tests() -> None:
    known = mutations()
    assert len({mutation.name for mutation in known}) == len(known) <= 30
    for mutation in known:
        assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1, mutation.name
        assert mutation.old != mutation.new and all((ROOT / test).is_file() for test in mutation.tests)
    rooms = [mutation.room for mutation in known]
    for room in ("serving", "lifecycle", "data", "nn", "compression", "kernels", "ledger"):
        assert rooms.count(room) >= 2, room


def test_killed_survived_out_of_date_and_unproven(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "program.py").write_text("ONE = 1\nTWO = 2\n")
    tests = [f"def test_{name}():\n    assert program.ONE == {value}\n" for name, value in (("one", 1), ("false", 3))]
    (tmp_path / "tests" / "test_it.py").write_text("\n\n".join(["import program\n", *tests]))

    def found(old: str, new: str, test: str) -> Outcome:
        return judge(tmp_path, Mutation("m", "r", "program.py", old, new, [f"tests/test_it.py::{test}"]))

    outcomes = [
        found("ONE = 1", "ONE = 2", "test_one"),
        found("TWO = 2", "TWO = 3", "test_one"),
        found("THREE", "FOUR", "test_one"),
        found("TWO = 2", "TWO = 3", "test_gone"),
        found("TWO = 2", "TWO = 3", "test_false"),
    ]
    assert [one.outcome for one in proven(tmp_path, outcomes)] == [
        "killed",
        "survived",
        "out of date",
        "out of date",
        "unproven",
    ]
    assert (tmp_path / "program.py").read_text() == "ONE = 1\nTWO = 2\n"
