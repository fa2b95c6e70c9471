"""A champion that the server refuses, or that fails in its first minute, is put back: once, with a reason, one step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oliveira import artifact
from oliveira.errors import CorruptError
from oliveira.language import PORTUGUESE, VARIABLE, translate
from oliveira.ledger import ArtifactRow, Ledger
from oliveira.lifecycle.loop import Loop
from oliveira.lifecycle.overview import overview, overview_lines
from oliveira.lifecycle.returning import FIRST_MINUTE, LOOP, PUT_BACK, Returning
from oliveira.lifecycle.update import _decide
from oliveira.world import World


class Front:
    """What a server writes into the ledger, through a connection of its own."""

    def __init__(self, home: Path) -> None:
        self.now = 1000.0
        ticks = itertools.count()
        self.ledger = Ledger(home, clock=lambda: self.now + next(ticks) * 1e-3)

    def serve(self, digest: str | None, *, swapped_from: str | None = None) -> None:
        self.ledger.set_setting("serving", {"digest": digest})
        if digest:
            self.ledger.event("swap", {"from": swapped_from, "to": digest, "result": "ok"})

    def refuse(self, digest: str) -> None:
        self.ledger.event("swap_failed", {"digest": digest, "reason": "weights are damaged"})

    def die(self, digest: str, times: int = 1) -> None:
        for _ in range(times):
            self.ledger.event("engine_died", {"digest": digest, "lived": 1.0, "hung": False})

    def fail(self, digest: str) -> None:
        self.ledger.event("champion_fails", {"digest": digest, "answers": 9, "failed": 8})


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """a was served, then b; c is one more that can be. Their files are taken for whole."""
    monkeypatch.setattr(artifact, "open_artifact", lambda path, digest: None)
    made = Front(tmp_path)
    with made.ledger:
        for digest in "abc":
            folder = tmp_path / "artifacts" / digest
            made.ledger.add_artifact(digest, "base", folder, {"stage": "package", "key": digest}, {})
        made.ledger.promote("a", actor="pipeline", numbers={}, kind="deploy")
        made.serve("a")
        made.ledger.promote("b", actor="gate", numbers={})
        yield made


def look(front: Front) -> tuple[bool, str | None]:
    with Ledger(front.ledger.home, clock=front.ledger.clock) as ledger:
        return Returning(ledger).look(), ledger.alias("champion")


def put_back(front: Front) -> list[dict[str, Any]]:
    return [event["data"] for event in front.ledger.events_since(0.0, PUT_BACK)]


def test_a_refused_champion_is_put_back_once_with_its_reason(front: Front) -> None:
    assert look(front) == (False, "b"), "nothing was said against it"
    front.refuse("b")
    assert look(front) == (True, "a") and look(front) == (False, "a")
    [decision, *_] = front.ledger.decisions()
    assert (decision.kind, decision.actor, decision.digest, decision.previous) == ("rollback", "loop", "a", "b")
    assert "weights are damaged" in decision.numbers["reason"]
    reason = "the server could not take it: weights are damaged"
    assert put_back(front) == [{"digest": "b", "to": "a", "reason": reason}]


def test_nothing_is_put_back_where_nothing_else_serves(front: Front) -> None:
    """A machine without memory refuses every model."""
    front.serve(None)
    front.refuse("b")
    assert look(front) == (False, "b")
    front.serve("a")  # an older one does load
    assert look(front) == (True, "a")


def test_a_refusal_before_it_was_crowned_again_or_of_another_model_is_no_reason(front: Front) -> None:
    front.refuse("b")
    front.ledger.promote("b", actor="gate", numbers={})
    front.refuse("c")
    assert look(front) == (False, "b")
    front.refuse("b")
    front.serve("b", swapped_from="a")
    assert look(front) == (False, "b"), "it is served all the same"


def test_never_twice_and_never_further(front: Front) -> None:
    front.refuse("b")
    assert look(front) == (True, "a")
    front.ledger.promote("c", actor="gate", numbers={})
    front.refuse("c")
    front.serve("b")
    assert look(front) == (True, "a"), "another one is another matter"
    front.refuse("a")
    assert look(front) == (False, "a"), "what the loop crowned stays"
    front.ledger.promote("b", actor="ana", numbers={}, kind="swap")
    front.refuse("b")
    front.serve("a")
    assert look(front) == (False, "b"), "who crowns it again knows"
    assert [event["digest"] for event in put_back(front)] == ["b", "c"]


@pytest.mark.parametrize(("deaths", "later", "returns"), [(1, 0.0, False), (2, 0.0, True), (2, FIRST_MINUTE, False)])
def test_two_deaths_in_the_first_minute(front: Front, deaths: int, later: float, returns: bool) -> None:
    front.serve("b", swapped_from="a")
    front.now += later
    front.die("a", 2)
    front.die("b", deaths)
    assert look(front) == (returns, "a" if returns else "b")


@pytest.mark.parametrize("later", [0.0, FIRST_MINUTE])
def test_answers_that_fail_in_the_first_minute(front: Front, later: float) -> None:
    front.serve("b", swapped_from="a")
    front.now += later
    front.fail("b")
    assert look(front)[0] == (not later)
    if not later:
        assert put_back(front)[0]["reason"] == "8 of its first 9 answers failed"


def test_a_restart_gives_no_second_first_minute(front: Front) -> None:
    front.serve("b", swapped_from="a")
    front.now += 10_000
    front.serve(None)
    front.serve("b")  # `oliveira up`, after weeks
    front.die("b", 2)
    assert look(front) == (False, "b")


@pytest.mark.parametrize(
    ("kind", "actor", "returns"), [("swap", "ana", False), ("approve", "ana", True), ("promote", "gate", True)]
)
def test_what_a_person_chose_and_loads_is_the_persons(front: Front, kind: str, actor: str, returns: bool) -> None:
    front.ledger.promote("c", actor=actor, numbers={}, kind=kind)
    front.serve("c", swapped_from="b")
    front.die("c", 2)
    assert look(front) == (returns, "b" if returns else "c")
    if not returns:
        front.serve("b")
        front.refuse("c")
        assert look(front) == (True, "b"), "one that does not load serves nobody"


def test_what_the_loop_itself_put_back_is_not_taken_away_by_it(front: Front) -> None:
    """Else two models that both die would change places for ever."""
    front.ledger.promote("c", actor=LOOP, numbers={}, kind="swap")
    front.serve("c", swapped_from="b")
    front.refuse("c")
    assert look(front) == (False, "c")


def test_without_an_older_one_it_stays(tmp_path: Path) -> None:
    front = Front(tmp_path)
    with front.ledger:
        front.ledger.add_artifact("a", "base", tmp_path / "artifacts" / "a", {"stage": "package", "key": "a"}, {})
        front.ledger.promote("a", actor="pipeline", numbers={}, kind="deploy")
        front.serve("adapter")
        front.refuse("a")
        assert look(front) == (False, "a") and put_back(front) == []


def test_an_older_one_that_is_damaged_is_looked_at_once(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, digest: str) -> None:
        raise CorruptError("weights are not what was written")

    monkeypatch.setattr(artifact, "open_artifact", damaged)
    front.refuse("b")
    with Ledger(front.ledger.home) as ledger:
        returning = Returning(ledger)
        for _ in range(3):
            front.ledger.set_setting("any", 1)
            assert not returning.look()
        assert ledger.alias("champion") == "b" and put_back(front) == []
        assert [d.verdict for d in ledger.decisions()].count("refused") == 1


def test_the_loop_looks_stops_the_retraining_and_tells(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(front.ledger.home, clock=front.ledger.clock) as ledger:
        loop = Loop(ledger.home, World(), ledger)
        stopped: list[str] = []
        monkeypatch.setattr(loop, "_stop_retraining", stopped.append)
        loop.turn()
        front.refuse("b")
        loop.turn()
        assert ledger.alias("champion") == "a" and loop.watch.digest == "a", "the traffic of what serves is watched"
        assert stopped == ["the model that it started from was put back."]
        loop.turn()
        assert len(put_back(front)) == 1 and len(stopped) == 1
        lines = dict(overview_lines(overview(ledger)))
        assert lines["put back"].startswith("the champion b was put back to a: the server could not take it")
        monkeypatch.setenv(VARIABLE, PORTUGUESE)
        assert translate(lines["put back"]).startswith("o campeão b voltou a a: o servidor não pôde recebê-lo")
        ledger.promote("c", actor="gate", numbers={})
        assert "put back" not in dict(overview_lines(overview(ledger)))


def test_the_gate_promotes_nothing_that_was_put_back(front: Front) -> None:
    """The same text and the same old model make the same challenger again."""
    front.refuse("b")
    look(front)
    row, champion = front.ledger.artifact("b"), front.ledger.artifact("a")
    assert isinstance(row, ArtifactRow) and isinstance(champion, ArtifactRow)
    said = _decide(front.ledger, World(), champion, row, True, {"reasons": ["good"]}, None)
    assert said["verdict"] == "rejected" and "put back" in said["reasons"][0]
    assert front.ledger.alias("champion") == "a"
