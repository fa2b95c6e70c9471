"""RNN: a state that each step mixes with the next input and squashes. The oldest net with a memory, and a short one.

Paper: Elman 1990, Finding Structure in Time, Cognitive Science 14(2).

    h_t = tanh(W x_t + b + U h_{t-1} + c)

Shapes: x (B, T) int64 or (B, T, d_in) → (B, T, d_out), or (B, d_out). B batch, T steps.
Deviations from the paper: several layers, and dropout between them.
Complexity: O(n_layers·T·d_model²) time, T steps in sequence.
Checked against: torch.nn.RNN, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.recurrent import RecurrentConfig, RecurrentModel
from oliveira.registry import register


@register(
    "rnn",
    family="recurrent",
    paper="doi:10.1207/s15516709cog1402_1",
    forms=CAUSAL_SEQUENCE,
    can=("features",),
    config=RecurrentConfig,
    causal=True,
    reference="torch.nn.RNN",
    tiny=dict(d_model=8, n_layers=2),
    train=dict(lr=3e-3),
)
class RNN(RecurrentModel):
    kind = "rnn"
