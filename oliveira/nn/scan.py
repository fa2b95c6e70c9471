"""Linear recurrences over time: h_t = a_t ⊙ h_{t−1} + b_t, and the selective form of it that Mamba runs.

Paper: Gu & Dao 2023, arXiv:2312.00752, eq. 2a–2b and §3.3.2 (states stay in cache, backward makes them again).

    h_t = exp(Δ_t A) ⊙ h_{t−1} + B_t (Δ_t x_t),   y_t = C_t · h_t,   h_0 = 0                        selective
    g_t = ∂L/∂h_t + a_{t+1} ⊙ g_{t+1},   ∂L/∂a_t = g_t ⊙ h_{t−1},   ∂L/∂b_t = g_t                   backward

Shapes: legend B batch, T steps, E channels, N states a channel. a, b → h (B, T, …); x, Δ → y (B, T, E);
A (E, N), negative; B, C (B, T, N).

On a CPU one fused multiply-add a step, in place, beats the log-step scans that GPUs want: it reads and writes each
number once. At B 8, T 256, E·N 2048, one thread, forward: 3 ms, against 19 (two levels of 16), 26 (Blelloch) and 55
(Hillis–Steele). What is slow is autograd's record of such a loop, so both functions bring their own backward.
An export writes the recurrence as one ONNX Scan, whose time axis is free.
Complexity: O(B·T·E·N) time; memory O(B·T·E·N) for `scan`, O(B·T·E) + one chunk of states for `selective_scan`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 2**18  # states of one chunk: about what a core's cache holds


def scan_reference(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence as it is written, recorded by autograd: the oracle of `scan`."""
    states = [b[:, 0]]
    for t in range(1, b.shape[1]):
        states.append(a[:, t] * states[-1] + b[:, t])
    return torch.stack(states, dim=1)


def scan(a: Tensor, b: Tensor) -> Tensor:
    """All states h (B, T, …) of h_t = a_t ⊙ h_{t−1} + b_t with h_0 = 0. `a` and `b` have one shape."""
    return _Scan.apply(a, b)


def _advance(a: Tensor, h: Tensor, start: Tensor) -> None:
    """In place along dimension 1: `h` holds b and becomes the states that follow `start`."""
    for a_t, h_t in zip(a.unbind(1), h.unbind(1), strict=True):
        start = h_t.addcmul_(a_t, start)


def _retreat(a: Tensor, g: Tensor, carry: Tensor) -> Tensor:
    """In place: `g` holds ∂L/∂h of each step alone and becomes that of all later ones too. Returns the next carry."""
    for a_t, g_t in zip(reversed(a.unbind(1)), reversed(g.unbind(1)), strict=True):
        carry = a_t * g_t.add_(carry)
    return carry


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = b.clone(memory_format=torch.contiguous_format)
        _advance(a, h, torch.zeros_like(h[:, 0]))
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        g = grad.clone(memory_format=torch.contiguous_format)
        _retreat(a, g, torch.zeros_like(g[:, 0]))
        grad_a = torch.zeros_like(h)
        torch.mul(g[:, 1:], h[:, :-1], out=grad_a[:, 1:])
        return grad_a, g


