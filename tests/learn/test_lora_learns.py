"""LoRA teaches a network that knows the digits 0 to 4 the digits 5 to 9, with a twentieth of its numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from oliveira.adaptation.lora import add_lora
from oliveira.registry import create

LAYERS = ["0", "1", "output"]


def digits() -> tuple[Tensor, Tensor]:
    pixels, classes = load_digits(return_X_y=True)
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(len(classes), generator=random)
    return torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16, torch.tensor(classes)[order]


X, Y = digits()
HELD_OUT = torch.arange(len(Y)) >= 1300


def share(model: nn.Module, of: Tensor) -> float:
    """Of the held-out digits `of` (mask), the share that is named right."""
    with torch.no_grad():
        return (model(X[of & HELD_OUT]).argmax(1) == Y[of & HELD_OUT]).float().mean().item()


def fit(model: nn.Module, known: Tensor, lr: float, steps: int = 200) -> nn.Module:
    rows = (known & ~HELD_OUT).nonzero()[:, 0]
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        chosen = rows[torch.randint(len(rows), (64,), generator=random)]
        loss = F.cross_entropy(model(X[chosen]), Y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def base() -> Any:
    torch.manual_seed(0)
    return fit(create("mlp", channels=1, height=8, width=8, d_out=10, d_model=512, n_layers=2), Y < 5, 3e-3)


@pytest.mark.parametrize(("rank", "targets", "must"), [(4, LAYERS, "learn"), (1, ["0"], "fail")])
def test_new_digits(base: Any, rank: int, targets: list[str], must: str) -> None:
    """Rank 4 everywhere: at least 95 % of what full tuning gains, at most 5 % of its numbers. One direction of the
    first layer is the twin that must fail: the new digits are five directions apart.
    """
    new = Y >= 5
    before = share(base, new)
    assert share(base, ~new) >= 0.97 and before == 0
    full = share(fit(copy.deepcopy(base), new, 3e-3), new) - before
    torch.manual_seed(0)
    adapted = fit(add_lora(copy.deepcopy(base), rank, 2.0 * rank, targets), new, 1e-2)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad) / sum(
        p.numel() for p in base.parameters()
    )
    gain = share(adapted, new) - before
    assert full >= 0.95 and trained <= 0.05, (full, trained)
    assert gain >= 0.95 * full if must == "learn" else gain <= 0.8 * full, (gain, full)
