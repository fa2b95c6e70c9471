"""A user's file that is gone: what was learnt from it is served; what needs it waits, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oliveira.console.flow import FLOW, TASK_FLOW
from oliveira.errors import UserError
from oliveira.files import sha256_file, write_json_atomic
from oliveira.ledger import LIFE, Ledger
from oliveira.lifecycle.loop import Loop
from oliveira.lifecycle.overview import overview, overview_lines
from oliveira.lifecycle.own_file import gone, serves_without
from oliveira.lifecycle.pipeline import Context, Pipeline, Stage
from oliveira.lifecycle.remembered import IN_FORCE, Asked, Chosen, choose, fitted, remember
from oliveira.process.progress import Reporter
from oliveira.world import TaskSection, World

DIGEST = "a" * 64


def of_task(name: str) -> World:
    return World(task=TaskSection(name=name))


def test_which_file_is_gone(tmp_path: Path) -> None:
    odd = tmp_path / "a?b%.csv"
    odd.touch()
    (tmp_path / "textos").mkdir()
    there = [
        *("forecast/power", "lm/bncc", f"forecast/path:{tmp_path}/a%3Fb%.csv?target=kwh"),
        f"classify/path:{tmp_path}/textos?of=texts",
    ]
    assert [gone(of_task(name)) for name in there] == [None] * 4
    odd.unlink()
    assert gone(of_task(there[2])) == odd
    text = World()
    assert gone(text) is None, "a text of the registry"
    for base, place in ((f"{tmp_path}/textos", None), (f"{tmp_path}/t.zip?text=corpo", tmp_path / "t.zip")):
        assert gone(text.model_copy(update={"data": text.data.model_copy(update={"base": f"path:{base}"})})) == place


class House:
    """A life of one stage that reads a file."""

    def __init__(self, folder: Path) -> None:
        self.file, self.home, self.ran = folder / "kwh.csv", folder / "home", 0
        self.file.write_text("kwh\n1\n")
        self.ledger = Ledger(self.home)
        self.world = of_task(f"forecast/path:{self.file}?target=kwh")
        self.stage = Stage("collect", 1, (), lambda w: {"task": w.task.name}, self._collect, inputs=self._inputs)

    def _inputs(self, world: World, home: Path) -> dict[str, str]:
        if not self.file.exists():
            raise UserError(f"{self.file} does not exist. Give it.")
        return {"content": sha256_file(self.file)}

    def _collect(self, context: Context) -> dict[str, Any]:
        self.ran += 1
        return {"rows": 1}

    def run(self, world: World | None = None) -> None:
        Pipeline((self.stage,), self.home, world or self.world, self.ledger, Reporter(quiet=True)).run()


def test_finished_stages_are_found_again_without_the_file(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.run()
    house.file.unlink()
    house.run()
    house.ledger.set_setting(LIFE, {})  # killed in the first moment of a start
    house.run()
    assert house.ran == 1
    with pytest.raises(UserError, match="does not exist"):
        house.run(of_task(f"forecast/path:{house.file}?target=outra"))
    house.file.write_text("kwh\n2\n")
    house.run()
    assert house.ran == 2, "other content is learnt anew"


def lived(home: Path, world: World, flow: tuple[str, ...]) -> Chosen:
    """Every stage of it is done; what was in force had one field planned."""
    chosen = Chosen(world, "default", frozenset())
    planned = world.model_copy(update={"monitor": world.monitor.model_copy(update={"window": 123})})
    with Ledger(home) as ledger:
        for name in flow:
            ledger.begin_stage(name, name, {}, {}, "me")
            ledger.finish_stage(name, DIGEST, {}, 1.0)
        ledger.add_artifact(DIGEST, "base", home, {}, {})
        ledger.promote(DIGEST, actor="me", numbers={})
    remember(home, chosen)
    write_json_atomic(home / IN_FORCE, planned.model_dump())
    return chosen


@pytest.mark.parametrize("kind", ["task", "text"])
def test_a_start_serves_what_was_learnt_and_says_what_is_gone(tmp_path: Path, kind: str) -> None:
    asked = Asked(task=f"classify/path:{tmp_path}/t.csv", environment={})
    asked = asked if kind == "task" else Asked(text=str(tmp_path / "textos"), environment={})
    world, home = choose(tmp_path / "new", asked).world, tmp_path / "home"
    with pytest.raises(UserError):
        fitted(tmp_path / "new", Chosen(world, "default", frozenset()))
    lived(home, world, TASK_FLOW if kind == "task" else FLOW)
    again = fitted(home, choose(home, Asked(overrides={"update.on_drift": "false"}, environment={})))
    assert f"{tmp_path}/te" in again.warning or f"{tmp_path}/t.csv is gone" in again.warning
    assert ("retraining waits for it" in again.warning) == (kind == "task")
    assert again.world.monitor.window == 123 and not again.world.update.on_drift, "planned then, and changed now"
    with Ledger(home) as ledger:
        assert dict(overview_lines(overview(ledger)))["data"] == again.warning
    other = {"task.name": f'"classify/path:{tmp_path}/x.csv"', "data.base": f'"path:{tmp_path}/x"'}
    with pytest.raises(UserError):
        fitted(home, choose(home, Asked(overrides=other, environment={})))


def test_a_life_that_is_not_done_wants_its_file(tmp_path: Path) -> None:
    world = of_task(f"classify/path:{tmp_path}/t.csv")
    chosen = lived(tmp_path / "home", world, TASK_FLOW[:-1])
    with pytest.raises(UserError, match="does not exist"):
        fitted(tmp_path / "home", chosen)


def test_a_task_is_not_retrained_without_its_data_and_is_when_they_are_back(tmp_path: Path) -> None:
    house = House(tmp_path)
    loop = Loop.__new__(Loop)
    loop.home, loop.world, loop.ledger, loop.retraining, loop._wish = house.home, house.world, house.ledger, None, None
    loop._last_update, loop.watch = 0.0, type("Watch", (), {"enough": lambda self: True})()  # type: ignore[assignment]
    started: list[str] = []
    loop._start_retraining = lambda trigger, wish=None: started.append(trigger)  # type: ignore[method-assign]
    house.file.unlink()
    loop._maybe_retrain("drift")
    number = house.ledger.wish("retrain", {}, actor="ana")
    loop.grant_all()
    wish = house.ledger.get_wish(number)
    assert not started and wish is not None and wish.state == "failed"
    assert wish.result is not None and "kwh.csv is gone" in wish.result["error"]
    house.file.write_text("kwh\n1\n")
    loop._maybe_retrain("drift")
    assert started == ["drift"]


@pytest.mark.parametrize("change", ["nothing", "task", "data", "base", "stage", "champion"])
def test_a_life_serves_without_its_file_only_as_it_was(change: str, tmp_path: Path) -> None:
    world = of_task("forecast/path:kwh.csv?target=kwh")
    in_force = world.model_dump()
    with Ledger(tmp_path) as ledger:
        for name in TASK_FLOW[: -1 if change == "stage" else None]:
            ledger.begin_stage(name, name, {}, {}, "pid 1")
            ledger.finish_stage(name, DIGEST, {}, 1.0)
        if change != "champion":
            ledger.add_artifact(DIGEST, "base", tmp_path / "artifacts" / "a", {}, {})
            ledger.promote(DIGEST, actor="pipeline", numbers={}, kind="deploy")
        if change == "task":
            world = of_task("forecast/path:kwh.csv?target=outra")
        for section, field in (("data", "new"), ("base", "name")):
            if change == section:
                value = getattr(world, section).model_copy(update={field: "another"})
                world = world.model_copy(update={section: value})
        assert serves_without(ledger, world, in_force) is (change == "nothing")
