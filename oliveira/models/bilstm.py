"""Bidirectional LSTM: one LSTM reads the sequence forwards, another backwards, and each step gets the state of both.
So a step knows what follows it too, which suits labels of words or of whole texts, but not predicting what comes next.

Papers: Schuster & Paliwal 1997, Bidirectional Recurrent Neural Networks; Graves & Schmidhuber 2005 (with LSTM).

    →h_t = LSTM(x_t, →h_{t-1}),   ←h_t = LSTM(x_t, ←h_{t+1}),   y_t = W [→h_t ; ←h_t] + b

Shapes: x (B, T) int64 or (B, T, d_in) → (B, T, d_out), or (B, d_out). B batch, T steps.
Each way is d_model wide. With padding the backward net starts at the last real step of each row.
Deviations from the papers: several layers, each reading both ways of the one below; the cell is that of `lstm`.
Complexity: O(n_layers·T·d_model²) time, T steps in sequence, twice.
Checked against: torch.nn.LSTM(bidirectional=True), packed sequences too, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from oliveira.kinds import SEQUENCE
from oliveira.nn.recurrent import RecurrentConfig, RecurrentModel
from oliveira.registry import register


@register(
    "bilstm",
    family="recurrent",
    paper="doi:10.1109/78.650093",
    forms=SEQUENCE,
    can=("features",),
    config=RecurrentConfig,
    reference="torch.nn.LSTM(bidirectional=True)",
    tiny=dict(d_model=8, n_layers=2),
    train=dict(lr=5e-3),
)
class BiLSTM(RecurrentModel):
    kind = "lstm"
    bidirectional = True
