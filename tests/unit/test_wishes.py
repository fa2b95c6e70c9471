"""Commands that do what they say: what is refused, late or interrupted is never done later; what waits is shown."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oliveira import artifact
from oliveira.errors import Interrupted, OliveiraError, UserError
from oliveira.ledger import RETRAINING, Ledger
from oliveira.lifecycle import asking, verbs
from oliveira.lifecycle.asking import ask
from oliveira.lifecycle.loop import Loop
from oliveira.lifecycle.overview import overview, overview_lines
from oliveira.lifecycle.verbs import grant
from oliveira.process.holder import holder
from oliveira.world import World

VERBS = {
    "swap": {"digest": "b"},
    "rollback": {},
    "approve": {},
    "reject": {},
    "pause": {},
    "resume": {},
    "retrain": {},
}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A home with champion b, previous a and challenger c, whose artifacts are taken for whole."""
    monkeypatch.setattr(artifact, "open_artifact", lambda path, digest: None)
    monkeypatch.setattr(asking, "POLL", 0.01)
    with Ledger(tmp_path) as found:
        for digest in ("a", "b", "c"):
            found.add_artifact(digest, "base", tmp_path / "artifacts" / digest, {"stage": "package", "key": digest}, {})
        found.promote("a", actor="pipeline", numbers={})
        found.promote("b", actor="gate", numbers={})
        found.set_challenger("c")
        found.decide("gate", "awaiting approval", digest="c", actor="gate", numbers={"reasons": ["good"]})
        yield found


def state(ledger: Ledger) -> tuple[dict[str, str], object]:
    return ledger.aliases(), ledger.setting("paused", False)


@contextlib.contextmanager
def busy_loop(home: Path) -> Iterator[None]:
    """A program that stands at its stages: it holds the place and takes no wish up."""
    with holder(home, "loop"):
        yield


def later(ledger: Ledger) -> None:
    """The next start of the program: its loop looks at every wish that is left."""
    loop = Loop(ledger.home, World(), ledger)
    loop._start_retraining = lambda *_: pytest.fail("a retraining runs later")  # type: ignore[method-assign, assignment]
    loop.turn()


@pytest.mark.parametrize("kind", VERBS)
def test_what_took_too_long_is_never_done(ledger: Ledger, kind: str) -> None:
    before = state(ledger)
    with busy_loop(ledger.home), pytest.raises(OliveiraError, match=f"{kind} was not taken up .* withdrawn"):
        ask(ledger, kind, VERBS[kind], patience=0.05)
    later(ledger)
    assert state(ledger) == before and ledger.pending_wishes() == []


@pytest.mark.parametrize("kind", VERBS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_interrupted_is_never_done(ledger: Ledger, kind: str, number: int) -> None:
    before = state(ledger)
    me = threading.main_thread().ident
    assert me is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (me, number))
    timer.start()
    with busy_loop(ledger.home), pytest.raises(Interrupted, match=f"{kind} is withdrawn"):
        ask(ledger, kind, VERBS[kind], patience=20)
    timer.join()
    later(ledger)
    assert state(ledger) == before and ledger.pending_wishes() == []


@pytest.mark.parametrize("kind", ["swap", "rollback", "approve"])
def test_an_artifact_of_another_task_is_never_crowned(ledger: Ledger, kind: str) -> None:
    """The next start would take it back, and nobody's requests fit it."""
    for digest, task in (("a", "classify/digits"), ("b", "forecast/power"), ("c", "classify/digits")):
        folder = ledger.home / "artifacts" / digest
        folder.mkdir(parents=True)
        (folder / "task.json").write_text(json.dumps({"task": task}))
    before = state(ledger)
    number = ledger.wish(kind, {"digest": "a"} if kind == "swap" else {}, "test")
    grant(ledger, ledger.pending_wishes()[0])
    found = ledger.get_wish(number)
    assert found is not None and found.state == "failed" and state(ledger) == before
    assert "answers classify/digits, the champion of this home forecast/power" in found.result["error"]
    (ledger.home / "artifacts" / "b" / "task.json").write_text("{")  # a damaged champion is nobody's obstacle
    ledger.wish(kind, {"digest": "a"} if kind == "swap" else {}, "test")
    grant(ledger, ledger.pending_wishes()[0])
    assert state(ledger) != before


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("swap", {"digest": "x"}, "artifact x is not in the ledger"),
    ("approve", {"digest": "a"}, "not the challenger that waits for approval"),
    ("reject", {"digest": "a"}, "not the challenger that waits for rejection"),
    ("retrain", {}, "needs a running `oliveira up`"),
]


@pytest.mark.parametrize(("kind", "args", "says"), REFUSED)
def test_what_was_refused_is_never_done(ledger: Ledger, kind: str, args: dict[str, Any], says: str) -> None:
    """Refused while `up` is stopped; then the artifact comes and `up` starts."""
    before = state(ledger)
    with pytest.raises(UserError, match=says) as caught:
        ask(ledger, kind, args)
    assert caught.value.exit_code == 2
    ledger.add_artifact("x", "base", ledger.home / "artifacts" / "x", {}, {})
    later(ledger)
    assert state(ledger) == before and ledger.pending_wishes() == []


