"""`deq` reads handwritten digits, and its state settles after training as it did before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

import oliveira.models.deq as deq
from oliveira.registry import create


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,797 digits of 8 × 8 pixels: 1,347 to learn from, 450 to judge by."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1347]], y[order[:1347]], x[order[1347:]], y[order[1347:]]


def train(steps: int = 400, size: float = 0.4) -> tuple[Any, float]:
    x, y, x_test, y_test = digits()
    torch.manual_seed(0)
    model: Any = create("deq", channels=1, height=8, width=8, d_out=10, d_model=128)
    torch.nn.init.normal_(model.weight, std=size / 128**0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return model.eval(), (model(x_test).argmax(1) == y_test).float().mean().item()


@pytest.mark.slow
def test_digits() -> None:
    model, accuracy = train()
    assert accuracy >= 0.96, accuracy
    with torch.no_grad():
        found = model.solve(digits()[2])
        weight = deq.contraction(model.weight, model.config.factor)
    assert found.residual.max() <= 1e-4 and found.n_evals <= 30, (found.residual.max(), found.n_evals)
    assert torch.linalg.matrix_norm(weight, 2) > 0.5, "the layer must feed back, or any network would settle"


@pytest.mark.slow
def test_without_the_bound_it_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that must fail: the same training with W as it comes."""
    monkeypatch.setattr(deq, "contraction", lambda weight, factor: weight)
    model, _ = train(steps=100, size=1.5)
    with torch.no_grad():
        found = model.solve(digits()[2])
    assert found.residual.max() > 1e-4, found.residual.max()
