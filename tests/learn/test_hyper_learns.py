"""Made weights do what learned weights do, and one hypernetwork stands in for many networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from oliveira.nn.hyper import ChunkedHyperMLP, main_mlp, mlp_shapes
from oliveira.registry import create

N_TASKS, WIDTHS = 32, [1, 32, 32, 1]


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def descend(parameters: list[Tensor], loss: Callable[[], Tensor], steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def sinusoids() -> tuple[Tensor, Tensor]:
    """Amplitude 0.5 to 2 and any phase: (32,) each."""
    random = torch.Generator().manual_seed(0)
    return 0.5 + 1.5 * torch.rand(N_TASKS, generator=random), 2 * torch.pi * torch.rand(N_TASKS, generator=random)


def values(x: Tensor) -> Tensor:
    """(tasks, points, 1): what each task answers at the points x of the same shape."""
    amplitude, phase = sinusoids()
    return amplitude[:, None, None] * torch.sin(x + phase[:, None, None])


def points(count: int, random: torch.Generator) -> Tensor:
    return torch.pi * (2 * torch.rand(N_TASKS, count, 1, generator=random) - 1)


def test_one_hypernetwork_stands_in_for_32_networks() -> None:
    """Given the number of the task it makes the weights of that task's network."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    tasks = nn.Embedding(N_TASKS, 8)
    hyper = ChunkedHyperMLP(mlp_shapes(WIDTHS), 8, (32,), chunk_size=64, d_chunk=8)
    separate = N_TASKS * sum(torch.Size(shape).numel() for shape in mlp_shapes(WIDTHS))
    assert size(tasks, hyper) <= separate / 8
    scale = [s for n in WIDTHS[:-1] for s in ((2 / n) ** 0.5, 0.5)]

    def answer(x: Tensor) -> Tensor:
        return main_mlp(x, [s * w for s, w in zip(scale, hyper(tasks.weight), strict=True)])

    def loss() -> Tensor:
        x = points(32, random)
        return (answer(x) - values(x)).square().mean()

    descend([*tasks.parameters(), *hyper.parameters()], loss, steps=1500, lr=5e-3)
    x = points(256, random)
    with torch.no_grad():
        error = (answer(x) - values(x)).square().mean().item()
    assert error <= 1e-2, error


def test_one_network_that_is_not_told_the_task_cannot() -> None:
    """The twin that must fail, whatever its size: it can only learn the mean of all sinusoids."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def loss() -> Tensor:
        x = points(32, random)
        return (network(x) - values(x)).square().mean()

    descend(list(network.parameters()), loss, steps=400, lr=5e-3)
    assert loss().item() > 0.3


def digits_accuracy(make: Callable[[], nn.Module], steps: int = 1000) -> float:
    """The mean of three seeds, on 450 digits that were not learned from."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    learn, judge = order[:1347], order[1347:]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = make()

        def loss(model: nn.Module = model) -> Tensor:
            rows = learn[torch.randint(len(learn), (64,))]
            return F.cross_entropy(model(x[rows]), y[rows])

        descend([p for p in model.parameters() if p.requires_grad], loss, steps, lr=3e-3)
        with torch.no_grad():
            found.append((model(x[judge]).argmax(1) == y[judge]).float().mean().item())
    return sum(found) / len(found)


IMAGE = dict(channels=1, height=8, width=8, d_out=10)
MADE = dict(d_model=64, n_layers=1, d_hyper=32, d_embedding=8, chunk_size=64)


def direct() -> nn.Module:
    return create("mlp", **IMAGE, d_model=64, n_layers=1)


def made() -> nn.Module:
    return create("hypernetwork", **IMAGE, **MADE)


def alike() -> nn.Module:
    """Without an embedding of its own every piece of the weights is the same."""
    model: Any = made()
    model.hyper.chunks.data.copy_(model.hyper.chunks.data[:1].expand_as(model.hyper.chunks))
    model.hyper.chunks.requires_grad_(False)
    return model


@pytest.mark.slow
def test_made_weights_are_within_a_point_of_learned_ones() -> None:
    assert size(made()) < size(direct())
    learned, accuracy = digits_accuracy(direct), digits_accuracy(made)
    assert learned >= 0.95 and accuracy >= learned - 0.01, (accuracy, learned)


def test_pieces_that_are_all_alike_are_not_enough() -> None:
    """The twin that must fail."""
    assert digits_accuracy(alike, steps=100) < 0.5
