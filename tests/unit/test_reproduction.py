"""From a recipe to a published result: what it stores, when it is refused, and that nothing half is left."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oliveira import cli
from oliveira.errors import UserError
from oliveira.files import sha256_file
from oliveira.study import provenance, publication, recipes, reproduction
from oliveira.study.reproduction import Missed, disagreement, replay, reproduce, reproduce_all
from oliveira.training.curves import read_curve

TINY = """
title = "GRU adds"
task = "probe/adding"
model = "gru"
seeds = [3, 0]
budget = "steps=24"
[config]
d_model = 4
[train]
batch_size = 2
[expect]
{expect}
"""
CLEAN = "0123456789ab"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A house with recipes of its own, in a clean checkout; `house(name, expect)` adds one."""
    for name in ("recipes", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(recipes, name.upper(), tmp_path / name)
    monkeypatch.setattr(provenance, "commit", lambda: CLEAN)
    monkeypatch.setattr(publication, "commit", lambda: CLEAN)
    monkeypatch.setattr(
        "oliveira.runs.run.draw_seeds", lambda *a, **n: None
    )  # a run's own picture is not the point here

    def add(name: str, expect: str = "") -> Path:
        (tmp_path / "recipes" / f"{name}.toml").write_text(TINY.format(expect=expect))
        return tmp_path

    return add


def published(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / "results" / f"{name}.json").read_bytes()))


def test_a_result_says_what_it_comes_from(house: Callable[..., Path]) -> None:
    folder = house("tiny")
    made = reproduce("tiny", folder / "home", write=True)
    result = published(folder, "tiny")
    assert result["commit"] == CLEAN and result["train"]["threads"] == 1 and "1 threads" in result["device"]
    assert result["files"] == made["files"] == provenance.files_of(recipes.load("tiny"))
    assert {"oliveira/models/gru.py", "oliveira/nn/recurrent.py"} <= result["files"]["model"].keys()
    assert {"oliveira/tasks/probes.py", "oliveira/tasks/probe_makers.py"} <= result["files"]["task"].keys()
    assert {"oliveira/runs/run.py", "oliveira/training/loop.py"} <= result["files"]["training"].keys()
    curves = sorted((folder / "home").rglob("curve.jsonl"))
    assert len(curves) == 2
    first = next(path for path in curves if json.loads((path.parent / "settings.json").read_bytes())["seed"] == 3)
    rows = [row["loss"] for row in read_curve(first) if "loss" in row]
    assert result["losses"] == rows[:20] and len(rows) == 24, "unrounded, of the first seed"
    for file, digest in result["pictures"].items():
        assert sha256_file(folder / "results" / file) == digest
    assert recipes.is_verified(result) and recipes.changes("tiny") == []
    left = {path.name for path in (folder / "results").iterdir()}
    assert left == {"tiny.json", *result["pictures"]}


