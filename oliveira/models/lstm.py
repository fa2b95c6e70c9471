"""LSTM: a recurrent net whose memory cell is written, kept and read through three gates.
What the gates leave alone stays as it is, so a gradient survives hundreds of steps.

Paper: Hochreiter & Schmidhuber 1997, Long Short-Term Memory, Neural Computation 9(8).

    i, f, o = σ(W x_t + b + U h_{t-1} + c)          write, keep, read
    g       = tanh(W x_t + b + U h_{t-1} + c)
    s_t     = f ⊙ s_{t-1} + i ⊙ g
    h_t     = o ⊙ tanh(s_t)

Shapes: x (B, T) int64 or (B, T, d_in) → (B, T, d_out), or (B, d_out). B batch, T steps.
Deviations from the paper: the forget gate f of Gers et al. 2000, open (bias 1) at first as in Jozefowicz et al. 2015;
two bias vectors, as torch keeps them; gradients through the whole sequence.
Complexity: O(n_layers·T·d_model²) time, T steps in sequence; four times the weights of the plain RNN.
Checked against: torch.nn.LSTM, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.recurrent import RecurrentConfig, RecurrentModel
from oliveira.registry import register


@register(
    "lstm",
    family="recurrent",
    paper="doi:10.1162/neco.1997.9.8.1735",
    forms=CAUSAL_SEQUENCE,
    can=("features",),
    config=RecurrentConfig,
    causal=True,
    reference="torch.nn.LSTM",
    tiny=dict(d_model=8, n_layers=2),
    train=dict(lr=5e-3),
)
class LSTM(RecurrentModel):
    kind = "lstm"
