"""The ledger against a dictionary that knows the rules, in any order of calls; and against `kill -9`."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from oliveira.errors import OliveiraError, UserError
from oliveira.ledger import Ledger

KEYS = st.sampled_from(["k1", "k2", "k3"])
DIGESTS = st.sampled_from(["a", "b", "c"])


class LedgerMachine(RuleBasedStateMachine):
    """Every rule acts on both; the invariant compares them. `reopen` is what a killed process does next."""

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.ledger = Ledger(self.home)
        self.stages: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.artifacts: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.decisions: list[tuple[str, str | None, str | None]] = []
        self.served: list[str] = []  # the way back: the last is the champion
        self.wishes: dict[int, str] = {}
        self.secrets: dict[str, bool] = {}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.home)

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.home)

    @rule(key=KEYS)
    def begin(self, key: str) -> None:
        if self.stages.get(key) == "done":
            with pytest.raises(OliveiraError):
                self.ledger.begin_stage(key, "stage", {}, {}, "me")
            return
        self.ledger.begin_stage(key, "stage", {}, {}, "me")
        self.stages[key] = "running"
        self.attempts[key] = self.attempts.get(key, 0) + 1

    @rule(key=KEYS, fails=st.booleans())
    def end(self, key: str, fails: bool) -> None:
        running = self.stages.get(key) == "running"
        if fails:
            self.ledger.fail_stage(key, "because")
        elif running:
            self.ledger.finish_stage(key, "digest", {}, 1.0)
        else:
            with pytest.raises(OliveiraError):
                self.ledger.finish_stage(key, "digest", {}, 1.0)
        if running:
            self.stages[key] = "failed" if fails else "done"

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.ledger.forget_stage(key)
        self.stages.pop(key, None)
        self.attempts.pop(key, None)

    @rule(digest=DIGESTS)
    def add(self, digest: str) -> None:
        self.ledger.add_artifact(digest, "model", self.home / "artifacts" / digest, {}, {})
        self.artifacts.add(digest)

    @rule(digest=DIGESTS)
    def challenge(self, digest: str) -> None:
        if digest in self.artifacts:
            self.ledger.set_challenger(digest)
            self.aliases["challenger"] = digest
        else:
            with pytest.raises(UserError):
                self.ledger.set_challenger(digest)

    @rule(digest=DIGESTS)
    def promote(self, digest: str) -> None:
        if digest not in self.artifacts:
            with pytest.raises(UserError):
                self.ledger.promote(digest, actor="me", numbers={})
            return
        self.ledger.promote(digest, actor="me", numbers={})
        old = self.aliases.get("champion")
        self.served = [*(other for other in self.served if other != digest), digest]
        self._point_previous()
        if self.aliases.get("challenger") == digest:
            del self.aliases["challenger"]
        self.aliases["champion"] = digest
        self.decisions.append(("promote", digest, old))

    def _point_previous(self) -> None:
        self.aliases.pop("previous", None)
        if len(self.served) > 1:
            self.aliases["previous"] = self.served[-2]

    @rule()
    def rollback(self) -> None:
        if "previous" not in self.aliases:
            with pytest.raises(UserError):
                self.ledger.rollback(actor="me", reason="-")
            return
        champion, previous = self.aliases["champion"], self.aliases["previous"]
        assert self.ledger.rollback(actor="me", reason="-") == previous
        self.aliases["champion"] = previous
        if self.aliases.get("challenger") == previous:
            del self.aliases["challenger"]
        self.served.pop()
        self._point_previous()
        self.decisions.append(("rollback", previous, champion))

    @rule()
    def wish(self) -> None:
        self.wishes[self.ledger.wish("swap", {}, "me")] = "pending"

    @rule(choice=st.integers(0, 100), state=st.sampled_from(["done", "failed"]))
    def grant(self, choice: int, state: str) -> None:
        if self.wishes:
            number = sorted(self.wishes)[choice % len(self.wishes)]
            assert self.ledger.finish_wish(number, state, {}) == (self.wishes[number] == "pending")
            if self.wishes[number] == "pending":
                self.wishes[number] = state

    @rule()
    def add_key(self) -> None:
        self.secrets[self.ledger.add_key("key", ("use",))] = True

    @rule(choice=st.integers(0, 100))
    def revoke(self, choice: int) -> None:
        if self.secrets:
            secret = list(self.secrets)[choice % len(self.secrets)]
            number = secret.split("-")[2]
            if self.secrets[secret]:
                self.ledger.revoke_key(number)
                self.secrets[secret] = False
            else:
                with pytest.raises(UserError):
                    self.ledger.revoke_key(number)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert {row.key: row.state for row in self.ledger.stages()} == self.stages
        assert {row.key: row.attempts for row in self.ledger.stages()} == self.attempts
        assert {row.digest for row in self.ledger.artifacts()} == self.artifacts
        assert self.ledger.aliases() == self.aliases
        found = [(d.kind, d.digest, d.previous) for d in reversed(self.ledger.decisions(10_000))]
        assert found == self.decisions
        pending = [number for number, state in sorted(self.wishes.items()) if state == "pending"]
        assert [wish.id for wish in self.ledger.pending_wishes()] == pending
        assert {secret: self.ledger.verify_key(secret) is not None for secret in self.secrets} == self.secrets


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# A writer that prints each row after it was acknowledged, and promotes a and b in turn.
WRITER = """
import json, os, sys
from pathlib import Path
from oliveira.ledger import Ledger
home = Path(sys.argv[1])
with Ledger(home) as ledger:
    for digest in ("a", "b"):
        ledger.add_artifact(digest, "model", home / "artifacts" / digest, {}, {})
    os.write(1, b"null\\n")
    n = 0
    while True:
        event = ledger.event("row", {"n": n, "text": "x" * (n * 37 % 3000)})
        os.write(1, json.dumps({"event": event, "n": n}).encode() + b"\\n")
        decision = ledger.promote("ab"[n % 2], actor="writer", numbers={"n": n})
        os.write(1, json.dumps({"decision": decision, "digest": "ab"[n % 2]}).encode() + b"\\n")
        n += 1
"""


def test_kill_9_loses_no_acknowledged_row(tmp_path: Path) -> None:
    chance, events, decisions, last_n = random.Random(0), {}, {}, 0
    for _ in range(25):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"null\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(chance.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
            said = writer.stdout.read()
        for line in said.splitlines(keepends=True):
            if line.endswith(b"\n"):  # a torn line acknowledges nothing
                row = json.loads(line)
                events |= {row["event"]: row["n"]} if "event" in row else {}
                decisions |= {row["decision"]: row["digest"]} if "decision" in row else {}
        with Ledger(tmp_path) as ledger:
            assert ledger.check()
            kept = {event["id"]: event["data"]["n"] for event in ledger.events(limit=1_000_000)}
            made = {decision.id: decision.digest for decision in ledger.decisions(1_000_000)}
            assert events.items() <= kept.items(), "an acknowledged event is lost"
            assert decisions.items() <= made.items(), "an acknowledged decision is lost"
            if made:
                assert ledger.alias("champion") == made[max(made)], "the alias is the last decision's"
        last_n = max([last_n, *events.values()])
    assert len(events) > 25 and last_n > 3, "the writer was killed in the middle of its work"
