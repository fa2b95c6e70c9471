"""GRU: a recurrent net in which one gate decides how much of the state is renewed, and another what the renewal sees.
It remembers as the LSTM does, with three quarters of its weights and no separate memory cell.

Paper: Cho et al. 2014, arXiv:1406.1078.

    r, z = σ(W x_t + b + U h_{t-1} + c)
    n    = tanh(W x_t + b + r ⊙ (U h_{t-1} + c))
    h_t  = (1 − z) ⊙ n + z ⊙ h_{t-1}

Shapes: x (B, T) int64 or (B, T, d_in) → (B, T, d_out), or (B, d_out). B batch, T steps.
Deviations from the paper: the reset gate r multiplies U h + c, not h before the product, as in torch and cuDNN; biases.
Complexity: O(n_layers·T·d_model²) time, T steps in sequence.
Checked against: torch.nn.GRU, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.recurrent import RecurrentConfig, RecurrentModel
from oliveira.registry import register


@register(
    "gru",
    family="recurrent",
    paper="arXiv:1406.1078",
    forms=CAUSAL_SEQUENCE,
    can=("features",),
    config=RecurrentConfig,
    causal=True,
    reference="torch.nn.GRU",
    tiny=dict(d_model=8, n_layers=2),
    train=dict(lr=5e-3),
)
class GRU(RecurrentModel):
    kind = "gru"
