"""`cnn` on scikit-learn's digits; moved by a pixel they are still digits to it, and no longer to an MLP."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from oliveira.data.images import Pictures, read_digits, stratified
from oliveira.runs.run import fit
from oliveira.tasks import catalogue
from oliveira.tasks.images import ImageTask

DIGITS = "classify/digits"
SETTINGS = {
    "cnn": dict(n_stages=2, dropout=0.3, lr=1e-2, weight_decay=0.1, budget="steps=300"),
    "mlp": dict(d_model=256, dropout=0.3, budget="steps=600"),
}


def test_digits(tmp_path: Path) -> None:
    assert fit(DIGITS, model="cnn", home=tmp_path, package=False, **SETTINGS["cnn"]).metric >= 0.985


def moved(files: list[bytes]) -> tuple[Pictures, Pictures]:
    """Training pictures as they are; each test picture moved by one pixel in one of the eight directions."""
    (pixels, labels), _ = read_digits(files)
    train, test = stratified(labels, (0.7, 0.3), seed=0)
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    framed = np.pad(pixels[test], ((0, 0), (1, 1), (1, 1)))
    shifted = np.stack(
        [
            image[1 + down : 9 + down, 1 + right : 9 + right]
            for image, (down, right) in zip(framed, np.resize(steps, (len(framed), 2)), strict=True)
        ]
    )
    return (pixels[train], labels[train]), (shifted, labels[test])


def test_moved_digits_need_convolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = catalogue.task(DIGITS)
    assert isinstance(task, ImageTask)
    source = dataclasses.replace(task.source, read=moved)
    changed = dataclasses.replace(task, source=source, shares=(0.9, 0.1))
    monkeypatch.setitem(catalogue.tasks(), DIGITS, changed)
    found = {
        name: fit(DIGITS, model=name, home=tmp_path, package=False, **values).metric
        for name, values in SETTINGS.items()
    }
    assert found["cnn"] >= found["mlp"] + 0.05, found
