"""SwiGLU's gate while a model trains: one pass over memory each way, where torch makes five in all.

    h = silu(g) ⊙ u,   silu(g) = g s,   s = 1 / (1 + e^−g)
    ∂u = ∂h g s,   ∂g = ∂h u (s + g s (1 − s))

Kept for the way back: g and u, not silu(g). Shapes: g, u (…) → (…), float32.
Checked against: torch.nn.functional.silu(g) * u, value and both gradients, 1e-6.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels.build import library, unavailable

_PIECE = 4096  # source/api.cpp counts in these
SMALLEST = 1 << 17  # numbers; below torch is as fast


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _call(None, gate, up, out, None)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        _call(gradient.contiguous(), gate, up, d_gate, d_up)
        return d_gate, d_up


def _call(gradient: Tensor | None, gate: Tensor, up: Tensor, out: Tensor, d_up: Tensor | None) -> None:
    pointers = [None if t is None else t.data_ptr() for t in (gradient, gate, up, out, d_up)]
    pieces = gate.numel() // _PIECE
    library().oliveira_gated(*pointers[:3], pieces, *pointers[3:], torch.get_num_threads())


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up; in C++ where something trains and the kernels take it."""
    trains = torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad)
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (gate, up)) and gate.shape == up.shape
    whole = gate.numel() >= SMALLEST and gate.numel() % _PIECE == 0
    if trains and plain and whole and not torch.compiler.is_exporting() and not unavailable():
        result: Tensor = _Gated.apply(gate, up)
        return result
    return F.silu(gate) * up
