"""The champion's files are damaged while nothing runs: what can be made again is, what cannot is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import life_helpers as life
import pytest
from serving_helpers import wait_for

from oliveira import artifact
from oliveira.lifecycle.ledger import Ledger
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.progress import Reporter
from oliveira.lifecycle.stages import STAGES
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


@pytest.mark.slow
def test_a_champion_that_cannot_be_served_is_told(updatable: Path, tmp_path: Path) -> None:
    """An update's artifact is not a stage's: `up` says why it waits, and what helps."""
    home = Path(shutil.copytree(updatable, tmp_path / "home"))
    with Ledger(home) as ledger:
        row = ledger.artifact(ledger.alias("champion") or "")
        assert row is not None
        made = artifact.open_artifact(row.path)
        learnt = artifact.write(
            home / "artifacts" / "learnt", model=made.load_model(), name=made.name, weights=made.weights,
            tokenizer=row.path / "tokenizer.json", lineage={"stage": "update", "parent": row.digest}, metrics={},
        )  # fmt: skip
        ledger.add_artifact(learnt.digest, "update", learnt.path, learnt.lineage, learnt.metrics)
        ledger.promote(learnt.digest, actor="test", numbers={})
    (learnt.path / "model.safetensors").write_bytes(b"")
    said = tmp_path / "said"
    with said.open("wb") as file:
        up = subprocess.Popen(
            [*life.command(home, "up"), "--port", "0", "--quiet"],
            stdin=subprocess.DEVNULL, stderr=file, env=life.ENVIRONMENT,
        )  # fmt: skip
        try:
            wait_for(lambda: b"\n" in said.read_bytes() or up.poll() is not None)
        finally:
            up.terminate()
            up.wait(40)
    assert f"the champion {learnt.digest[:12]} is not served" in (text := said.read_text()) and "swap" in text, text
    assert text.count("oliveira: ") == 1, text
