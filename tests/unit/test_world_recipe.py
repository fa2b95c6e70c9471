"""A recipe that is a world, small: what it publishes, that it is found again, and that its first losses come again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oliveira.errors import Interrupted
from oliveira.study import provenance, recipes, world_recipe
from oliveira.study.reproduction import replay, reproduce
from oliveira.training.curves import read_curve

RECIPE = """
title = "Small"
must_beat = ["nanogpt_style"]
[world]
name = "small"
[world.data]
base = "path:{texts}"
vocab_size = 300
validation = 0.2
test = 0.2
[world.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 2
d_ff = 32
max_len = 16
[world.train]
steps = 22
warmup_steps = 2
batch_size = 2
checkpoint_every = 5
evaluate_every = 11
evaluate_tokens = 256
[twin.model]
norm = "layernorm"
[twin.train]
lr = 1e-3
batch_size = 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("house")
    for name in ("recipes", "results", "texts"):
        (folder / name).mkdir()
    words = ["casa", "rio", "pedra", "vento", "noite", "mar", "livro", "porta", "sol", "folha", "ponte"]
    for number in range(40):
        text = " ".join(words[(number * 7 + i * i + i * number) % len(words)] + str(number % 5) for i in range(60))
        (folder / "texts" / f"{number}.txt").write_text(f"{number} {text}.", encoding="utf-8")
    (folder / "recipes" / "small.toml").write_text(RECIPE.format(texts=folder / "texts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "RECIPES", folder / "recipes")
        patch.setattr(recipes, "RESULTS", folder / "results")
        patch.setattr(provenance, "commit", lambda: "0123456789ab")
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked == 8

        with pytest.raises(Interrupted):
            reproduce("small", folder / "home", write=True, should_stop=stop)
        assert not list((folder / "results").iterdir()), "half a result"
        yield folder, reproduce("small", folder / "home", write=True)


def test_what_is_stored(made: tuple[Path, dict[str, Any]]) -> None:
    folder, result = made
    stored = json.loads((folder / "results" / "small.json").read_bytes())
    assert stored["metric"]["name"] == "bits per byte" and stored["metric"]["mean"] == stored["test"]["bits per byte"]
    assert stored["validation"]["bits per byte"] != stored["test"]["bits per byte"]
    for key in ("baselines", "validation_baselines"):
        assert stored[key].keys() == {"unigram", "5-gram", "xz", "xz_conditional", "nanogpt_style"}
    assert stored["baselines"] != stored["validation_baselines"]
    assert stored["twin"]["test"] == stored["baselines"]["nanogpt_style"]
    assert stored["commit"] == "0123456789ab" and stored["train"]["threads"] == 1 and "1 threads" in stored["device"]
    assert {"model", "task", "training", "settings"} == stored["files"].keys() and "twin" in stored["files"]["settings"]
    assert "oliveira/models/gpt.py" in stored["files"]["model"] and recipes.is_verified(stored)
    assert list(stored["pictures"]) == ["small.png"] and stored["losses"] == result["losses"]


def test_a_stopped_training_went_on(made: tuple[Path, dict[str, Any]]) -> None:
    folder, result = made
    rows = read_curve(folder / "home" / "recipes" / "small" / "runs" / "ours" / "curve.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 22 and result["losses"] == losses[:20]


def test_it_is_found_again(made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result = made
    monkeypatch.setattr(world_recipe, "train", lambda *a, **n: pytest.fail("it was trained again"))
    again = reproduce("small", folder / "home", write=False)
    assert again["metric"] == result["metric"] and again["twin"] == result["twin"]


def test_its_first_losses_come_again(made: tuple[Path, dict[str, Any]]) -> None:
    folder, result = made
    assert replay("small", folder / "other") == result["losses"]