def test_what_is_served_is_not_swapped_for_itself(ledger: Ledger) -> None:
    """History would call it a promotion, also while the server has not followed yet. What failed is tried again."""
    before, decided = state(ledger), len(ledger.decisions())
    for failed in ((), ("a",)):
        for digest in failed:
            ledger.event("swap_failed", {"digest": digest, "reason": "another one"})
        with pytest.raises(OliveiraError, match="artifact b is the champion already"):
            ask(ledger, "swap", {"digest": "b"})
    assert (state(ledger), len(ledger.decisions())) == (before, decided)
    ledger.event("swap_failed", {"digest": "b", "reason": "it did not load"})
    assert ask(ledger, "swap", {"digest": "b"}).result == {"champion": "b"}
    with pytest.raises(OliveiraError, match="artifact b is the champion already"):
        ask(ledger, "swap", {"digest": "b"})  # crowned again since it failed
    ledger.event("swap_failed", {"digest": "a", "reason": "it did not load"})
    assert ask(ledger, "rollback", {}).result == {"champion": "a"}
    with pytest.raises(OliveiraError, match="artifact a is the champion already"):
        ask(ledger, "swap", {"digest": "a"})


def test_a_beginning_that_fits_several_artifacts_names_none(ledger: Ledger) -> None:
    ledger.add_artifact("bb", "base", ledger.home / "artifacts" / "bb", {}, {})
    before = state(ledger)
    for named, says in (("b", "fits 2 artifacts"), ("", "is not in the ledger"), ("z", "is not in the ledger")):
        with pytest.raises(OliveiraError, match=says):
            ask(ledger, "swap", {"digest": named})
    assert state(ledger) == before


def test_with_nothing_waiting_approve_and_reject_say_so(ledger: Ledger) -> None:
    assert ask(ledger, "reject", {}).result == {"rejected": "c"}
    for kind, what in (("approve", "approval"), ("reject", "rejection")):
        with pytest.raises(OliveiraError, match=f"no challenger waits for {what}") as caught:
            ask(ledger, kind, {})
        assert caught.value.exit_code == 2


def test_a_rejected_challenger_needs_a_reason_that_is_kept(ledger: Ledger) -> None:
    ledger.decide("gate", "rejected", digest="c", actor="gate", numbers={"reasons": ["forgetting 9 %"]})
    for args in ({}, {"override": "  "}):
        with pytest.raises(
            OliveiraError, match=r"the gate rejected challenger c: forgetting 9 %.*--override"
        ) as caught:
            ask(ledger, "approve", args)
        assert caught.value.exit_code == 2 and ledger.alias("champion") == "b"
    ask(ledger, "approve", {"override": "the new domain matters"})
    decision = ledger.decisions(1)[0]
    assert ledger.alias("champion") == "c" and decision.kind == "approve"
    assert decision.numbers["override"] == "the new domain matters" and decision.numbers["gate"] == ["forgetting 9 %"]
    assert "against the gate: the new domain matters" in decision.numbers["reasons"][0]


def test_rollback_twice_goes_back_twice_or_says_so(ledger: Ledger) -> None:
    assert ask(ledger, "rollback", {}).result == {"champion": "a"}
    with pytest.raises(OliveiraError, match="nothing older"):
        ask(ledger, "rollback", {})
    assert ledger.aliases() == {"champion": "a", "challenger": "c"}


def test_a_rollback_goes_to_the_model_that_was_verified_or_nowhere(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process promotes while `a` is read: now `previous` is b, which nobody has verified."""
    monkeypatch.setattr(verbs, "whole", lambda ledger, digest: ledger.promote("c", actor="other", numbers={}))
    number = ledger.wish("rollback", {}, "test")
    (wish,) = ledger.pending_wishes()
    grant(ledger, wish)
    done = ledger.get_wish(number)
    assert done is not None and done.state == "failed"
    assert done.result == {"error": "the previous model changed while it was verified. Ask again."}
    assert ledger.aliases() == {"champion": "c", "previous": "b"}


def test_two_at_once_without_a_loop(ledger: Ledger) -> None:
    """Each is done once, none of them does the other's."""
    ledger.promote("c", actor="me", numbers={})
    results: list[object] = []

    def roll_back() -> None:
        with Ledger(ledger.home) as own:
            try:
                results.append((ask(own, "rollback", {}).result or {})["champion"])
            except OliveiraError as error:
                results.append(str(error)[:20])

    threads = [threading.Thread(target=roll_back) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, results)) == ["a", "b", "there is no previous"]


def test_a_command_grants_its_own_wish_alone(ledger: Ledger) -> None:
    """One that the API was told is accepted (202) waits for the program, and `status` shows it."""
    waiting = ledger.wish("swap", {"digest": "a"}, "console")
    ask(ledger, "pause", {})
    assert ledger.is_pending(waiting) and ledger.alias("champion") == "b"
    found = overview(ledger)
    assert [(wish["kind"], wish["state"]) for wish in found["wishes"]] == [("swap", "waiting")]
    lines = dict(overview_lines(found))
    assert lines["waiting"].startswith("swap a by console since ") and "next start" in lines["waiting"]
    assert "resume" in lines["paused"] and found["paused"]


