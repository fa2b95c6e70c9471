"""Mamba: a recurrent network whose memory chooses, step by step, what to keep and what to let go.
It trains over all steps at once like a transformer and goes on from a state of fixed size like an RNN.

Paper: Gu & Dao 2023, arXiv:2312.00752.

    x, z = W_in · RMSNorm(u);   x = SiLU(conv(x))                                     figure 3, algorithm 2
    Δ, B, C = W_x x;   Δ = softplus(W_Δ Δ + b)                                        selection
    h_t = exp(Δ_t A) ⊙ h_{t−1} + B_t (Δ_t x_t),   y_t = C_t · h_t + D x_t             eq. 2a–2b, A = −exp(log_a)
    u ← u + W_out (y ⊙ SiLU(z))

Shapes: x (B, T) int64 or (B, T, d_in), mask (B, T) → (B, T, d_out) or (B, d_out). B batch, T steps.
Deviations from the paper: B becomes Δ B, as in its code and not in its eq. 4; embedding and output matrix are two.
Complexity: O(L·T·(D² + D·N)) time, O(L·T·D) memory, D = expand · d_model, N = d_state; a state is O(L·D·N).
Checked against: transformers MambaForCausalLM and mambapy.mamba.Mamba, outputs and gradients to 1e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.norm import RMSNorm
from oliveira.nn.ssm import SelectiveSSM, SelectiveState
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class MambaConfig(SequenceConfig):
    d_model: int = 64
    n_layers: int = 2
    d_state: int = 16
    d_conv: int = 4  # steps that the short filter sees
    expand: int = 2  # inner width over d_model
    dt_rank: int = 0  # rank of the map to step sizes; 0: d_model / 16, rounded up
    dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "n_layers", "d_state", "d_conv", "expand"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is less than 1. Leave it out for the default.")


class Block(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        rank = config.dt_rank or math.ceil(config.d_model / 16)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = SelectiveSSM(
            config.d_model, config.expand * config.d_model, config.d_state, config.d_conv, dt_rank=rank
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return u + self.dropout(self.mixer(self.norm(u), mask))

    def step(self, u: Tensor, state: SelectiveState | None) -> tuple[Tensor, SelectiveState]:
        mixed, state = self.mixer.step(self.norm(u), state)
        return u + mixed, state


@register(
    "mamba",
    family="state space",
    paper="arXiv:2312.00752",
    forms=CAUSAL_SEQUENCE,
    can=(
        "features",
        "keeps_state",
    ),
    config=MambaConfig,
    causal=True,
    reference="transformers MambaForCausalLM, mambapy Mamba",
    tiny=dict(d_model=8, n_layers=2, d_state=4),
    train=dict(lr=3e-3),
)
class Mamba(nn.Module):
    def __init__(self, config: MambaConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.output = Output(config, gives, config.d_model, pool="last")
        for name, parameter in self.named_parameters():  # the residual stream keeps its scale
            if name.endswith("mixer.output.weight"):
                parameter.data /= config.n_layers**0.5

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.features(x, mask), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The normalised states of the last layer: (B, T, d_model)."""
        u = self.input(x)
        for layer in self.blocks:
            u = layer(u, mask)
        return self.norm(u)

    def step(self, x: Tensor, state: list[SelectiveState] | None = None) -> tuple[Tensor, list[SelectiveState]]:
        """One step, tokens (B,) or numbers (B, d_in), after `state` (None: the beginning): (B, d_out), next state.

        Equal to the last step of `forward` over all steps so far.
        """
        u, states = self.input(x), []
        for number, layer in enumerate(self.blocks):
            u, after = layer.step(u, None if state is None else state[number])  # type: ignore[operator]
            states.append(after)
        return self.output.project(self.norm(u)), states
