"""The champion's files are damaged: what can be made again is, what cannot is put back by the loop, or told."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import life_helpers as life
import pytest
from serving_helpers import wait_for

from oliveira import artifact
from oliveira.ledger import Ledger
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.returning import PUT_BACK
from oliveira.lifecycle.stages import STAGES
from oliveira.lifecycle.traffic_load import Load
from oliveira.lifecycle.visitors import complete
from oliveira.process.progress import Reporter
from oliveira.world import load_world


@pytest.fixture
def damaged(updatable: Path, tmp_path: Path) -> Path:
    """A home in which one bit of the champion's weights is another."""
    home = Path(shutil.copytree(updatable, tmp_path / "home"))
    with Ledger(home) as ledger:
        row = ledger.artifact(ledger.alias("champion") or "")
    assert row is not None
    weights = row.path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return home


@pytest.mark.slow
def test_a_packaged_champion_is_made_again(damaged: Path) -> None:
    with Ledger(damaged) as ledger, Reporter(quiet=True) as report:
        champion = ledger.alias("champion")
        assert champion is not None and (row := ledger.artifact(champion)) is not None  # noqa: RUF018
        with pytest.raises(artifact.CorruptError):
            artifact.open_artifact(row.path, champion)
        Pipeline(STAGES, damaged, load_world("tiny", life.UPDATE, environment={}), ledger, report).run()
        assert ledger.alias("champion") == champion
        artifact.open_artifact(row.path, champion)


def crown_damaged(home: Path) -> str:
    """An update's artifact becomes champion and is damaged after that: no stage makes it again."""
    with Ledger(home) as ledger:
        row = ledger.artifact(ledger.alias("champion") or "")
        assert row is not None
        made = artifact.open_artifact(row.path)
        learnt = artifact.write(
            home / "artifacts" / "learnt", model=made.load_model(), name=made.name, weights=made.weights,
            tokenizer=row.path / "tokenizer.json", lineage={"stage": "update", "parent": row.digest}, metrics={},
        )  # fmt: skip
        (learnt.path / "model.safetensors").write_bytes(b"")
        ledger.add_artifact(learnt.digest, "update", learnt.path, learnt.lineage, learnt.metrics)
        ledger.promote(learnt.digest, actor="gate", numbers={})
    return learnt.digest


@contextlib.contextmanager
def up(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running `oliveira up`, and where it says its errors."""
    said = home.parent / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*life.command(home, "up"), "--port", "0", "--quiet"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, env=life.ENVIRONMENT,
        )  # fmt: skip
        try:
            yield process, said
        finally:
            process.terminate()
            process.wait(40)


def serving(ledger: Ledger) -> str | None:
    return (ledger.setting("serving") or {}).get("digest")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["while it serves", "while it is stopped"])
def test_the_loop_puts_a_damaged_champion_back(updatable: Path, tmp_path: Path, when: str) -> None:
    home = Path(shutil.copytree(updatable, tmp_path / "home"))
    with Ledger(home) as ledger:
        good, key = ledger.alias("champion"), ledger.add_key("ana", ("use",))
        bad = crown_damaged(home) if when == "while it is stopped" else ""
        with up(home) as (process, said), contextlib.ExitStack() as stack:
            wait_for(lambda: serving(ledger) or process.poll() is not None)
            load = None
            if not bad:
                place = json.loads((home / "front.json").read_text())
                load = stack.enter_context(
                    Load(f"http://{place['host']}:{place['port']}", key, complete, ["No"], workers=1)
                )
                wait_for(lambda: len(load.answers) >= 3)
                bad = crown_damaged(home)
            wait_for(lambda: ledger.alias("champion") == good or process.poll() is not None)
            wait_for(lambda: serving(ledger) == good)
            wait_for(lambda: b"was put back" in said.read_bytes())
        assert process.returncode == 0 and (load is None or load.failed == 0)
        [decision, *_] = ledger.decisions()
        assert (decision.verdict, decision.actor, decision.digest, decision.previous) == (
            "rolled back",
            "loop",
            good,
            bad,
        )
        assert "model.safetensors" in decision.numbers["reason"] and ledger.alias("previous") is None
        assert [e["data"]["digest"] for e in ledger.events(limit=1000) if e["kind"] == PUT_BACK] == [bad]


@pytest.mark.slow
def test_a_champion_that_cannot_be_served_is_told(updatable: Path, tmp_path: Path) -> None:
    """It was put back before, and somebody crowned it again: `up` says why it waits, and what helps."""
    home = Path(shutil.copytree(updatable, tmp_path / "home"))
    digest = crown_damaged(home)
    with Ledger(home) as ledger:
        ledger.event(PUT_BACK, {"digest": digest, "to": "", "reason": "a test"})
    with up(home) as (process, said):
        wait_for(lambda: b"\n" in said.read_bytes() or process.poll() is not None)
    assert f"the champion {digest[:12]} is not served" in (text := said.read_text()) and "swap" in text, text
    assert text.count("oliveira: ") == 1, text
