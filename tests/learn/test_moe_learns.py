"""Eight functions in eight places of the input: experts share them out, one network of the same active size cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oliveira.nn.feedforward import FeedForward
from oliveira.nn.moe import MixtureOfExperts, balance_loss, expert_load

WIDTH, N_FUNCTIONS, D_FF = 8, 8, 16
_random = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(N_FUNCTIONS, WIDTH, generator=_random)
MAPS = 2 * torch.randn(N_FUNCTIONS, WIDTH, WIDTH, generator=_random) / WIDTH**0.5


def batch(size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Around each centre another linear map holds."""
    place = torch.randint(N_FUNCTIONS, (size,), generator=random)
    offset = 0.5 * torch.randn(size, WIDTH, generator=random)
    return CENTRES[place] + offset, (MAPS[place] @ offset[:, :, None])[:, :, 0]


def expert() -> FeedForward:
    return FeedForward(WIDTH, D_FF, nn.ReLU())


def fit(model: nn.Module, balance_weight: float = 0.0, steps: int = 400) -> tuple[float, Tensor]:
    """Squared error on fresh points, and each expert's share of them."""
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, y = batch(256, random)
        if isinstance(model, MixtureOfExperts):
            output, routing = model.routed(x)
            loss = (output - y).square().mean() + balance_weight * balance_loss(routing)
        else:
            loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, y = batch(4096, random)
    with torch.no_grad():
        load = expert_load(model.routed(x)[1]) if isinstance(model, MixtureOfExperts) else torch.ones(1)
        return (model(x) - y).square().mean().item(), load


@pytest.fixture(scope="module")
def dense() -> float:
    """The twin with the active parameters of one expert."""
    torch.manual_seed(0)
    return fit(expert())[0]


def mixture() -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts((expert() for _ in range(8)), WIDTH, top_k=1, renormalise=False)


def test_experts_share_out_the_functions(dense: float) -> None:
    error, load = fit(mixture(), balance_weight=0.3)
    assert dense > 0.4, "one network of this size must not do it"
    assert error <= 0.5 * dense and error < 0.25, (error, dense)
    assert load.min() >= 0.05, load


def test_without_the_balance_loss_experts_starve() -> None:
    """The twin that must fail."""
    _, load = fit(mixture())
    assert load.min() < 0.01 and load.max() > 0.2, load


def test_a_router_that_cannot_learn_is_no_better_than_one_network(dense: float) -> None:
    """The twin that must fail: experts without a choice between them."""
    model = mixture()
    nn.init.zeros_(model.router.score.weight)
    model.router.requires_grad_(False)
    assert fit(model)[0] > 0.5 * dense
