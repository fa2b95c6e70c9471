"""Answers and truths in the ledger; a home of schema 1 opens with all it had, whenever the program was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from oliveira.errors import UserError
from oliveira.ledger import Ledger, answers
from oliveira.ledger.schema import SCHEMA_VERSION

FIRST_SCHEMA = Path(__file__).parents[1] / "cases" / "ledger-1.sql"
FILLED = """
INSERT INTO stage (key, name, state, config, inputs, started) VALUES ('k', 'train', 'done', '{}', '{}', 1.0);
INSERT INTO run VALUES ('r', 'k', 'train', '{}', 'runs/r', 'done', 1.0, 2.0, '{"loss": 1.5}');
INSERT INTO artifact VALUES ('a', 'package', 'artifacts/a', '{"stage": "package"}', '{}', 1.0);
INSERT INTO alias VALUES ('champion', 'a');
INSERT INTO decision (time, kind, verdict, digest, actor, numbers)
    VALUES (1.0, 'deploy', 'promoted', 'a', 'pipeline', '{}');
INSERT INTO wish (time, kind, args, actor, state) VALUES (1.0, 'pause', '{}', 'ana', 'pending');
INSERT INTO api_key VALUES ('12345678', 'ana', 'use', x'00', x'01', 1.0, NULL);
INSERT INTO gauge VALUES ('drift_alarm', '{}', 1.0, 1.0);
INSERT INTO event (time, kind, data) VALUES (1.0, 'drift', '{}');
INSERT INTO setting VALUES ('paused', 'true');
"""
KILLED = """
import os, signal, sys
from pathlib import Path
import apsw
from oliveira.ledger import Ledger

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def hook(connection):
    match sys.argv[2]:
        case "as the table is made":
            connection.authorizer = lambda op, *a: die() if op == apsw.SQLITE_CREATE_TABLE else apsw.SQLITE_OK
        case "as the version is written":
            connection.authorizer = (
                lambda op, name, value, *a: die()
                if (op, name) == (apsw.SQLITE_PRAGMA, "user_version") and value
                else apsw.SQLITE_OK
            )
        case "before the commit":
            connection.set_commit_hook(die)
        case "after the commit":
            connection.set_wal_hook(die)

apsw.connection_hooks.append(hook)
Ledger(Path(sys.argv[1]))
"""
TABLES = ("stage", "run", "artifact", "alias", "decision", "wish", "api_key", "gauge", "event", "setting")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The clock stands still."""
    with Ledger(tmp_path, clock=lambda: 5.0) as opened:
        yield opened


def add(ledger: Ledger, *numbers: str) -> None:
    for number in numbers:
        ledger.add_answer(
            number,
            time=1.0 + ord(number[0]),
            key=number[0],
            digest="a",
            request={"text": number},
            answer={"label": "x"},
            observed={"length": 3.0},
        )


def first_home(home: Path) -> None:
    """A home as the program of schema 1 left it."""
    home.mkdir()
    connection = apsw.Connection(str(home / "ledger.sqlite"))
    connection.pragma("journal_mode", "wal")
    connection.execute(FIRST_SCHEMA.read_text() + FILLED)
    connection.pragma("user_version", 1)
    connection.close()


def content(home: Path) -> tuple[int, dict[str, list[object]]]:
    connection = apsw.Connection(str(home / "ledger.sqlite"))
    rows = {table: list(connection.execute(f"SELECT * FROM {table}")) for table in TABLES}
    version = connection.pragma("user_version")
    connection.close()
    return version, rows


@pytest.mark.parametrize(
    ("moment", "version"),
    [
        ("as the table is made", 1),
        ("as the version is written", 1),
        ("before the commit", 1),
        ("after the commit", SCHEMA_VERSION),
    ],
)
def test_a_kill_while_a_home_is_migrated_loses_nothing(tmp_path: Path, moment: str, version: int) -> None:
    home = tmp_path / "home"
    first_home(home)
    before = content(home)[1]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(home), moment], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert content(home) == (version, before)
    with Ledger(home) as ledger:
        add(ledger, "one")
        assert ledger.alias("champion") == "a" and ledger.setting("paused") and len(ledger.answers()) == 1
    assert content(home) == (SCHEMA_VERSION, before)


