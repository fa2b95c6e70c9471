"""Reversible residual layers: the input of each layer is computed back from its output, so depth costs no memory.

Papers: Gomez et al. 2017, arXiv:1707.04585; in Transformers: Kitaev et al. 2020, arXiv:2001.04451, eq. 7–9.

    y₁ = x₁ + F(x₂),  y₂ = x₂ + G(y₁)      ⇔      x₂ = y₂ − G(y₁),  x₁ = y₁ − F(x₂)

Shapes: x₁, x₂ (B, T, d_model) → y₁, y₂ of the same shape. Mask: (B, T), given to every F.
F takes (x, mask, plan) and gives (F(x), plan). A plan is what must not change when F runs again in the backward pass
although x comes back with a rounding error: the sorting of hashed attention. None where nothing is decided.
Dropout in F and G draws from a seed of its own, so that the second run drops the same numbers.
Complexity: one more forward pass in the backward one; memory of one layer, and the plans, in the place of all layers.
Checked against: the ordinary backward, 1e-5; gradcheck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ReversibleBlock(nn.Module):
    """F: (x, mask, plan) → (F(x), plan). G: x → G(x)."""

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g


def reversible(
    blocks: Iterable[ReversibleBlock], x1: Tensor, x2: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The whole stack, with its own backward. `ordinary` gives the same numbers and keeps every activation."""
    chain = list(blocks)
    seeds = _seeds(chain)
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return ordinary(chain, x1, x2, mask, seeds)
    parameters = [p for block in chain for part in (block.f, block.g) for p in _trained(part)]
    return _Reversible.apply(x1, x2, mask, chain, seeds, *parameters)


def ordinary(
    blocks: Iterable[ReversibleBlock],
    x1: Tensor,
    x2: Tensor,
    mask: Tensor | None = None,
    seeds: Sequence[int | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The equations on the left, with autograd's own backward."""
    chain = list(blocks)
    seeds = _seeds(chain) if seeds is None else seeds
    for block, seed in zip(chain, seeds, strict=True):
        x1 = x1 + _seeded(seed, block.f, x2, mask, None)[0]
        x2 = x2 + _seeded(seed, block.g, x1)
    return x1, x2


def _seeds(blocks: Sequence[ReversibleBlock]) -> list[int | None]:
    """One a block where something is drawn at random, that is in training with dropout."""
    return [
        int(torch.randint(2**31, ())) if any(_drops(module) for module in block.modules()) else None for block in blocks
    ]


def _drops(module: nn.Module) -> bool:
    return module.training and float(getattr(module, "p", 0.0) or 0.0) > 0


def _seeded(seed: int | None, layer: Callable[..., Any], *inputs: Any) -> Any:
    if seed is None:
        return layer(*inputs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return layer(*inputs)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x1: Tensor,
        x2: Tensor,
        mask: Tensor | None,
        blocks: list[ReversibleBlock],
        seeds: list[int | None],
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        plans = []
        for block, seed in zip(blocks, seeds, strict=True):
            out, plan = _seeded(seed, block.f, x2, mask, None)
            x1 = x1 + out
            x2 = x2 + _seeded(seed, block.g, x1)
            plans.append(plan)
        ctx.save_for_backward(x1, x2, mask, *plans)
        ctx.blocks, ctx.seeds = blocks, seeds
        return x1, x2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> tuple[Any, ...]:
        y1, y2, mask, *plans = ctx.saved_tensors
        gradients: list[Tensor] = []  # of the parameters, last block first

        def undo(seed: int | None, part: nn.Module, x: Tensor, d_out: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            """Runs `part` again: its output and the gradient at x. Its parameters' gradients are put in front."""
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                out = _seeded(seed, part, x, *rest)
                out = out[0] if isinstance(out, tuple) else out
            d_x, *d_parameters = torch.autograd.grad(out, [x, *_trained(part)], d_out)
            gradients[:0] = d_parameters
            return out.detach(), d_x

        for block, seed, plan in zip(reversed(ctx.blocks), reversed(ctx.seeds), reversed(plans), strict=True):
            out, d_x = undo(seed, block.g, y1, d2)
            y2, d1 = y2 - out, d1 + d_x  # y₂ is x₂ from here
            out, d_x = undo(seed, block.f, y2, d1, mask, plan)
            y1, d2 = y1 - out, d2 + d_x
        return d1, d2, None, None, None, *gradients
