"""Stages: run once, reused by key, made again when damaged, adopted when the process died between folder and ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from oliveira.console.flow import BOXES, FLOW, box_state, mermaid
from oliveira.errors import Interrupted, UserError
from oliveira.files import digest_directory, sha256_json
from oliveira.ledger import Ledger
from oliveira.lifecycle import pipeline
from oliveira.lifecycle.pipeline import RECORD, Context, Pipeline, Stage
from oliveira.lifecycle.stages import STAGES
from oliveira.process.progress import Reporter
from oliveira.world import World


class House:
    """Two stages that count their runs; the second needs the first."""

    def __init__(self, home: Path) -> None:
        self.home, self.ledger, self.ran = home, Ledger(home), []
        self.fails = False
        self.stages = (
            Stage("one", 1, (), lambda w: {"seed": w.seed}, self._one),
            Stage("two", 1, ("one",), lambda w: {}, self._two),
        )

    def _one(self, context: Context) -> dict[str, Any]:
        self.ran.append("one")
        (context.out / "text.txt").write_text(f"seed {context.world.seed}")
        return {"value": 7}

    def _two(self, context: Context) -> dict[str, Any]:
        self.ran.append("two")
        if self.fails:
            raise UserError("too little text. Give more.")
        (context.out / "copy.txt").write_text((context.results["one"] / "text.txt").read_text())
        return {"doubled": 2 * context.outputs["one"]["value"]}

    def run(self, world: World | None = None, should_stop: Any = lambda: False) -> dict[str, dict[str, Any]]:
        report = Reporter(quiet=True)
        return Pipeline(self.stages, self.home, world or World(), self.ledger, report, should_stop).run()

    def folder(self, name: str) -> Path:
        (found,) = (self.home / "stages" / name).iterdir()
        return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_finished_stages_are_reused(house: House) -> None:
    assert house.run()["two"] == {"doubled": 14} == house.run()["two"]
    assert house.ran == ["one", "two"]


def test_another_config_is_another_key_and_the_old_one_is_still_there(house: House) -> None:
    house.run()
    house.run(World(seed=1))
    house.run()
    assert house.ran == ["one", "two", "one", "two"]


def test_an_unchanged_result_stops_the_ripple(house: House) -> None:
    """Two's key is made of one's digest, so a different input with the same result would not run it again."""
    house.run()
    keys = {row.name: row.key for row in house.ledger.stages()}
    assert house.ledger.stage(keys["two"]).inputs["one"] == house.ledger.stage(keys["one"]).digest


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "extra", "record"])
def test_a_damaged_result_is_made_again(house: House, damage: str) -> None:
    house.run()
    victim = house.folder("one") / "text.txt"
    match damage:
        case "flip":
            victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
        case "truncate":
            victim.write_bytes(b"")
        case "delete":
            victim.unlink()
        case "extra":
            (house.folder("one") / "more.txt").write_text("x")
        case "record":
            record = json.loads((house.folder("one") / RECORD).read_text())
            record["outputs"]["value"] = 8
            (house.folder("one") / RECORD).write_text(json.dumps(record))
    house.run()
    assert house.ran == ["one", "two", "one"], "one is made again; its digest is the same, so two is reused"
    assert victim.read_text() == "seed 0"


def test_what_a_stage_left_elsewhere_is_part_of_its_result(house: House) -> None:
    """An artifact lies beside the stages: damaged, the stage that made it is run again."""
    there = True
    house.stages = (dataclasses.replace(house.stages[0], whole=lambda ledger, outputs: there), house.stages[1])
    house.run()
    house.run()
    assert house.ran == ["one", "two"]
    there = False
    house.run()
    assert house.ran == ["one", "two", "one"]


def test_a_folder_that_is_whole_is_adopted(house: House) -> None:
    """Killed after the rename and before the ledger: the stage is not run a second time."""
    house.run()
    key = next(row.key for row in house.ledger.stages() if row.name == "one")
    house.ledger._connection.execute("UPDATE stage SET state = 'running', digest = NULL WHERE key = ?", (key,))
    house.run()
    assert house.ran == ["one", "two"]
    assert house.ledger.stage(key).state == "done"


def test_a_result_that_is_whole_but_not_the_one_that_the_ledger_knows_is_made_again(house: House) -> None:
    """Forged consistently: the files agree with their record, and the record's digest is not that of the ledger."""
    house.run()
    folder = house.folder("one")
    (folder / "text.txt").write_text("seed 9")
    record = json.loads((folder / RECORD).read_text())
    record["files"] = {name: digest for name, digest in digest_directory(folder).items() if name != RECORD}
    record["digest"] = sha256_json({"files": record["files"], "outputs": record["outputs"]})
    (folder / RECORD).write_text(json.dumps(record))
    house.run()
    assert house.ran == ["one", "two", "one"]
    assert (folder / "text.txt").read_text() == "seed 0"


def test_another_keys_result_is_not_adopted(house: House) -> None:
    """A folder in the right place with another key's record (a home put together by hand) is no result."""
    house.run(World(seed=1))
    other = house.folder("one")
    house.run()
    (mine,) = (folder for folder in other.parent.iterdir() if folder != other)
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    key = next(row.key for row in house.ledger.stages() if row.name == "one" and row.key.startswith(mine.name))
    house.ledger._connection.execute("UPDATE stage SET state = 'running', digest = NULL WHERE key = ?", (key,))
    house.run()
    assert house.ran == ["one", "two", "one", "two", "one"]
    assert (mine / "text.txt").read_text() == "seed 0"


def test_the_seconds_of_a_stage_count_what_was_spent_before_a_stop(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now)

    def stopped(context: Context) -> dict[str, Any]:
        nonlocal now
        now += 5.0
        raise Interrupted("stopped; start again to go on.")

    def ended(context: Context) -> dict[str, Any]:
        nonlocal now
        now += 2.0
        return {}

    for run in (stopped, stopped, ended):
        house.stages = (dataclasses.replace(house.stages[0], run=run),)
        with contextlib.suppress(Interrupted):
            house.run()
    (row,) = house.ledger.stages()
    assert row.state == "done"
    assert json.loads((house.folder("one") / RECORD).read_text())["seconds"] == 12.0


def test_a_failed_stage_is_recorded_and_run_again(house: House) -> None:
    house.fails = True
    with pytest.raises(UserError):
        house.run()
    row = next(row for row in house.ledger.stages() if row.name == "two")
    assert (row.state, row.message) == ("failed", "too little text. Give more.")
    assert not (house.home / "stages" / "two").exists() or not any((house.home / "stages" / "two").iterdir())
    house.fails = False
    assert house.run()["two"] == {"doubled": 14}
    assert house.ran == ["one", "two", "two"]


def test_stopping_keeps_what_is_finished(house: House) -> None:
    with pytest.raises(Interrupted):
        house.run(should_stop=lambda: bool(house.ran))
    house.run()
    assert house.ran == ["one", "two"]


def test_the_flow_names_every_stage() -> None:
    assert tuple(stage.name for stage in STAGES) == FLOW
    assert {stage for _, _, stages in BOXES for stage in stages} == {*FLOW, "update"}


def test_mermaid_shows_the_state_of_each_box() -> None:
    text = mermaid({"collect": "done", "preprocess": "done", "train": "running"})
    assert 'A["Coleta de Dados<br/>done"]:::done' in text and 'C["Treinamento Base<br/>running"]:::running' in text
    assert "G --> A" in text
    assert box_state(["done", "failed", "running"]) == "failed" and box_state(["done", "waiting"]) == "waiting"
