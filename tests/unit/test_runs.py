"""`fit`: found again, resumed with the same bits, budgets, and sentences for what a person can mend."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import oliveira
from oliveira import artifact
from oliveira.errors import CorruptError, Interrupted, TrainingError, UserError
from oliveira.registry import create
from oliveira.runs.records import RECORD, find_run, open_run
from oliveira.runs.run import build, fit, forward_flops, parse_budget, run_held
from oliveira.tasks.base import Batch, shuffled
from oliveira.tasks.catalogue import fitting, pair, task, tasks

SMALL: dict[str, Any] = dict(model="gru", d_model=8, batch_size=4, evaluate_every=6, checkpoint_every=3)


def test_same_call_same_run(tmp_path: Path) -> None:
    first = fit("probe/adding", budget="steps=6", home=tmp_path, **SMALL)
    written = (first.folder / "run.json").stat().st_mtime_ns
    again = fit("probe/adding", budget="steps=6", home=tmp_path, **SMALL)
    assert again.folder == first.folder and again.result == first.result
    assert (again.folder / "run.json").stat().st_mtime_ns == written, "it was trained again"
    other = fit("probe/adding", budget="steps=6", home=tmp_path, seed=1, **SMALL)
    assert other.folder != first.folder and other.metric != first.metric
    for name in ("curve.png", "curve.jsonl", "settings.json", "artifact"):
        assert (first.folder / name).exists()
    assert open_run(first.folder).result == first.result


def test_interrupted_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    whole = fit("probe/adding", budget="steps=6", home=tmp_path / "whole", **SMALL)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    with pytest.raises(Interrupted, match="step 4 of 6"):
        fit("probe/adding", budget="steps=6", home=tmp_path / "parted", should_stop=stop, **SMALL)
    said: list[str] = []
    parted = fit("probe/adding", budget="steps=6", home=tmp_path / "parted", say=said.append, **SMALL)
    assert any("going on" in line for line in said)
    assert artifact.same_weights(parted.load(), whole.load()) and parted.metric == whole.metric


def test_fresh_forgets(tmp_path: Path) -> None:
    first = fit("probe/adding", budget="steps=2", home=tmp_path, **SMALL)
    (first.folder / "mark").touch()
    fit("probe/adding", budget="steps=2", home=tmp_path, fresh=True, **SMALL)
    assert not (first.folder / "mark").exists()


def test_budgets_buy_steps(tmp_path: Path) -> None:
    by_flops = fit("probe/adding", budget="flops=3e7", home=tmp_path, package=False, **SMALL).result
    assert by_flops["steps"] == int(3e7 / by_flops["flops_per_step"]) > 1
    by_seconds = fit("probe/adding", budget="seconds=0.3", home=tmp_path, package=False, **SMALL).result
    assert by_seconds["steps"] >= 1
    with pytest.raises(UserError, match="does not pay for one step"):
        fit("probe/adding", budget="flops=1", home=tmp_path, **SMALL)


@pytest.mark.parametrize(
    "text", ["", "steps", "steps=0", "steps=-3", "steps=1.5", "hours=2", "seconds=nan", "flops=inf"]
)
def test_bad_budgets(text: str) -> None:
    with pytest.raises(UserError, match="steps=N, seconds=N or flops=N"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(task="forecast/pover", model="lstm"), "forecast/power"),
        (dict(task="probe/adding", model="lstn"), "lstm"),
        (dict(task="probe/adding", model="gpt"), "Models that do: .*lstm"),
        (dict(task="probe/adding", model="lstm", d_mode=4), "Did you mean d_model"),
        (dict(task="probe/adding", model="lstm", label_smoothing=0.1), "label_smoothing = 0.1 has no effect"),
        (dict(task="probe/adding", model="lstm", d_model="wide"), "d_model = 'wide' is refused"),
        (dict(task="probe/adding", model="lstm", d_in=7), "set by probe/adding"),
        (dict(task="probe/adding", model="lstm", lr=-1.0), "lr = -1.0 is refused"),
        (dict(task="probe/adding", model="lstm", steps=5), "--budget steps=5"),
    ],
)
def test_errors_name_the_field_and_the_remedy(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    name = arguments.pop("task")
    with pytest.raises(UserError, match=words):
        fit(name, home=tmp_path, **arguments)
    assert not (tmp_path / "runs").exists(), "something was written"


def test_nan_stops_the_run_and_names_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step.*gradient norm.*write lr=\S+ after the model"):
        fit("probe/adding", budget="steps=40", home=tmp_path, **{**SMALL, "lr": 1e30, "clip": 1e30, "warmup_steps": 1})


class Calls:
    """A task that only calls its model."""

    @staticmethod
    def objective(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return model(*batch.inputs).mean()


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["flash", "math"])
@pytest.mark.parametrize("name", ["gpt", "transformer"])
def test_flops_of_attention_are_counted_in_whichever_kernel(name: str, dropout: float) -> None:
    """Two a multiply-add: the matrices of each layer, and q·k and p·v of every pair of positions."""
    b, t, d, d_ff, vocab, layers = 2, 24, 16, 40, 50, 3
    sizes = dict(vocab_size=vocab, d_model=d, n_layers=layers, n_heads=2, d_ff=d_ff, max_len=t, dropout=dropout)
    more = {"gpt": {"n_kv_heads": 1}, "transformer": {"d_out": vocab}}
    of_layer = {"gpt": 2 * d * d + 2 * d * d // 2 + 3 * d * d_ff, "transformer": 4 * d * d + 2 * d * d_ff}
    model = create(name, **sizes, **more[name]).train()
    batch = Batch((torch.randint(vocab, (b, t)),), None)
    expected = 2 * b * t * (layers * of_layer[name] + d * vocab) + layers * 2 * 2 * b * t * t * d
    assert forward_flops(model, Calls(), batch) == expected  # type: ignore[arg-type]


def test_shuffled_sees_every_example_once_an_epoch() -> None:
    seen = [i for number in range(10) for i in shuffled(number, seed=3, size=4, count=20)]
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20)) and seen[:20] != seen[20:]
    assert list(shuffled(7, seed=3, size=4, count=20)) == seen[28:32]
    with pytest.raises(ValueError, match="without training examples"):
        shuffled(0, seed=0, size=1, count=0)


def test_every_task_has_a_model_and_says_what_it_is() -> None:
    for name, found in tasks().items():
        assert name == found.name and "/" in name
        assert found.title and found.licence and fitting(found)


def test_a_built_model_takes_the_task_s_batches(tmp_path: Path) -> None:
    for name, model in (("probe/next-larger", "bilstm"), ("probe/adding", "lstm")):
        wanted, entry = pair(name, model)
        data = wanted.open(tmp_path, lambda text: None)
        batch = data.batch(0, seed=0, size=2)
        again = data.batch(0, seed=0, size=2)
        assert all(torch.equal(a, b) for a, b in zip(batch.inputs, again.inputs, strict=True))
        loss = data.loss(build(wanted, data, entry)(*batch.inputs), batch.targets)
        assert loss.isfinite()


def test_the_library_by_name(tmp_path: Path) -> None:
    assert "lstm" in oliveira.list_models("probe/adding") and "gpt" not in oliveira.list_models("probe/adding")
    assert "gpt" in oliveira.list_models() and "probe/adding" in oliveira.list_tasks()
    model = oliveira.create("lstm", d_in=2, d_out=1, gives="one", d_model=4)
    folder = oliveira.save(model, tmp_path / "kept")
    assert artifact.same_weights(oliveira.load(folder), model)
    with pytest.raises(UserError, match="is there already"):
        oliveira.save(model, folder)
    with pytest.raises(UserError, match="not a model of the catalogue"):
        oliveira.save(torch.nn.Linear(1, 1), tmp_path / "other")
    with pytest.raises(UserError, match="vocab_size"):
        oliveira.create("lstm", d_out=1)
    with pytest.raises(AttributeError):
        _ = oliveira.nothing
    assert task("probe/adding").metric.beats(0.1, 0.2)


def test_two_at_once_train_it_once(tmp_path: Path) -> None:
    """The second waits, says so, and finds what the first one has made."""
    made = fit("probe/adding", budget="steps=2", home=tmp_path / "first", **SMALL)
    folder = tmp_path / "second" / made.folder.relative_to(tmp_path / "first")
    with contextlib.ExitStack() as first:
        first.enter_context(run_held(folder))
        with pytest.raises(Interrupted, match="trains the same run"):
            fit("probe/adding", budget="steps=2", home=tmp_path / "second", should_stop=lambda: True, **SMALL)
        assert not folder.exists()
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if "waiting for it" in text:
                shutil.copytree(made.folder, folder)
                first.close()

        assert fit("probe/adding", budget="steps=2", home=tmp_path / "second", say=say, **SMALL).result == made.result
    assert [text for text in said if f"process {os.getpid()} trains the same run" in text] and "found again" in said[-1]
    with run_held(folder), pytest.raises(Interrupted, match="trains the same run"):
        fit("probe/adding", budget="steps=2", home=tmp_path / "second", fresh=True, should_stop=lambda: True, **SMALL)


def test_what_a_killed_process_left_in_a_run_is_swept(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(budget="steps=2", home=tmp_path, **SMALL)
    made = fit("probe/adding", **settings)
    (made.folder / ".artifact.0123abcd.tmp").mkdir()
    (made.folder / "artifact").rename(made.folder / ".artifact.aside")  # killed between the two renames
    written = (made.folder / "run.json").stat().st_mtime_ns
    assert fit("probe/adding", **settings).load() and (made.folder / "run.json").stat().st_mtime_ns == written
    assert [path.name for path in made.folder.glob(".*")] == []


def without(name: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda made: json.dumps({key: value for key, value in made.items() if key != name}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda made, text=text: text for text in (b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000)),
        *map(without, RECORD),
        lambda made: json.dumps(made | {"metric": {"name": "error"}}).encode(),
        lambda made: json.dumps(made | {"baselines": {"mean": "x"}}).encode(),
    ],
)
def test_a_damaged_record_is_told_with_the_remedy(tmp_path: Path, damage: Callable[[dict[str, Any]], bytes]) -> None:
    settings: dict[str, Any] = dict(budget="steps=2", home=tmp_path, package=False, **SMALL)
    made = fit("probe/adding", **settings)
    (made.folder / "run.json").write_bytes(damage(made.result))
    with pytest.raises(CorruptError, match=r"run\.json is damaged.*--fresh"):
        fit("probe/adding", **settings)
    with pytest.raises(CorruptError, match=r"run\.json is damaged.*--fresh"):
        find_run(tmp_path, str(made.folder))
    with pytest.raises((CorruptError, UserError)):
        find_run(tmp_path, "probe/adding/gru")
    assert fit("probe/adding", fresh=True, **settings).metric == made.metric


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "settings.json", "curve.jsonl"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_damage_in_the_middle_of_a_run_is_told_or_does_no_harm(tmp_path: Path, name: str, damage: str) -> None:
    settings: dict[str, Any] = dict(budget="steps=6", package=False, **SMALL)
    whole = fit("probe/adding", home=tmp_path / "whole", **settings)
    stops = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        fit("probe/adding", home=tmp_path, should_stop=lambda: next(stops), **settings)
    (path,) = tmp_path.glob(f"runs/*/*/*/{name}")
    held = path.read_bytes()
    middle = len(held) * 3 // 4
    flipped = held[:middle] + bytes([held[middle] ^ 1]) + held[middle + 1 :]
    path.write_bytes({"empty": b"", "cut": held[:middle], "flipped": flipped, "other": b"[]\n"}[damage])
    if name == "curve.jsonl":
        assert fit("probe/adding", home=tmp_path, **settings).metric == whole.metric
        return
    if name == "settings.json" and damage == "flipped":
        return  # another number, or no JSON
    with pytest.raises(CorruptError, match=r"is damaged.*(--fresh|Remove it)"):
        fit("probe/adding", home=tmp_path, **settings)
    assert fit("probe/adding", home=tmp_path, fresh=True, **settings).metric == whole.metric
