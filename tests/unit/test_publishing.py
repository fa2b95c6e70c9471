"""Figures on their way from a model to a stored result: the right split, metric, seed, band and verdict.

The task is a fake whose every figure says where it comes from, so that any mix-up shows in a digit.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from oliveira.runs.records import Run
from oliveira.runs.run import fit
from oliveira.study import provenance, publication, recipes, reproduction, world_recipe
from oliveira.study.recipes import inside, measured, verdicts
from oliveira.study.reproduction import complaints, reproduce, reproduce_all
from oliveira.tasks.base import Batch, Data, Metric, Split, Task
from oliveira.tasks.catalogue import tasks
from oliveira.world import World

SEEDS = [2, 0, 1]
BASE = {"validation": 10.0, "test": 20.0}
SHIFT = {0: 0.0, 1: 1.0, 2: 4.0}  # of a seed
TEST = [24.0, 20.0, 21.0]  # the metric of SEEDS, in their order
STD = statistics.stdev(TEST)


class FakeData(Data):
    sizes = {"d_in": 1, "d_out": 1, "max_len": 2}  # noqa: RUF012
    counts = {"train": 4, "validation": 2, "test": 2}  # noqa: RUF012
    baselines = {"low": 15.0, "high": 25.0}  # noqa: RUF012

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        self.seed = seed
        return Batch((torch.ones(size, 2, 1),), torch.zeros(size, 1))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return (output - targets).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        return {"first": -1.0, "error": BASE[split] + SHIFT[self.seed], "hits": BASE[split] / 100}

    def state(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def answer(state: dict[str, Any], run: Any, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    def request(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class FakeTask(Task):
    def open(self, home: Path, say: Any) -> FakeData:
        return FakeData()


def enter(monkeypatch: pytest.MonkeyPatch, better: Literal["higher", "lower"]) -> None:
    metric = Metric(name="error", better=better, unit="kW")
    fake = FakeTask(name="fake/x", title="t", eats="series", gives="one", metric=metric, licence="none")
    monkeypatch.setitem(tasks(), "fake/x", fake)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("recipes", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(recipes, name.upper(), tmp_path / name)
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(
        "oliveira.runs.run.draw_seeds", lambda *a, **n: None
    )  # a run's own picture is not the point here
    return tmp_path


def recipe(folder: Path, expect: str = "at_most = 22.0", seeds: list[int] = SEEDS) -> None:
    text = f'title = "Fake"\ntask = "fake/x"\nmodel = "rnn"\nseeds = {seeds}\nbudget = "steps=2"\n'
    (folder / "recipes" / "fake.toml").write_text(f"{text}[config]\nd_model = 2\n[expect]\n{expect}\n")


def test_fit_tells_test_from_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, "lower")
    run = fit("fake/x", model="rnn", budget="steps=2", home=tmp_path, seed=1, d_model=2)
    assert run.metric == run.result["metric"]["value"] == 21.0
    assert run.metrics == {"first": -1.0, "error": 21.0, "hits": 0.2}
    assert run.result["validation"] == {"first": -1.0, "error": 11.0, "hits": 0.1}
    assert run.result["baselines"] == {"low": 15.0, "high": 25.0}
    metric = run.result["metric"]
    assert (metric["name"], metric["better"], metric["unit"]) == ("error", "lower", "kW")
    manifest = json.loads((run.folder / "artifact" / "manifest.json").read_bytes())
    assert manifest["metrics"]["test"]["error"] == 21.0 and manifest["metrics"]["validation"]["error"] == 11.0


@pytest.mark.parametrize(
    ("better", "beats"), [("lower", {"low": False, "high": True}), ("higher", {"low": True, "high": False})]
)
def test_a_result_holds_each_figure_where_it_belongs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, better: Literal["higher", "lower"], beats: dict[str, bool]
) -> None:
    enter(monkeypatch, better)
    recipe(folder)
    reproduce("fake", folder / "home", write=True)
    result = json.loads((folder / "results" / "fake.json").read_bytes())
    metric = result["metric"]
    assert (metric["name"], metric["better"], metric["unit"]) == ("error", better, "kW")
    assert metric["values"] == TEST and result["seeds"] == SEEDS, "in the order of the seeds"
    assert metric["mean"] == metric["value"] == statistics.mean(TEST) and metric["std"] == STD
    assert metric["band"] == pytest.approx([metric["mean"] - 3 * STD, metric["mean"] + 3 * STD], rel=1e-12)
    assert result["test"] == {"first": -1.0, "error": statistics.mean(TEST), "hits": 0.2}
    assert result["test_std"] == {"first": 0.0, "error": STD, "hits": 0.0}
    assert result["validation"] == {"first": -1.0, "error": statistics.mean(v - 10 for v in TEST), "hits": 0.1}
    assert result["baselines"] == {"low": 15.0, "high": 25.0} and result["beats"] == beats
    assert result["expect"] == {"at_most": 22.0} and result["met"] == {"at_most": True}


@pytest.mark.parametrize(
    ("expect", "met"),
    [("at_most = 21.0", False), ("at_most = 22.0", True), ("at_least = 21.0", True), ("at_least = 22.0", False)],
)
def test_an_expected_level_is_met_or_ends_with_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, expect: str, met: bool
) -> None:
    enter(monkeypatch, "lower")
    recipe(folder, expect)
    if met:
        reproduce_all(["fake"], folder / "home", write=True)
    else:
        with pytest.raises(reproduction.Missed, match=r"fake: error 21\.67 is not at (most|least)"):
            reproduce_all(["fake"], folder / "home", write=True)
    stored = recipes.stored("fake")
    assert stored is not None and list(stored["met"].values()) == [met], "written either way"


def test_what_is_stored_is_told_inside_or_outside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(monkeypatch, "lower")
    recipe(folder)
    reproduce("fake", folder / "home", write=True)
    reproduce_all(["fake"], folder / "home", write=False)
    assert "(inside its band" in capsys.readouterr().out
    path = folder / "results" / "fake.json"
    moved = json.loads(path.read_bytes())
    moved["metric"]["band"] = [0.0, 21.6]
    path.write_text(json.dumps(moved))
    with pytest.raises(reproduction.Missed, match=r"21\.67 is outside the stored band 0 … 21\.6"):
        reproduce_all(["fake"], folder / "home", write=False)
    assert "(OUTSIDE its band" in capsys.readouterr().out


def test_the_band_has_a_width_where_the_seeds_have_no_spread() -> None:
    assert measured([2.0, 2.0, 2.0])["band"] == pytest.approx([1.998, 2.002])
    assert measured([-2.0])["band"] == pytest.approx([-2.02, -1.98]), "one seed: a hundredth"
    assert measured([1.0, 3.0])["band"] == pytest.approx([2 - 3 * 2**0.5, 2 + 3 * 2**0.5])
    result = {"metric": measured([1.0, 3.0])}
    assert inside(result, 2 + 4.2) and inside(result, 2 - 4.2)
    assert not inside(result, 2 + 4.3) and not inside(result, 2 - 4.3) and not inside(result, float("nan"))


def test_a_tie_beats_nothing() -> None:
    for higher in (True, False):
        met, beats = verdicts(1.0, higher=higher, expect={"at_least": 1.0, "at_most": 1.0}, baselines={"same": 1.0})
        assert met == {"at_least": True, "at_most": True} and beats == {"same": False}


def test_complaints_name_recipe_figure_and_level() -> None:
    result = {
        "recipe": "x",
        "metric": {"name": "MAE", "mean": 0.5},
        "met": {"below y": False},
        "expect": {"below y": 0.4},
    }
    published = {"metric": {"band": [0.1, 0.2]}}
    assert complaints(result, published) == [
        "x: MAE 0.5 is not below y 0.4",
        "x: MAE 0.5 is outside the stored band 0.1 … 0.2",
    ]
    assert complaints(result | {"met": {"below y": True}}, None) == []


def test_a_world_publishes_test_and_validation_each_with_its_peers() -> None:
    ours = {"test": 1.7, "validation": 1.6, "parameters": 5, "seconds": 90.0, "device": "here"}
    peers = {"test": {"xz": 2.0, "twin": 1.65}, "validation": {"xz": 1.9, "twin": 1.55}}
    told = {"title": "T", "must_beat": ["xz", "twin"]}
    result = world_recipe.result_of("w", told, World(name="w"), ours, peers)
    assert result["metric"]["mean"] == 1.7 and result["metric"]["name"] == "bits per byte"
    assert result["test"] == {"bits per byte": 1.7} and result["validation"] == {"bits per byte": 1.6}
    assert result["baselines"] == peers["test"] and result["validation_baselines"] == peers["validation"]
    assert result["beats"] == {"xz": True, "twin": False}
    assert result["met"] == {"below xz": True, "below twin": False} and result["expect"]["below xz"] == 2.0
    assert result["metric"]["band"] == pytest.approx([1.683, 1.717])


def test_runs_of_seeds_are_not_mixed_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first losses and the picture are of the first seed of the recipe, whatever its number."""
    enter(monkeypatch, "lower")
    made: list[Run] = []
    real = reproduction.fit
    monkeypatch.setattr(reproduction, "fit", lambda *a, **n: made.append(real(*a, **n)) or made[-1])
    recipe(folder)
    result = reproduce("fake", folder / "home", write=False)
    assert [run.result["seed"] for run in made] == SEEDS
    assert result["losses"] == publication.first_losses(made[0].folder / "curve.jsonl") and len(result["losses"]) == 2
