"""Every model of the catalogue lives one life by name: train, export, the same answer from onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from oliveira.cli import app
from oliveira.export.forward import MASK, ForwardRunner
from oliveira.registry import Entry, entries, entry
from oliveira.runs.predict import Predictor, export
from oliveira.runs.run import fit
from oliveira.tasks.catalogue import fitting, task

# Cheap and offline; the first that an entry fits is its life.
TASKS = ("probe/reverse", "probe/next-larger", "probe/listops", "classify/digits", "probe/adding", "lm/bncc")


PADDED = ("probe/reverse", "probe/listops")  # rows of unequal length in one batch


def life_of(found: Entry) -> str:
    return next(name for name in TASKS if found in fitting(task(name)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lives")


@pytest.mark.slow
@pytest.mark.parametrize("name", [found.name for found in entries()])
def test_life(name: str, home: Path) -> None:
    found = entry(name)
    chosen = life_of(found)
    # Sizes that a task suggests (n_kv_heads with its n_heads) must not meet half of a tiny config.
    sizes = {key: value for key, value in found.tiny.items() if key != "n_hashes"}
    run = fit(chosen, model=name, budget="steps=2", home=home, batch_size=2, **sizes)
    plain = Predictor(run.folder)
    expected = plain(plain.example)
    assert plain.engine == "torch"
    if not found.exportable:
        return
    figures = export(run.folder)
    assert figures["onnx_error"] <= 1e-4
    predictor = Predictor(run.folder)
    assert predictor.engine == "onnxruntime"
    # A mask is asked for only by a task that pads (or a graph of fixed steps), and then it is told what it means.
    graph = ForwardRunner(predictor.artifact.path / "model.onnx")
    assert list(predictor.inputs) == graph.names == list(figures["inputs"])
    if "mask" in graph.names:
        assert predictor.inputs["mask"].startswith("bool (") and MASK in predictor.inputs["mask"]
        assert chosen in PADDED or set(figures["steps"].values()) != {"free"}
    assert same(json.loads(json.dumps(predictor(predictor.example))), json.loads(json.dumps(expected)))


def same(left: Any, right: Any) -> bool:
    """Equal, numbers to 1e-3."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float):
        return abs(left - right) <= 1e-3 * max(1.0, abs(right))
    return bool(left == right)


def oliveira(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "oliveira", *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    """train, export, predict and serve as a person types them, and what they say when something is wrong."""
    home = ("--home", str(tmp_path / "home"))
    done = oliveira("train", "probe/adding", "gru", "d_model=8", "--budget", "steps=3", "--json", *home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    assert oliveira("export", "probe/adding/gru", *home).returncode == 0
    predicted = oliveira("predict", "probe/adding/gru", *home)
    assert json.loads(predicted.stdout)["engine"] == "onnxruntime"
    for arguments, word in (
        (("train", "probe/adding", "gtu"), "gru"),
        (("train", "probe/adding", "gpt"), "Models that do"),
        (("train", "probe/adding", "gru", "d_model"), "key=value"),
        (("train", "probe/adding", "gru", "d_model=x"), "d_model"),
        (("predict", "probe/adding/lstm"), "Runs here"),
        (("predict", "probe/adding/gru", "--input", "{"), "--input"),
        (("compare", "probe/adding", "gru"), "two models"),
    ):
        refused = oliveira(*arguments, *home)
        assert refused.returncode == 2 and word in refused.stderr and "Traceback" not in refused.stderr, arguments
    for command in (
        "train",
        "compare",
        "export",
        "serve",
        "predict",
        "list",
        "reproduce",
        "inspect",
        "explain",
        "pages",
    ):
        told = oliveira(command, "--help")
        assert told.returncode == 0 and f"oliveira {command}" in told.stdout
    listed = json.loads(oliveira("list", "--json").stdout)
    assert {row["name"] for row in listed} == {found.name for found in entries()}
    server = subprocess.Popen(
        [sys.executable, "-m", "oliveira", "serve", "probe/adding/gru", "--port", "0", *home],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        address, key = line.split("/v1/predict")[0], line.split(" key ")[1].split()[0]
        body = json.dumps(json.loads(predicted.stdout)["request"]).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        asked = urllib.request.Request(f"{address}/v1/predict", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            said = json.load(answer)
        assert said.pop("id") and said.pop("model") and same(said, json.loads(predicted.stdout)["answer"])
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0


@pytest.mark.parametrize("words", [(), ("--tasks",), ("--task", "?"), ("--task", "lm/bncc")])
def test_the_list_fits_a_plain_terminal(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, ["list", *words]).stdout.splitlines()
    assert max(map(len, shown)) <= 80 and not any("…" in line for line in shown if "HOME/runs" not in line)
    for name in ("curve.png", "picture.png", "report.md"):
        assert any(name in line for line in shown), name
    assert words != ("--tasks",) or shown == CliRunner().invoke(app, ["list", "--task", "?"]).stdout.splitlines()
