"""The reversible backward is the ordinary one, dropout included, and its memory does not grow with depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_helpers import exponent, peak_bytes
from torch import Tensor, nn

from oliveira.nn.reversible import ReversibleBlock, ordinary, reversible


class Mixes(nn.Module):
    """An F whose plan (the larger half of the steps) decides what it computes."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.project, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, plan: Tensor | None) -> tuple[Tensor, Tensor]:
        if plan is None:
            plan = x.detach().sum(dim=-1, keepdim=True) > 0
        x = x if mask is None else x * mask[..., None]
        return self.dropout(torch.tanh(self.project(x)) * torch.where(plan, 1.0, 0.5)), plan


def chain(depth: int, width: int = 6, dropout: float = 0.0) -> list[ReversibleBlock]:
    torch.manual_seed(0)
    return [
        ReversibleBlock(
            Mixes(width, dropout), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        )
        for _ in range(depth)
    ]


def gradients(run: Any, blocks: list[ReversibleBlock], x: Tensor, mask: Tensor | None) -> list[Tensor]:
    torch.manual_seed(7)  # of the dropout
    x1, x2 = (x.clone().requires_grad_() for _ in range(2))
    y1, y2 = run(blocks, x1, x2, mask)
    loss = (y1 * torch.linspace(-1, 1, y1.numel()).view_as(y1)).sum() + y2.square().sum()
    parameters = [p for block in blocks for p in block.parameters()]
    return [y1, y2, *torch.autograd.grad(loss, [x1, x2, *parameters])]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_is_the_ordinary_backward(dropout: float, masked: bool) -> None:
    blocks, x = chain(6, dropout=dropout), torch.randn(3, 5, 6)
    mask = torch.rand(3, 5) < 0.6 if masked else None
    expected, got = gradients(ordinary, blocks, x, mask), gradients(reversible, blocks, x, mask)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    if dropout:
        torch.manual_seed(8)
        assert not torch.allclose(reversible(blocks, x, x, mask)[0], got[0]), "nothing was dropped"


def test_backward_by_finite_differences() -> None:
    blocks = chain(2, width=3)
    for block in blocks:
        block.double()
    inputs = [torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: reversible(blocks, a, b), inputs)


def test_frozen_parameters_and_no_gradient() -> None:
    blocks, x = chain(2), torch.randn(1, 4, 6)
    blocks[0].f.requires_grad_(False)
    y1, _ = reversible(blocks, x, x)
    y1.sum().backward()
    assert blocks[0].f.project.weight.grad is None and blocks[1].f.project.weight.grad is not None
    with torch.no_grad():
        assert not reversible(blocks, x, x)[0].requires_grad


def test_a_plan_is_kept_for_the_second_run() -> None:
    """An F that decides anew in the backward pass may decide otherwise: the plan that it gets is the first one."""
    seen: list[Tensor | None] = []

    class Watches(Mixes):
        def forward(self, x: Tensor, mask: Tensor | None, plan: Tensor | None) -> tuple[Tensor, Tensor]:
            seen.append(plan)
            return super().forward(x, mask, plan)

    block = ReversibleBlock(Watches(6, 0.0), nn.Linear(6, 6))
    x = torch.randn(2, 3, 6)
    y1, _ = reversible([block], x, x)
    y1.sum().backward()
    assert seen[0] is None
    assert seen[1] is not None and torch.equal(seen[1], x.sum(dim=-1, keepdim=True) > 0)


def test_memory_is_flat_in_depth_and_of_the_ordinary_form_linear() -> None:
    depths, x = [4, 8, 16], torch.randn(8, 256, 32, requires_grad=True)

    def peak(run: Any, depth: int) -> int:
        blocks = chain(depth, width=32)

        def step() -> None:
            y1, y2 = run(blocks, x, x)
            (y1 + y2).sum().backward()

        step()  # the gradients are there before the measured step
        return peak_bytes(step)

    assert exponent(depths, [peak(reversible, n) for n in depths]) < 0.1
    assert exponent(depths, [peak(ordinary, n) for n in depths]) > 0.7