def test_withdrawn_while_it_is_verified(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    number = ledger.wish("swap", {"digest": "a"}, "me")
    monkeypatch.setattr(artifact, "open_artifact", lambda path, digest: ledger.withdraw_wish(number, "Ctrl-C"))
    wish = ledger.get_wish(number)
    assert wish is not None
    grant(ledger, wish)
    assert ledger.alias("champion") == "b" and [d.kind for d in ledger.decisions(1)] == ["gate"]


def test_killed_between_effect_and_word_neither_is_there(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next start would roll back twice."""
    number = ledger.wish("rollback", {}, "me")
    wish = ledger.get_wish(number)
    assert wish is not None

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "finish_wish", killed)
        with pytest.raises(Killed):
            grant(ledger, wish)
    assert ledger.alias("champion") == "b" and ledger.is_pending(number)
    grant(ledger, wish)
    grant(ledger, wish)
    assert ledger.alias("champion") == "a"


# Retraining ----------------------------------------------------------------------------------------------------------

SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(60)"


class Retrainings(Loop):
    """A loop whose retrainings sleep."""

    def _start_retraining(self, trigger: str, wish: Any = None) -> None:
        self._before, self._last_update, self._stopped = self._last_update, time.time(), ""
        self.ledger.set_setting(RETRAINING, {"trigger": trigger, "started": 0.0, "phase": "train"})
        self.retraining = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE)


@pytest.fixture
def loop(ledger: Ledger) -> Iterator[Retrainings]:
    found = Retrainings(ledger.home, World(), ledger)
    yield found
    found.close()
    if found.retraining is not None and found.retraining.stdout is not None:
        found.retraining.stdout.close()


def until(loop: Loop, seen: Any) -> None:
    end = time.monotonic() + 30
    while not seen():
        assert time.monotonic() < end
        loop.turn()
        time.sleep(0.02)


def test_pause_refuses_and_ends_retraining(loop: Retrainings) -> None:
    ledger = loop.ledger
    wish = ledger.wish("retrain", {}, "me")
    loop.turn()
    running = ledger.get_wish(wish)
    assert loop.retraining is not None and running is not None and running.runs
    ledger.wish("pause", {}, "me")
    until(loop, lambda: loop.retraining is None)
    ended = ledger.get_wish(wish)
    assert ended is not None and ended.state == "failed" and "paused" in str(ended.result)
    assert ledger.setting(RETRAINING) is None
    again = ledger.wish("retrain", {}, "me")
    loop.turn()
    refused = ledger.get_wish(again)
    assert refused is not None and "retraining is paused. Say `oliveira resume` first" in str(refused.result)
    loop._maybe_retrain("drift")
    assert loop.retraining is None
    with pytest.raises(UserError, match="oliveira resume"):
        ask(ledger, "retrain", {})


def test_a_retraining_that_is_withdrawn_ends(loop: Retrainings) -> None:
    wish = loop.ledger.wish("retrain", {}, "me")
    loop.turn()
    loop.ledger.withdraw_wish(wish, "Ctrl-C")
    until(loop, lambda: loop.retraining is None)
    assert "failed" not in {dict(labels).get("result") for _, labels, _, _ in loop.ledger.gauges()}, "nothing failed"


def test_a_second_retraining_is_refused(loop: Retrainings) -> None:
    first, second = loop.ledger.wish("retrain", {}, "me"), loop.ledger.wish("retrain", {}, "you")
    loop.turn()
    assert loop.ledger.is_pending(first)
    refused = loop.ledger.get_wish(second)
    assert refused is not None and "running already" in str(refused.result)


def test_a_retraining_by_hand_is_shown_until_it_ends(loop: Retrainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command shows what runs, and a retraining that outlasts its patience goes on, said so."""
    ledger = loop.ledger
    monkeypatch.setattr(asking, "LONG", 0.3)
    shown: list[Any] = []
    stop = threading.Event()

    def turn() -> None:
        while not stop.wait(0.02):
            loop.turn()

    thread = threading.Thread(target=turn)
    with holder(ledger.home, "loop"):
        thread.start()
        wish = ask(ledger, "retrain", {"trigger": "by hand"}, show=shown.append)
        found = overview(ledger)
        stop.set()
        thread.join()
    assert wish.runs and shown[-1]["phase"] == "train"
    assert [(each["kind"], each["state"]) for each in found["wishes"]] == [("retrain", "running")]


def test_verbs_are_all_known(ledger: Ledger) -> None:
    wish = ledger.get_wish(ledger.wish("dance", {}, "me"))
    assert wish is not None
    verbs.grant(ledger, wish)
    said = ledger.get_wish(wish.id)
    assert said is not None and said.state == "failed" and "unknown" in str(said.result)
