"""Scoring leaves a model as it was."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from oliveira.tasks.scoring import judged


@pytest.mark.parametrize("training", [True, False])
def test_a_judged_model_has_its_mode_again(training: bool) -> None:
    model = nn.Dropout().train(training)
    with contextlib.suppress(ValueError), judged(model):
        assert not model.training and not torch.is_grad_enabled()
        raise ValueError
    assert model.training == training and torch.is_grad_enabled()