def test_the_frozen_schema_is_what_the_first_step_still_makes(tmp_path: Path) -> None:
    """A released step that is edited would leave old homes without the edit."""
    first_home(tmp_path / "old")
    Ledger(tmp_path / "old").close()
    Ledger(tmp_path / "new").close()

    def shape(home: Path) -> list[object]:
        connection = apsw.Connection(str(home / "ledger.sqlite"))
        found = sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema"), key=str)
        connection.close()
        return found

    assert shape(tmp_path / "old") == shape(tmp_path / "new")


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, -1])
def test_a_schema_of_another_program_is_left_alone(tmp_path: Path, version: int) -> None:
    first_home(tmp_path / "home")
    connection = apsw.Connection(str(tmp_path / "home" / "ledger.sqlite"))
    connection.pragma("user_version", version)
    connection.close()
    before = content(tmp_path / "home")
    with pytest.raises(UserError, match=f"has schema {version}"):
        Ledger(tmp_path / "home")
    assert content(tmp_path / "home") == before


def test_an_answer_is_kept_with_its_truth(ledger: Ledger) -> None:
    add(ledger, "one", "two")
    assert ledger.get_answer("three") is None and not ledger.add_truth("three", "x", 0.0)
    assert ledger.pairs() == ledger.truths() == []
    assert ledger.add_truth("two", {"label": "y"}, 1.0)
    row = ledger.get_answer("two")
    assert row is not None and (row.number, row.truth, row.error, row.told) == (2, {"label": "y"}, 1.0, 5.0)
    assert (row.request, row.answer, row.observed) == ({"text": "two"}, {"label": "x"}, {"length": 3.0})
    assert [r.id for r in ledger.answers()] == ["one", "two"] and [r.id for r in ledger.answers(after=1)] == ["two"]
    assert ledger.pairs() == [({"text": "two"}, {"label": "y"})]


def test_the_same_truth_again_changes_nothing_and_another_is_news(ledger: Ledger) -> None:
    """Whoever reads on from the last `told` sees every change once, also when the clock stands still."""
    add(ledger, "one", "two")
    for number in ("one", "two"):
        ledger.add_truth(number, 0, 1.0)
    first = ledger.truths()
    assert [row.id for row in first] == ["one", "two"]
    assert [row.id for row in ledger.truths(first[0].told or 0.0, limit=1)] == ["two"]
    ledger.add_truth("one", 0, 1.0)
    assert ledger.truths(first[-1].told or 0.0) == []
    ledger.add_truth("one", 7, 0.5)
    assert [(row.id, row.truth) for row in ledger.truths(first[-1].told or 0.0)] == [("one", 7)]


def test_no_truth_is_no_null(ledger: Ledger) -> None:
    add(ledger, "one")
    ledger.add_truth("one", None, 0.0)
    assert ledger.pairs() == [({"text": "one"}, None)]


def test_the_oldest_answers_go(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT", 3)
    add(ledger, *"abcde")
    assert [(row.number, row.id) for row in ledger.answers()] == [(3, "c"), (4, "d"), (5, "e")]


def test_large_answers_are_fewer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_WEIGHED", 1)
    for number in "abc":
        request = {"text": number * 600_000}
        ledger.add_answer(number, time=1.0, key="k", digest="a", request=request, answer={}, observed={}, megabytes=1)
    assert [row.id for row in ledger.answers()] == ["c"]


def test_what_a_key_asked_is_forgotten_and_overwritten(ledger: Ledger) -> None:
    add(ledger, *(f"{key}-zqxsegredo-{number}" for key in "ab" for number in range(40)))
    ledger.add_truth("a-zqxsegredo-1", "zqxverdade", 0.0)
    assert ledger.origin_of_pairs() == {"keys": ["a"], "first": 98.0, "last": 98.0}
    assert ledger.forget_answers(["a", "c"]) == 40 and ledger.forget_answers(["a"]) == 0
    assert {row.key for row in ledger.answers()} == {"b"} and ledger.pairs() == [] and ledger.origin_of_pairs() == {}
    written = b"".join(path.read_bytes() for path in ledger.home.glob("ledger.sqlite*"))
    assert b"a-zqxsegredo" not in written and b"zqxverdade" not in written and b"b-zqxsegredo" in written


def test_answers_grow_old(ledger: Ledger) -> None:
    add(ledger, "a", "b")
    ledger.expire_answers(99.0)
    assert [row.id for row in ledger.answers()] == ["b"]
