"""Runs, checkpoints and artifacts of programs whose configs said `gives`: tests/homes/runs-with-gives.tar.gz holds an
LSTM stopped at step 4 of 6, an MLP and a causal transformer that had finished, all written in November 2026.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oliveira import artifact
from oliveira.runs.predict import Predictor
from oliveira.runs.records import find_run
from oliveira.runs.run import fit
from oliveira.training.curves import read_curve

STORED = Path(__file__).parents[1] / "homes" / "runs-with-gives.tar.gz"
AS_THEN: dict[str, Any] = dict(budget="steps=6", d_model=2, threads=1, batch_size=4, checkpoint_every=3)
AS_THEN |= dict(evaluate_every=6)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with tarfile.open(STORED) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "home"


def test_a_stopped_run_goes_on_with_the_same_bits(home: Path, tmp_path: Path) -> None:
    (folder,) = (home / "runs" / "probe-functions" / "lstm").iterdir()
    assert json.loads((folder / "settings.json").read_text())["config"]["gives"] == "one"
    steps: list[int] = []
    run = fit("probe/functions", model="lstm", home=home, on_progress=lambda p: steps.append(p.step), **AS_THEN)
    assert run.folder == folder and steps == [5, 6]
    whole = fit("probe/functions", model="lstm", home=tmp_path / "new", **AS_THEN)
    assert whole.folder.name != folder.name and "gives" not in whole.result["config"]
    assert artifact.same_weights(run.load(), whole.load())
    losses = [[row["loss"] for row in read_curve(r.folder / "curve.jsonl") if "loss" in row] for r in (run, whole)]
    assert losses[0] == losses[1]


def test_a_finished_run_is_found_again_and_answers(home: Path) -> None:
    steps: list[int] = []
    run = fit("probe/functions", model="mlp", home=home, on_progress=lambda p: steps.append(p.step), **AS_THEN)
    assert not steps and run.folder.parent.parent == home / "runs" / "probe-functions"
    assert Predictor(run.folder)(Predictor(run.folder).example)["value"] is not None


def test_the_head_of_an_old_artifact_is_the_one_it_had(home: Path) -> None:
    folder = find_run(home, "probe/induction/transformer") / "artifact"
    assert json.loads((folder / "config.json").read_text())["config"]["gives"] == "next"
    opened = artifact.open_artifact(folder)
    model: Any = opened.load_model()
    assert opened.gives == model.gives == "next" and "gives" not in opened.config
    again = artifact.write(
        folder.parent / "again", model=model, name=opened.name, lineage=opened.lineage, metrics=opened.metrics
    )
    assert again.gives == "next" and "gives" not in json.loads((again.path / "config.json").read_text())["config"]
    assert artifact.same_weights(again.load_model(), model)