def selective_step(
    h_BNE: Tensor, x_BE: Tensor, dt_BE: Tensor, a_NE: Tensor, b_BN: Tensor, c_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the selective recurrence: (h, y (B, E))."""
    h_BNE = (dt_BE[:, None] * a_NE).exp() * h_BNE + b_BN[:, :, None] * (dt_BE * x_BE)[:, None]
    return h_BNE, (c_BN[:, :, None] * h_BNE).sum(dim=1)


def selective_scan_reference(x_BTE: Tensor, dt_BTE: Tensor, a_EN: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    """`selective_step` in a loop, recorded by autograd: the oracle of `selective_scan`."""
    h = x_BTE.new_zeros(x_BTE.shape[0], a_EN.shape[1], a_EN.shape[0])
    outputs = []
    for t in range(x_BTE.shape[1]):
        h, y = selective_step(h, x_BTE[:, t], dt_BTE[:, t], a_EN.T, b_BTN[:, t], c_BTN[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def selective_scan(x_BTE: Tensor, dt_BTE: Tensor, a_EN: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    """y (B, T, E) of the selective recurrence from h_0 = 0."""
    if torch.compiler.is_exporting():
        return _exported(x_BTE, dt_BTE, a_EN.T, b_BTN, c_BTN)
    return _SelectiveScan.apply(x_BTE, dt_BTE, a_EN, b_BTN, c_BTN)


def _exported(x_BTE: Tensor, dt_BTE: Tensor, a_NE: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    from torch._higher_order_ops.scan import scan as scan_operator

    def step(h: Tensor, now: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, dt, b, c = now
        return selective_step(h, x, dt, a_NE, b, c)

    start = (x_BTE[:, 0, None] * a_NE) * 0.0  # (B, N, E)
    _, y_TBE = scan_operator(step, start, tuple(s.transpose(0, 1) for s in (x_BTE, dt_BTE, b_BTN, c_BTN)))
    return y_TBE.transpose(0, 1)


class _SelectiveScan(torch.autograd.Function):
    """Chunk by chunk of steps. Kept for backward: the inputs, and the state at each chunk's start."""

    @staticmethod
    def forward(ctx: Any, x_BTE: Tensor, dt_BTE: Tensor, a_EN: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
        a_NE = a_EN.T.contiguous()
        u_BTE = dt_BTE * x_BTE
        y_BTE = torch.empty_like(u_BTE)
        h_BNE = u_BTE.new_zeros(u_BTE.shape[0], *a_NE.shape)
        n_steps = max(4, CHUNK_NUMBERS // max(1, h_BNE.numel()))
        starts = []
        for first in range(0, u_BTE.shape[1], n_steps):
            now = slice(first, first + n_steps)
            starts.append(h_BNE)
            decay = (dt_BTE[:, now, None] * a_NE).exp_()  # (B, n, N, E)
            h = b_BTN[:, now, :, None] * u_BTE[:, now, None]
            _advance(decay, h, h_BNE)
            y_BTE[:, now] = (c_BTN[:, now, None] @ h)[:, :, 0]
            h_BNE = h[:, -1].clone()
        ctx.save_for_backward(x_BTE, dt_BTE, a_NE, b_BTN, c_BTN, torch.stack(starts))
        ctx.n_steps = n_steps
        return y_BTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTE: Tensor) -> tuple[Tensor, ...]:
        x_BTE, dt_BTE, a_NE, b_BTN, c_BTN, starts = ctx.saved_tensors
        u_BTE = dt_BTE * x_BTE
        grad_u, grad_dt = torch.empty_like(u_BTE), torch.empty_like(u_BTE)
        grad_b, grad_c = torch.empty_like(b_BTN), torch.empty_like(c_BTN)
        grad_a = torch.zeros_like(a_NE)
        carry = torch.zeros_like(starts[0])
        for chunk in reversed(range(starts.shape[0])):
            now = slice(chunk * ctx.n_steps, (chunk + 1) * ctx.n_steps)
            dt, u, grad_y, b, c = (s[:, now] for s in (dt_BTE, u_BTE, grad_BTE, b_BTN, c_BTN))
            decay = (dt[:, :, None] * a_NE).exp_()  # (B, n, N, E)
            h = torch.cat([starts[chunk][:, None], b[..., None] * u[:, :, None]], dim=1)  # one step before, too
            _advance(decay, h[:, 1:], h[:, 0])
            g = c[..., None] * grad_y[:, :, None]
            carry = _retreat(decay, g, carry)
            grad_c[:, now] = (h[:, 1:] @ grad_y[..., None])[..., 0]
            grad_b[:, now] = (g @ u[..., None])[..., 0]
            grad_u[:, now] = (b[:, :, None] @ g)[:, :, 0]
            grad_exponent = decay.mul_(g).mul_(h[:, :-1])  # ∂L/∂(Δ A)
            grad_a += (grad_exponent * dt[:, :, None]).sum(dim=(0, 1))
            grad_dt[:, now] = grad_exponent.mul_(a_NE).sum(dim=2)
        return grad_u * dt_BTE, grad_dt.addcmul_(grad_u, x_BTE), grad_a.T, grad_b, grad_c