def test_a_replay_is_the_same_and_leaves_nothing(house: Callable[..., Path]) -> None:
    folder = house("tiny")
    then = reproduce("tiny", folder / "home", write=False)["losses"]
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert replay("tiny", folder / "home" / "recipes") == then
    assert {path for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("found", [f"{CLEAN}-dirty", "unknown"])
def test_no_result_of_a_checkout_that_nobody_has(
    house: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    folder = house("tiny")
    monkeypatch.setattr(provenance, "commit", lambda: found)
    with pytest.raises(UserError, match=rf"commit {found} could not.*Commit what differs"):
        reproduce("tiny", folder / "home", write=True)
    assert not (folder / "home").exists() and not list((folder / "results").iterdir()), "something was trained"
    assert reproduce("tiny", folder / "home", write=False)["commit"] == CLEAN


def test_no_result_when_a_file_of_it_changed_meanwhile(
    house: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = house("tiny")
    origin = publication.Origin("tiny", write=True)
    monkeypatch.setattr(publication, "commit", lambda: "fedcba987654")
    assert origin.fields() == {"commit": CLEAN, "files": origin.files}, "another commit of the same files is no harm"
    real = provenance._digest
    monkeypatch.setattr(provenance, "_digest", lambda path, at: "new" if path.name == "gru.py" else real(path, at))
    with pytest.raises(UserError, match=r"model: oliveira/models/gru\.py changed while tiny trained on commit 0123"):
        origin.fields()
    assert not list((folder / "results").iterdir())


def test_runs_of_other_code_are_not_found_again(house: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = house("tiny")
    reproduce("tiny", folder / "home", write=False)
    monkeypatch.setattr(provenance, "_digest", lambda path, version: f"another {path.name}")
    reproduce("tiny", folder / "home", write=False)
    assert len(list((folder / "home").rglob("run.json"))) == 4


def test_a_kill_before_the_result_leaves_none_and_costs_no_training(
    house: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = house("tiny")

    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publication, "write_json_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            reproduce("tiny", folder / "home", write=True)
    assert not list((folder / "results").glob("*.json"))
    runs = {path: path.stat().st_mtime_ns for path in (folder / "home").rglob("run.json")}
    reproduce("tiny", folder / "home", write=True)
    assert published(folder, "tiny")["recipe"] == "tiny"
    assert runs == {path: path.stat().st_mtime_ns for path in (folder / "home").rglob("run.json")}


def test_all_runs_all_and_then_names_what_missed(house: Callable[..., Path]) -> None:
    house("good")
    house("bad", "at_most = 0.0")
    folder = house("far")
    reproduce("far", folder / "home", write=True)
    path = folder / "results" / "far.json"
    moved = json.loads(path.read_bytes())
    moved["metric"]["band"] = [5.0, 6.0]
    path.write_text(json.dumps(moved))
    with pytest.raises(Missed) as caught:
        reproduce_all(["bad", "far", "good"], folder / "home", write=False)
    assert caught.value.exit_code == 1
    assert "bad: mean squared error" in str(caught.value) and "is not at most 0" in str(caught.value)
    assert "far: " in str(caught.value) and "outside the stored band 5 … 6" in str(caught.value)
    assert "good" not in str(caught.value)
    with pytest.raises(Missed, match=r"far: .*outside"):
        reproduce_all(["far"], folder / "home", write=False)
    reproduce_all(["good"], folder / "home", write=False)


def test_the_command_fails_with_a_sentence(
    house: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = house("bad", "at_most = 0.0")
    monkeypatch.setattr("oliveira.process.stop.Stop", lambda **_: lambda: False)  # its signals are pytest's here
    monkeypatch.setattr("sys.argv", ["oliveira", "reproduce", "all", "--write", "--home", str(folder / "home")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1 and published(folder, "bad")["met"] == {"at_most": False}
    said = capsys.readouterr().err
    assert said.startswith("oliveira: bad: mean squared error") and said.count("\n") == 1


def test_stale_runs_only_what_is_not_of_this_code(
    house: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house("fresh")
    house("dirty")
    house("gone")
    folder = house("none")
    for name in ("fresh", "dirty", "gone"):
        reproduce(name, folder / "home", write=True)

    def change(name: str, **fields: Any) -> None:
        path = folder / "results" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))

    change("dirty", commit=f"{CLEAN}-dirty")
    result = published(folder, "gone")
    change("gone", files=result["files"] | {"task": {"oliveira/tasks/probes.py": "another"}}, losses=[1e9] * 20)
    change("fresh", files=result["files"] | {"task": {"oliveira/tasks/probes.py": "another"}})
    ran: list[str] = []
    real = reproduction.reproduce
    monkeypatch.setattr(reproduction, "reproduce", lambda name, *a, **n: ran.append(name) or real(name, *a, **n))
    reproduce_all(recipes.names(), folder / "home", write=True, stale=True)
    said = capsys.readouterr().out
    assert sorted(ran) == ["dirty", "gone", "none"] and ran[-1] == "none", "what has no minutes yet comes last"
    assert "cannot be verified" in said and "gone is stale: the loss of step 1 was 1e+09" in said
    assert "none: there is no result yet" in said


def test_a_recipe_that_another_process_runs_is_left_to_it(
    house: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = house("tiny")
    with reproduction._held("tiny") as mine:
        assert mine
        reproduce_all(["tiny"], folder / "home", write=False)
    assert "left to another process: tiny" in capsys.readouterr().out and not (folder / "home").exists()


def test_an_unknown_recipe_is_one_sentence(house: Callable[..., Path]) -> None:
    folder = house("tiny")
    with pytest.raises(UserError, match=r"recipe .tinny. is unknown\. Choose one of: tiny"):
        reproduce_all(["tinny"], folder, write=False)


@pytest.mark.parametrize(
    ("now", "step"), [([2.0, 1.0, 0.5], 0), ([2.0, 1.0011, 0.5], 2), ([2.0, float("nan"), 0.5], 2)]
)
def test_losses_part_by_more_than_a_thousandth(now: list[float], step: int) -> None:
    said = disagreement("x", [2.0, 1.0, 0.5005], now)
    assert (f"loss of step {step} " in said and "oliveira reproduce x --write" in said) if step else not said


def test_digests_are_of_the_code_alone() -> None:
    plain = 'def f(x):\n    return "# no comment" + x\n'
    told = '"""Words."""\n\n\ndef f(x):  # a remark\n    """More\n    words."""\n\n    return "# no comment" + x\n'
    assert provenance.code(plain).split() == provenance.code(told).split()
    assert provenance.code(plain) != provenance.code(plain.replace("no", "a"))
    one_line = 'class A:\n    def f(self): "doc"\n'
    assert "def f" in provenance.code(one_line)


def test_modules_that_are_imported_by_name_are_followed() -> None:
    found = set(
        provenance._names(ast.parse("import a.b\nfrom oliveira.data import text\nfrom oliveira.nn.norm import RMSNorm"))
    )
    assert {"a.b", "oliveira.data.text", "oliveira.nn.norm"} <= found
    assert "oliveira/training/curves.py" in provenance.files_of(recipes.load("lm-gpt"))["training"]


def test_what_differs_is_said() -> None:
    then = {"model": {"a.py": "1", "b.py": "2"}, "task": {"t.py": "3"}}
    now = {"model": {"a.py": "1", "b.py": "9", "c.py": "4"}}
    assert provenance.differing(then, now) == ["model: b.py", "model: c.py", "task: t.py"]
    assert provenance.differing(then, then) == []


def test_the_commit_sees_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() == "unknown"
    (tmp_path / "oliveira").mkdir()
    (tmp_path / "oliveira" / "a.py").write_text("x = 1\n")
    words = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "."), (*words, "commit", "-qm", "one")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert provenance.is_clean(provenance.clean_commit())
    (tmp_path / "notes.txt").write_text("not the program")
    assert provenance.is_clean(provenance.commit())
    (tmp_path / "oliveira" / "b.py").write_text("new and not in git")
    assert provenance.commit().endswith("-dirty")
