"""What `oliveira status` shows of a stage: the figure that counts, and one champion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from oliveira import cli
from oliveira.files import write_json_atomic
from oliveira.ledger import LIFE, Ledger
from oliveira.lifecycle.overview import overview
from oliveira.lifecycle.stages import STAGES
from oliveira.lifecycle.summaries import OF_TASK, OF_TEXT, told
from oliveira.lifecycle.task_stages import task_stages
from oliveira.process.holder import holder
from oliveira.world import World

TRAINED = {"baseline": "last value", "baseline_test": 0.6612, "metric": "MAE", "model": "gru", "unit": "kW"}
TRAINED |= {"parameters": 26904, "steps": 300, "test": 0.41361, "validation": 0.4}


@pytest.mark.parametrize(
    ("name", "outputs", "line"),
    [
        ("train", TRAINED, "gru: MAE 0.4136 kW, last value 0.6612"),
        ("train", {"validation_bits_per_byte": 1.5, "steps": 9}, "1.500 bits per byte"),
        ("compress", {"int8_bytes": 1 << 20, "fp32_bytes": 4 << 20, "int8_loss": 1.0}, "fp32 4.00 MiB, int8 1.00 MiB"),
        ("export", {"onnx": "off"}, "ONNX: off"),
        ("monitor", {"windows": 0, "alarms": 0, "watched": "yes"}, "drift is watched, false alarms are not counted"),
        ("monitor", {"windows": 0, "alarms": 0, "watched": "no"}, "no drift is watched"),
        ("monitor", {"windows": 40, "alarms": 1, "rate": 0.025}, "1 false alarms in 40 windows"),
        ("train", {"of": "a version to come"}, ""),
    ],
)
def test_a_stage_in_a_line(name: str, outputs: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEIRA_LANG", "en")
    assert told(name, dict(sorted(outputs.items()))) == line


def test_every_stage_has_its_line() -> None:
    world = World.model_validate({"compress": {"serve": "int8", "methods": ["int8"]}})
    for stages, lines in ((STAGES, OF_TEXT), (task_stages(world), OF_TASK)):
        assert {stage.name: stage.summary for stage in stages} == lines


@pytest.mark.parametrize(("language", "train"), [("en", "gru: MAE 0.4136 kW"), ("pt-BR", "gru: MAE 0,4136 kW, último")])
def test_after_a_promotion_there_is_one_champion(
    language: str, train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLIVEIRA_LANG", language)
    monkeypatch.setenv("COLUMNS", "150")
    first, second = "a" * 64, "b" * 64
    with Ledger(tmp_path) as ledger:
        for name, outputs in (("train", TRAINED), ("serve", {"champion": first})):
            ledger.begin_stage(name, name, {}, {}, "pid 1")
            ledger.finish_stage(name, "d" * 64, outputs, 1.5)
        ledger.set_setting(LIFE, {"train": "train", "serve": "serve"})
        for digest in (first, second):
            ledger.add_artifact(digest, "base", tmp_path, {}, {})
            ledger.promote(digest, actor="ana", numbers={})
    world = {"task": {"name": "forecast/power"}, "serve": {"keep_traffic": True, "traffic_megabytes": 64}}
    write_json_atomic(tmp_path / "world.json", world)
    monkeypatch.setattr(sys, "argv", ["oliveira", "status", "--home", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert not ended.value.code and train in out and out.count(first[:12]) == 1 and out.count(second[:12]) == 2
    assert ("requests are kept" if language == "en" else "pedidos são guardados") in out


def test_progress_is_of_the_stage_that_learns(tmp_path: Path) -> None:
    """A gauge outlives its stage: what `train` said last is no news while `monitor` runs."""
    with Ledger(tmp_path) as ledger:
        ledger.set_gauges({("train_step", ()): 36.0, ("train_steps", ()): 40.0})
        ledger.begin_stage("t", "train", {}, {}, "pid 1")
        ledger.set_setting(LIFE, {"train": "t"})
        with holder(tmp_path, "up"):
            assert overview(ledger)["progress"] == {"train_step": 36.0, "train_steps": 40.0}
            ledger.finish_stage("t", "d" * 64, {}, 1.0)
            ledger.begin_stage("m", "monitor", {}, {}, "pid 1")
            ledger.set_setting(LIFE, {"train": "t", "monitor": "m"})
            assert overview(ledger)["progress"] is None
