"""State-space layers: a linear recurrence in a few hidden numbers a channel, fixed (S4D) or selective (Mamba).

Papers: Gu et al. 2022, arXiv:2206.11893 (S4D); Gu & Dao 2023, arXiv:2312.00752 (selective).

    x'(t) = A x(t) + B u(t),   y(t) = Re C·x(t) + D u(t)                                  continuous, A diagonal
    zoh        Ā = exp(Δ A),                       B̄ = (Ā − 1) / A · B                     S4D eq. 3
    bilinear   Ā = (1 + Δ A / 2) / (1 − Δ A / 2),  B̄ = Δ / (1 − Δ A / 2) · B
    x_t = Ā x_{t−1} + B̄ u_t,   y = K ∗ u + D u,   K_t = 2 Re Σ_n C_n Āᵗ B̄_n               recurrence = convolution
    S4D-Lin  A_n = −1/2 + iπn          S4D-Inv  A_n = −1/2 + i N/π (N / (2n + 1) − 1)

Shapes: legend B batch, T steps, E channels, N states; of an S4D channel N / 2 conjugate pairs, B = 1. (B, T, E) → same.
No complex number is stored or computed: z = r·exp(iθ) is (log r, θ), so that a layer exports.
Complexity: selective O(T·E·N); S4D kernel O(E·N·T), convolution O(E·T²) up to `DIRECT` steps, O(E·T log T) beyond.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from oliveira.nn.scan import selective_scan, selective_step

DIRECT = 1024  # longest kernel that a convolution sums directly: there FFT is not faster on a CPU
TILE = 16  # a kernel of T steps is made of T / TILE coarse and TILE fine powers


class CausalConv(nn.Module):
    """A short filter for each channel alone, over this step and the `d_conv − 1` before it."""

    def __init__(self, d_inner: int, d_conv: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_inner, d_conv).uniform_(-1, 1) / d_conv**0.5)
        self.bias = nn.Parameter(torch.zeros(d_inner))

    def forward(self, x_BTE: Tensor) -> Tensor:
        return causal_filter(x_BTE, self.weight, self.bias)

    def step(self, x_BE: Tensor, window_BKE: Tensor) -> tuple[Tensor, Tensor]:
        """One step after the `d_conv − 1` inputs of `window`: its output, and the next window."""
        window_BKE = torch.cat([window_BKE, x_BE[:, None]], dim=1)
        return (window_BKE * self.weight.T).sum(dim=1) + self.bias, window_BKE[:, 1:]


class SelectiveState(NamedTuple):
    """What a selective layer remembers: (B, d_conv − 1, E) last inputs of the filter, (B, N, E) states."""

    window: Tensor
    h: Tensor


class SelectiveSSM(nn.Module):
    """The Mamba mixer: gate and filter, then a recurrence whose step size, input and output weights depend on x."""

    def __init__(self, d_model: int, d_inner: int, d_state: int, d_conv: int, dt_rank: int) -> None:
        super().__init__()
        self.parts = [dt_rank, d_state, d_state]
        self.input = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv = CausalConv(d_inner, d_conv)
        self.select = nn.Linear(d_inner, sum(self.parts), bias=False)
        self.step_size = nn.Linear(dt_rank, d_inner)
        self.log_a = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))  # A = −1 … −N, S4D-real
        self.skip = nn.Parameter(torch.ones(d_inner))
        self.output = nn.Linear(d_inner, d_model, bias=False)
        nn.init.uniform_(self.step_size.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        dt = log_uniform(d_inner, 1e-3, 1e-1)
        with torch.no_grad():
            self.step_size.bias.copy_(dt + (-(-dt).expm1()).log())  # softplus of it is dt

    def _selected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt, b, c = self.select(x).split(self.parts, dim=-1)
        return F.softplus(self.step_size(dt)), b, c

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        x, gate = self.input(x_BTD).chunk(2, dim=-1)  # (B, T, E) each
        x = F.silu(self.conv(_real_steps(x, mask)))
        x = _real_steps(x, mask)  # the filter's bias, too, must not enter the state at padding
        dt, b, c = self._selected(x)
        y = selective_scan(x, dt, -self.log_a.exp(), b, c) + self.skip * x
        return self.output(y * F.silu(gate))

    def step(self, x_BD: Tensor, state: SelectiveState | None) -> tuple[Tensor, SelectiveState]:
        """One step after `state` (None: the beginning): its output (B, D), and the next state."""
        x, gate = self.input(x_BD).chunk(2, dim=-1)
        if state is None:
            d_inner, d_conv = self.conv.weight.shape
            window = x.new_zeros(x.shape[0], d_conv - 1, d_inner)
            state = SelectiveState(window, x.new_zeros(x.shape[0], self.log_a.shape[1], d_inner))
        x, window = self.conv.step(x, state.window)
        x = F.silu(x)
        dt, b, c = self._selected(x)
        h, y = selective_step(state.h, x, dt, -self.log_a.exp().T, b, c)
        return self.output((y + self.skip * x) * F.silu(gate)), SelectiveState(window, h)


class Discrete(NamedTuple):
    """A diagonal system in steps, (E, N / 2) each: Ā = exp(log_r + iθ), B̄ = b_real + i b_imag."""

    log_r: Tensor
    theta: Tensor
    b_real: Tensor
    b_imag: Tensor


def discretise(dt: Tensor, a_real: Tensor, a_imag: Tensor, method: Literal["zoh", "bilinear"]) -> Discrete:
    """`dt` (E, 1); A = a_real + i a_imag (E, N / 2) with a_real < 0; B = 1."""
    x, y = dt * a_real, dt * a_imag  # Δ A
    if method == "zoh":
        # Ā − 1 = expm1(x) cos y − 2 sin²(y/2) + i exp(x) sin y, which does not cancel for small Δ A; then over A.
        over, above = x.expm1() * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin()
        size = a_real.square() + a_imag.square()
        return Discrete(x, y, (over * a_real + above * a_imag) / size, (above * a_real - over * a_imag) / size)
    x, y = x / 2, y / 2
    below = (1 - x).square() + y.square()  # |1 − Δ A / 2|²
    log_r = (((1 + x).square() + y.square()) / below).log() / 2
    theta = torch.atan2(y, 1 + x) + torch.atan2(y, 1 - x)
    return Discrete(log_r, theta, dt * (1 - x) / below, dt * y / below)


class DiagonalState(NamedTuple):
    """What an S4D layer remembers: real and imaginary parts (B, E, N / 2)."""

    real: Tensor
    imag: Tensor


class DiagonalSSM(nn.Module):
    """S4D: `d_inner` independent single-input systems with diagonal A, run as one convolution."""

    def __init__(
        self,
        d_inner: int,
        d_state: int,
        max_len: int,
        initial: Literal["lin", "inv"] = "lin",
        method: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        super().__init__()
        n, pairs = torch.arange(d_state // 2), d_state // 2
        imag = math.pi * n if initial == "lin" else d_state / math.pi * (d_state / (2 * n + 1) - 1)
        self.method, self.max_len = method, max_len
        self.log_dt = nn.Parameter(log_uniform(d_inner, 1e-3, 1e-1).log())
        self.log_a_real = nn.Parameter(torch.full((d_inner, pairs), math.log(0.5)))
        self.a_imag = nn.Parameter(imag.repeat(d_inner, 1))
        self.c_real = nn.Parameter(torch.randn(d_inner, pairs) / 2**0.5)
        self.c_imag = nn.Parameter(torch.randn(d_inner, pairs) / 2**0.5)
        self.skip = nn.Parameter(torch.ones(d_inner))

    def discrete(self) -> Discrete:
        return discretise(self.log_dt.exp()[:, None], -self.log_a_real.exp(), self.a_imag, self.method)

    def kernel(self, length: int) -> Tensor:
        """K (E, length). Āᵗ for t = TILE·i + j is the product of a coarse and a fine power: few exponentials."""
        d = self.discrete()
        coarse = TILE * torch.arange(-(-length // TILE), device=d.theta.device)
        left_real, left_imag = _powers(d, coarse)  # (E, i, N/2)
        right_real, right_imag = _powers(d, torch.arange(TILE, device=d.theta.device))
        real = 2 * (self.c_real * d.b_real - self.c_imag * d.b_imag)[:, None]  # 2 C B̄
        imag = 2 * (self.c_real * d.b_imag + self.c_imag * d.b_real)[:, None]
        left = torch.cat([left_real * real - left_imag * imag, -(left_real * imag + left_imag * real)], dim=2)
        return (left @ torch.cat([right_real, right_imag], dim=2).mT).flatten(1)[:, :length]

    def forward(self, u_BTE: Tensor, mask: Tensor | None = None) -> Tensor:
        u_BTE = _real_steps(u_BTE, mask)
        # A graph has one kernel, of max_len steps, which the exporter can fold into a constant.
        kernel = self.kernel(self.max_len if torch.compiler.is_exporting() else u_BTE.shape[1])
        return convolve(u_BTE, kernel) + self.skip * u_BTE

    def step(self, u_BE: Tensor, state: DiagonalState | None) -> tuple[Tensor, DiagonalState]:
        """One step of the recurrence after `state` (None: the beginning): its output (B, E), and the next state."""
        d, u = self.discrete(), u_BE[:, :, None]
        a_real, a_imag = d.log_r.exp() * d.theta.cos(), d.log_r.exp() * d.theta.sin()
        if state is None:
            state = DiagonalState(torch.zeros_like(u * a_real), torch.zeros_like(u * a_real))
        real = a_real * state.real - a_imag * state.imag + d.b_real * u
        imag = a_real * state.imag + a_imag * state.real + d.b_imag * u
        y = 2 * (self.c_real * real - self.c_imag * imag).sum(dim=2)
        return y + self.skip * u_BE, DiagonalState(real, imag)


def convolve(u_BTE: Tensor, kernel_EK: Tensor) -> Tensor:
    """y_t = Σ_{s ≤ t} K_{t−s} u_s, each channel by its own kernel of at least T steps.

    Kernels up to `DIRECT` steps sum products, so that no bit of the past depends on the future; longer ones go by FFT,
    whose rounding does.
    """
    if kernel_EK.shape[1] > DIRECT:
        return _by_fft(u_BTE, kernel_EK)
    if torch.compiler.is_exporting():
        return causal_filter(u_BTE, kernel_EK.flip(1))
    return _Convolution.apply(u_BTE, kernel_EK)


def causal_filter(x_BTE: Tensor, weight_EK: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each channel by its own filter over this step (last weight) and the K − 1 before it."""
    padded = F.pad(x_BTE, (0, 0, weight_EK.shape[1] - 1, 0))
    image = padded.transpose(1, 2).unsqueeze(2)  # (B, E, 1, T'): channels last in memory, as the fast kernel wants
    filtered = F.conv2d(image, weight_EK[:, None, None], bias, groups=weight_EK.shape[0])
    return filtered.squeeze(2).transpose(1, 2)


