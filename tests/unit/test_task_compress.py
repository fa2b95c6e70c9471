"""int8 weights in a task's life: smaller, measured, served; float32 with a sentence where they cost too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from oliveira.artifact import open_artifact
from oliveira.compression.model import QUANTISED
from oliveira.compression.settings import CompressSection
from oliveira.console.flow import COMPRESSED_FLOW, TASK_FLOW, flow_of
from oliveira.export.settings import ExportSection
from oliveira.ledger import Ledger
from oliveira.lifecycle import task_compress
from oliveira.lifecycle.gate import Scores
from oliveira.lifecycle.latency import Latency
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.task_compress import refusal, said
from oliveira.lifecycle.task_stages import task_stages
from oliveira.process.progress import Reporter
from oliveira.runs.predict import GRAPH, Predictor, export
from oliveira.runs.run import fit
from oliveira.tasks.base import Metric
from oliveira.world import GateSection, TaskSection, World

MAE, ACCURACY = Metric(name="MAE", better="lower"), Metric(name="accuracy", better="higher")


def lived(home: Path, until: str = "monitor", **sections: Any) -> dict[str, dict[str, Any]]:
    """What the stages of a small life gave, up to one of them."""
    task = TaskSection(name="classify/digits", model="mlp", budget="steps=30", values={"d_model": 64, "threads": 1})
    world = World(task=task, compress=CompressSection(serve="int8"), gate=GateSection(max_forgetting=0.5), **sections)
    stages = task_stages(world)
    stages = stages[: [stage.name for stage in stages].index(until) + 1]
    with Ledger(home) as ledger, Reporter(quiet=True) as report:
        return Pipeline(stages, home, world, ledger, report, lambda: False).run()


def test_a_life_serves_int8_weights_and_says_what_they_cost(tmp_path: Path) -> None:
    outputs = lived(tmp_path, until="serve")
    told, digest = outputs["compress"], outputs["serve"]["champion"]
    with Ledger(tmp_path) as ledger:
        row = ledger.artifact(digest)
    assert row is not None
    champion = open_artifact(row.path, digest)
    assert told["weights"] == champion.weights == "int8" and not told["reason"]
    assert told["int8_bytes"] == (champion.path / GRAPH).stat().st_size < 0.5 * told["fp32_bytes"]
    kinds = {tensor.data_type for tensor in onnx.load(champion.path / GRAPH).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds, "the graph holds the codes"
    assert any(isinstance(layer, QUANTISED) for layer in champion.load_model().modules())
    assert told["told"].startswith("int8: ") and "MB instead of" in told["told"] and "ms an answer" in told["told"]
    assert abs(told["int8_metric"] - told["fp32_metric"]) < 0.1
    assert lived(tmp_path, until="compress")["compress"] == told, "found again, not measured again"


def test_without_graphs_the_weights_themselves_are_bytes(tmp_path: Path) -> None:
    told = lived(tmp_path, until="compress", export=ExportSection(onnx=False))["compress"]
    [place] = (tmp_path / "stages" / "compress").glob("*/export")
    made = open_artifact(place)
    assert made.weights == told["weights"] == "int8" and GRAPH not in made.files
    assert told["int8_bytes"] == (place / "model.safetensors").stat().st_size < 0.5 * told["fp32_bytes"]


@pytest.mark.parametrize(
    ("metric", "scores", "sizes", "why"),
    [
        (MAE, Scores(1.0, 1.01), (10, 5), ""),
        (MAE, Scores(1.0, 1.03), (10, 5), "MAE is 3.00% worse, more than gate.max_forgetting = 2.00%"),
        (MAE, Scores(1.0, 0.5), (10, 5), ""),
        (ACCURACY, Scores(0.9, 0.85), (10, 5), "accuracy is 5.56% worse"),
        (ACCURACY, Scores(0.9, 0.95), (10, 5), ""),
        (ACCURACY, Scores(0.9, float("nan")), (10, 5), "worse"),
        (MAE, Scores(1.0, 1.0), (1000, 1000), "less than a twentieth is saved"),
        (MAE, Scores(1.0, 1.0), (1000, 960), "less than a twentieth is saved"),
        (MAE, Scores(1.0, 1.0), (1000, 900), ""),
    ],
)
def test_float32_is_served_where_int8_costs_too_much_or_saves_nothing(
    metric: Metric, scores: Scores, sizes: tuple[int, int], why: str
) -> None:
    found = refusal(metric, scores, sizes, 0.02)
    assert why in found and bool(why) == bool(found)


def test_what_was_refused_is_not_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_compress, "refusal", lambda *a: "a reason")
    outputs = lived(tmp_path, until="serve")
    assert (outputs["compress"]["weights"], outputs["compress"]["reason"]) == ("fp32", "a reason")
    with Ledger(tmp_path) as ledger:
        row = ledger.artifact(outputs["serve"]["champion"])
    assert row is not None and open_artifact(row.path, row.digest).weights == "fp32"


def test_slower_is_reported_as_slower() -> None:
    def line(low: float) -> str:
        latency = Latency(champion=0.001, challenger=0.0012, ratio=1.2, low=low, high=1.4)
        return said("int8", MAE, "kW", Scores(1.0, 1.01), (2_000_000, 600_000), latency)

    assert line(0.9) == "int8: 0.60 MB instead of 2.00, MAE 1.01 instead of 1 kW, 1.20 ms an answer instead of 1.00"
    assert line(1.1) == line(0.9) + ", which is slower"


def test_the_flow_has_the_stage_only_where_it_is_asked_for(tmp_path: Path) -> None:
    for serve, flow in (("fp32", TASK_FLOW), ("int8", COMPRESSED_FLOW)):
        world = World(task=TaskSection(name="classify/digits"), compress=CompressSection(serve=serve))  # type: ignore[arg-type]
        (tmp_path / "world.json").write_text(json.dumps(world.model_dump()))
        assert tuple(stage.name for stage in task_stages(world)) == flow_of(tmp_path) == flow


def test_a_run_is_exported_in_bytes(tmp_path: Path) -> None:
    run = fit("probe/adding", model="mlp", budget="steps=2", home=tmp_path, d_model=64, batch_size=4, threads=1)
    plain, lines = export(run.folder), list[str]()
    figures = export(run.folder, lines.append, weights="int8")
    assert figures["bytes"] < 0.6 * plain["bytes"] and plain["weights"] == "fp32" and plain["rounding"] == 0
    assert figures["weights"] == "int8" and 0 < figures["rounding"] < 0.1
    assert any("int8 weights change the outputs" in line for line in lines)
    assert Predictor(run.folder).artifact.weights == "int8"
