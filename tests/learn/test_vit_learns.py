"""`vit` on scikit-learn's digits in patches of 2 × 2; a bag of patches without places must do much worse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from oliveira import registry
from oliveira.models.vit import ViT, ViTConfig
from oliveira.registry import entry
from oliveira.runs.run import fit

SMALL = dict(patch_size=2, d_model=32, n_layers=2, d_ff=64, lr=1e-2, weight_decay=0.3)


class WithoutPositions(ViT):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        torch.nn.init.zeros_(self.positions)
        self.positions.requires_grad_(False)


@pytest.mark.slow
def test_digits_need_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = {}
    for name, model in (("positions", ViT), ("none", WithoutPositions)):
        monkeypatch.setitem(registry._ENTRIES, "vit", dataclasses.replace(entry("vit"), model=model))
        run = fit("classify/digits", model="vit", budget="steps=400", home=tmp_path / name, package=False, **SMALL)
        accuracy[name] = run.metric
    assert accuracy["positions"] >= 0.96, accuracy
    assert accuracy["none"] <= accuracy["positions"] - 0.10, accuracy