def _by_fft(u_BTE: Tensor, kernel_EK: Tensor) -> Tensor:
    n_steps = u_BTE.shape[1]
    u, kernel = _spectrum(u_BTE.transpose(1, 2), n_steps), _spectrum(kernel_EK[:, :n_steps], n_steps)
    return torch.fft.irfft(u * kernel, n=2 * n_steps)[:, :, :n_steps].transpose(1, 2)


def _spectrum(x: Tensor, n_steps: int) -> Tensor:
    return torch.fft.rfft(x, n=2 * n_steps)  # zeros behind, so that nothing comes round


class _Convolution(torch.autograd.Function):
    """Forward as the direct sum; backward, where the order of rounding promises nothing, by FFT."""

    @staticmethod
    def forward(ctx: Any, u_BTE: Tensor, kernel_ET: Tensor) -> Tensor:
        ctx.save_for_backward(u_BTE, kernel_ET)
        return causal_filter(u_BTE, kernel_ET.flip(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTE: Tensor) -> tuple[Tensor, Tensor]:
        u_BTE, kernel_ET = ctx.saved_tensors
        n = u_BTE.shape[1]
        grad, u = _spectrum(grad_BTE.transpose(1, 2), n), _spectrum(u_BTE.transpose(1, 2), n)
        grad_u = torch.fft.irfft(grad * _spectrum(kernel_ET, n).conj(), n=2 * n)[:, :, :n].transpose(1, 2)
        return grad_u, torch.fft.irfft((grad * u.conj()).sum(dim=0), n=2 * n)[:, :n]


def _powers(d: Discrete, t: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of Āᵗ: (E, len(t), N / 2) each."""
    size, angle = (t[:, None] * d.log_r[:, None]).exp(), t[:, None] * d.theta[:, None]
    return size * angle.cos(), size * angle.sin()


def _real_steps(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask[:, :, None]


def log_uniform(count: int, low: float, high: float) -> Tensor:
    """`count` numbers whose logarithms are uniform between those of `low` and `high`."""
    return (torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low)).exp()
