"""S4D: each channel passes through a bank of damped oscillators that remember the past at many time scales.
The bank is the same at every step, so that a whole sequence is one convolution, and one more step is a recurrence.

Paper: Gu et al. 2022, arXiv:2206.11893; the block: Gu et al. 2021, arXiv:2111.00396.

    x_t = Ā x_{t−1} + B̄ u_t,   y_t = 2 Re C · x_t + D u_t                              Ā, B̄ by zoh or bilinear
    K_t = 2 Re Σ_n C_n Āₙᵗ B̄ₙ,   y = K ∗ u + D u                                       eq. 6: the same numbers
    u ← u + GLU(W · GELU(y)),   y from LayerNorm(u)

Shapes: x (B, T) int64 or (B, T, d_in), mask (B, T) → (B, T, d_out) or (B, d_out). B batch, T steps.
Deviations from the paper: B is 1 and not learned (it enters only as C·B); one learning rate for all parameters.
Complexity: O(L·T·(D² + D·T)) time up to 1,024 steps, O(L·T·(D² + D log T)) beyond; a state is O(L·D·N).
Checked against: scipy.signal.cont2discrete (zoh, bilinear) and dlsim, outputs to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.norm import LayerNorm
from oliveira.nn.ssm import DiagonalSSM, DiagonalState
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class S4DConfig(SequenceConfig):
    d_model: int = 64
    n_layers: int = 4
    d_state: int = 64  # real numbers a channel: d_state / 2 conjugate pairs
    initial: Literal["lin", "inv"] = "lin"
    method: Literal["zoh", "bilinear"] = "zoh"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_state < 2 or self.d_state % 2:
            raise ValueError(f"d_state = {self.d_state} is not made of pairs. Use an even number, such as 64.")


class Block(nn.Module):
    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_model)
        self.mixer = DiagonalSSM(config.d_model, config.d_state, config.max_len, config.initial, config.method)
        self.output = nn.Linear(config.d_model, 2 * config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return u + self._mixed(self.mixer(self.norm(u), mask))

    def step(self, u: Tensor, state: DiagonalState | None) -> tuple[Tensor, DiagonalState]:
        y, state = self.mixer.step(self.norm(u), state)
        return u + self._mixed(y), state

    def _mixed(self, y: Tensor) -> Tensor:
        return self.dropout(F.glu(self.output(F.gelu(y)), dim=-1))


@register(
    "s4d",
    family="state space",
    paper="arXiv:2206.11893",
    forms=CAUSAL_SEQUENCE,
    can=(
        "features",
        "keeps_state",
    ),
    config=S4DConfig,
    causal=True,
    reference="scipy.signal cont2discrete, dlsim",
    tiny=dict(d_model=8, n_layers=2, d_state=4),
    train=dict(lr=3e-3),
)
class S4D(nn.Module):
    def __init__(self, config: S4DConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model)
        self.output = Output(config, gives, config.d_model, pool="last")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.features(x, mask), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The normalised states of the last layer: (B, T, d_model)."""
        u = self.input(x)
        for layer in self.blocks:
            u = layer(u, mask)
        return self.norm(u)

    def step(self, x: Tensor, state: list[DiagonalState] | None = None) -> tuple[Tensor, list[DiagonalState]]:
        """One step, tokens (B,) or numbers (B, d_in), after `state` (None: the beginning): (B, d_out), next state.

        Equal to the last step of `forward` over all steps so far.
        """
        u, states = self.input(x), []
        for number, layer in enumerate(self.blocks):
            u, after = layer.step(u, None if state is None else state[number])  # type: ignore[operator]
            states.append(after)
        return self.output.project(self.norm(u)), states
