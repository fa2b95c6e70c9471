"""`mlp` on digits; with the labels dealt out anew it must fail, and without a hidden layer it cannot bend a curve."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from oliveira.data.images import Pictures, read_digits
from oliveira.runs.run import fit
from oliveira.tasks import catalogue
from oliveira.tasks.images import ImageTask

DIGITS = "classify/digits"
SIZE = dict(d_model=256, dropout=0.3)


def with_shuffled_labels(files: list[bytes]) -> tuple[Pictures, None]:
    (pixels, labels), _ = read_digits(files)
    return (pixels, np.random.default_rng(0).permutation(labels)), None


@pytest.mark.parametrize(("labels", "must"), [("true", "learn"), ("shuffled", "fail")])
def test_digits(labels: str, must: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if labels == "shuffled":
        task = catalogue.task(DIGITS)
        assert isinstance(task, ImageTask)
        source = dataclasses.replace(task.source, read=with_shuffled_labels)
        monkeypatch.setitem(catalogue.tasks(), DIGITS, dataclasses.replace(task, source=source))
    accuracy = fit(DIGITS, model="mlp", budget="steps=600", home=tmp_path, package=False, **SIZE).metric
    assert accuracy >= 0.97 if must == "learn" else accuracy <= 0.2, accuracy


@pytest.mark.parametrize(("hidden", "must"), [(2, "learn"), (0, "fail")])
def test_curves_need_hidden_layers(hidden: int, must: str, tmp_path: Path) -> None:
    """`probe/functions` averages to nothing for a linear model."""
    run = fit("probe/functions", model="mlp", budget="steps=500", home=tmp_path, package=False, n_layers=hidden)
    explained = run.metrics["explained"]
    assert explained >= 0.6 if must == "learn" else explained <= 0.2, explained
