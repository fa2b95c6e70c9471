"""A retraining of a task's model without a process: all weights, or LoRA on any model, merged and served as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from oliveira.adaptation.settings import AdaptSection
from oliveira.artifact import open_artifact, same_weights, write
from oliveira.compression.model import dequantise_model
from oliveira.errors import UserError
from oliveira.ledger import Ledger
from oliveira.lifecycle.task_lesson import TaskLesson
from oliveira.lifecycle.task_plan import check_task
from oliveira.runs.predict import GRAPH, export
from oliveira.runs.run import fit
from oliveira.tasks.catalogue import task
from oliveira.world import TaskSection, UpdateSection, World

COUNT = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a GRU has learnt a wave, and whose answers all had their truth told."""
    home = tmp_path_factory.mktemp("home")
    table = home / "wave.csv"
    table.write_text("v\n" + "\n".join(f"{(n % 8) / 4 + n / 1000:.3f}" for n in range(400)), encoding="utf-8")
    run = fit(f"forecast/path:{table}", model="gru", budget="steps=2", home=home, d_model=8)
    (home / "run").symlink_to(run.folder)
    return home


def lesson(home: Path, tmp_path: Path, place: str = "artifact", **update: Any) -> TaskLesson:
    opened = open_artifact((home / "run").resolve() / place)
    name = json.loads((opened.path / "task.json").read_bytes())["task"]
    adapt = AdaptSection(rank=4, alpha=8.0, lr=1e-2, batch_size=8, replay=0.0)
    world = World(task=TaskSection(name=name, model="gru"), adapt=adapt, update=UpdateSection(min_truths=10, **update))
    with Ledger(tmp_path / "ledger") as ledger:
        asked = task(name).open(home, lambda text: None).requests("validation", COUNT)
        for number, (request, truth) in enumerate(asked):
            row = f"pred-{number}"
            ledger.add_answer(
                row, time=1.0, digest=opened.digest, request=request, answer={"forecast": truth}, observed={}
            )
            ledger.add_truth(row, [value + 1 for value in truth], 1.0)
        return TaskLesson(home, ledger, world, opened)


@pytest.mark.parametrize("method", ["auto", "lora"])
def test_a_retraining_learns_what_came_back(home: Path, tmp_path: Path, method: str) -> None:
    made = lesson(home, tmp_path, method=method, steps=40)
    before, model = made.opened.load_model(), made.opened.load_model()
    (tmp_path / "run").mkdir()
    made.train(model, tmp_path / "run", lambda progress: None, lambda: False)
    batch = made.data.learn(made.held_out)
    with torch.no_grad():
        assert made.data.objective(model.eval(), batch) < 0.8 * made.data.objective(before, batch)
    whole = sum(p.numel() for p in before.parameters())
    assert model.state_dict().keys() == before.state_dict().keys() and not same_weights(model, before)
    assert made.amount.get("trained_parameters", whole) < whole or method == "auto"
    moved = {name for name, p in model.state_dict().items() if not torch.equal(p, before.state_dict()[name])}
    matrices = {name for name in moved if "weight" in name}
    assert (moved == matrices) == (method == "lora"), "LoRA moves matrices alone"


def test_lora_is_refused_before_anything_where_it_has_nothing_to_adapt() -> None:
    def world(method: str, **adapt: Any) -> World:
        section = TaskSection(name="classify/digits", model="mlp")
        return World(task=section, update=UpdateSection(method=method), adapt=AdaptSection(**adapt))  # type: ignore[arg-type]

    check_task(world("lora"))
    check_task(world("lora", targets=["output"]))
    check_task(world("auto", targets=["nothing"]))
    with pytest.raises(UserError, match=r"'nothing' names no linear layer of MLP\. Use some of 0, 1, output"):
        check_task(world("lora", targets=["nothing"]))


def test_a_challenger_is_judged_and_packaged_in_the_weights_of_its_champion(home: Path, tmp_path: Path) -> None:
    run = (home / "run").resolve()
    export(run, weights="int8")
    made = lesson(home, tmp_path, place="export", steps=1)
    champion, challenger = made.opened.load_model(), made.opened.load_model()
    dequantise_model(challenger)  # as `update` does before it is taught
    verdict = made.judge(champion, challenger, tmp_path / "made", "name")
    packaged = write(
        tmp_path / "made", model=challenger, name="gru", lineage={}, metrics=verdict.numbers, **verdict.parts
    )
    assert verdict.parts["weights"] == packaged.weights == "int8" and GRAPH in packaged.files
    assert verdict.numbers["smoke"] and verdict.numbers["forgetting"] == pytest.approx(0, abs=1e-3)
    assert same_weights(packaged.load_model(), made.opened.load_model()), "nothing was learnt, nothing rounded twice"
