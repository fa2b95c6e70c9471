"""The parts of a task's life that need no process: plan, split of the truths, gate, order of the stages, visitors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oliveira.console.flow import FLOW, TASK_FLOW, flow_of
from oliveira.errors import UserError
from oliveira.lifecycle.gate import Measured, Scores, judge
from oliveira.lifecycle.latency import Latency
from oliveira.lifecycle.loop import stages_of
from oliveira.lifecycle.remembered import Asked, choose, fitted
from oliveira.lifecycle.task_lesson import HELD_OUT_SHARE, split_pairs
from oliveira.lifecycle.task_plan import check_task, chosen_model
from oliveira.lifecycle.visitors import changed
from oliveira.tasks.catalogue import fitting, suits, tasks
from oliveira.world import GateSection, TaskSection, World


def test_stages_are_in_the_order_that_is_shown(tmp_path: Path) -> None:
    assert tuple(stage.name for stage in stages_of(World(task=TaskSection(name="classify/digits")))) == TASK_FLOW
    assert tuple(stage.name for stage in stages_of(World())) == FLOW == flow_of(tmp_path)
    (tmp_path / "world.json").write_text(json.dumps(World(task=TaskSection(name="classify/digits")).model_dump()))
    assert flow_of(tmp_path) == TASK_FLOW


def test_a_task_without_a_model_gets_one_that_fits() -> None:
    for name, found in tasks().items():
        chosen = chosen_model(TaskSection(name=name))
        assert chosen in {fit.name for fit in fitting(found)}
        assert chosen == suits(found) or not suits(found), name


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"name": "classify/digitos"}, "classify/digits"),
        ({"name": "classify/digits", "model": "gru"}, "Models that do"),
        ({"name": "classify/digits", "model": "gruu"}, "gru"),
        ({"name": "classify/digits", "budget": "steps=0"}, "--budget"),
        ({"name": "classify/digits", "values": {"d_modell": 8}}, "d_model"),
        ({"name": "classify/digits", "values": {"lr": -1}}, "lr"),
        ({"name": "forecast/path:/nowhere/x.csv"}, "x.csv"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(section: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        check_task(World(task=TaskSection(**section)))


def test_a_start_names_task_and_model_and_another_is_asked_for(tmp_path: Path) -> None:
    chosen = choose(tmp_path, Asked(task="classify/digits", model="mlp", environment={}))
    assert (chosen.world.task.name, chosen.world.task.model) == ("classify/digits", "mlp")
    assert fitted(tmp_path, chosen).world == chosen.world


def test_every_request_is_on_one_side_and_stays_there() -> None:
    pairs = [({"text": f"t{number}"}, "a") for number in range(2000)]
    learned, held_out = split_pairs(pairs)
    assert len(learned) + len(held_out) == 2000
    assert abs(len(held_out) / 2000 - HELD_OUT_SHARE) < 0.03
    assert not {json.dumps(r) for r, _ in learned} & {json.dumps(r) for r, _ in held_out}
    more = split_pairs([*pairs, ({"text": "t0"}, "b"), ({"text": "new"}, "a")])
    assert all(pair in more[1] for pair in held_out) and all(pair in more[0] for pair in learned)
    twice = pairs[:1] * 2
    assert sorted(map(len, split_pairs(twice))) == [0, 2], "the same request is never on both sides"


LATENCY = Latency(champion=0.01, challenger=0.01, ratio=1.0, low=0.9, high=1.1)
GATE = GateSection(min_gain=0.02, max_forgetting=0.02)


@pytest.mark.parametrize(
    ("base", "new", "better", "passes", "why"),
    [
        (Scores(0.90, 0.90), Scores(0.5, 0.4), "higher", True, "every number"),
        (Scores(0.90, 0.85), Scores(0.5, 0.4), "higher", False, "accuracy on the known data is 5.56% worse"),
        (Scores(0.40, 0.45), Scores(0.5, 0.4), "higher", True, "every number"),
        (Scores(0.40, 0.45), Scores(0.5, 0.4), "lower", False, "accuracy on the known data is 12.50% worse"),
        (Scores(0.40, 0.35), Scores(0.5, 0.4), "lower", True, "every number"),
        (Scores(0.90, 0.90), Scores(0.5, 0.495), "higher", False, "fell by 1.00%, less than 2.00%"),
        (Scores(0.90, 0.90), Scores(100.0, 99.0), "higher", False, "fell by 1.00%, less than 2.00%"),
        (Scores(0.90, 0.90), Scores(0.0, 0.0), "higher", False, "fell by 0.00%"),
        (Scores(0.90, 0.90), Scores(0.5, 0.75), "higher", False, "rose by 50.00% and should fall by 2.00%"),
        (Scores(0.90, float("nan")), Scores(0.5, 0.4), "higher", False, "finite"),
    ],
)
def test_the_gate_judges_a_task_by_its_metric(base: Scores, new: Scores, better: str, passes: bool, why: str) -> None:
    measured = Measured(
        base=base, new=new, latency=LATENCY, smoke=True, metric="accuracy", better=better, error="error"
    )  # type: ignore[arg-type]
    passed, numbers = judge(measured, GATE)
    assert passed == passes and why in "; ".join(numbers["reasons"])
    assert numbers["scores"]["base"]["name"] == "accuracy" and numbers["scores"]["new"]["before"] == new.before
    json.dumps(numbers, allow_nan=False)


def test_visitors_come_from_another_world_with_the_truth_of_it() -> None:
    series = {"history": [1.0, -2.0], "start": "2024-01-01T00:00"}
    assert changed("series", series, [3.0]) == ({"history": [2.0, -4.0], "start": "2024-01-01T00:00"}, [6.0])
    assert changed("image", {"image": [[0, 16], [4, 0]]}, "seven") == ({"image": [[16, 0], [12, 16]]}, "seven")
    assert changed("tokens", {"text": "bom dia"}, "boa") == ({"text": "aid mob"}, "boa")
