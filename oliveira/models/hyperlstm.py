"""HyperLSTM: an LSTM whose weights change at every step, because a smaller LSTM beside it rescales their rows.
The weights can suit what is being read just now, which a fixed set cannot.

Paper: Ha et al. 2016, arXiv:1609.09106, appendix A.2.2; layer normalisation: Ba et al. 2016, arXiv:1607.06450.

    ĥ_t = LSTM_small([h_{t−1} ; x_t], ĥ_{t−1})
    i, f, o, g = LN(d_h(ĥ_t) ⊙ W_h h_{t−1} + d_x(ĥ_t) ⊙ W_x x_t + d_b(ĥ_t))          d of low rank (nn/hyper.py)
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g),  h_t = σ(o) ⊙ tanh(LN(c_t))

Shapes: tokens (B, T) int64 or series (B, T, d_in) → (B, T, d_out), or (B, d_out).
Deviations from the paper: d is made from ĥ_t; the paper prints ĥ_{t−1} there, its authors' code and labml take ĥ_t.
No recurrent dropout; `dropout` stands between layers.
Complexity: O(T·D·(D + d_hyper)) time, in T steps one after another.
Checked against: a loop written from the paper's equations, outputs and gradients to 1e-5 (tests/parity/test_hyper.py);
recorded answers of labml_nn.hypernetworks.HyperLSTM 0.5.1 (two layers), outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.hyper import HyperLSTMLayer
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class HyperLSTMConfig(SequenceConfig):
    d_model: int = 64
    n_layers: int = 1
    d_hyper: int = 32  # width of the small LSTM
    d_embedding: int = 8  # numbers through which it speaks to each gate
    dropout: float = 0.0


@register(
    "hyperlstm",
    family="hypernetwork",
    paper="arXiv:1609.09106",
    forms=CAUSAL_SEQUENCE,
    can=("features",),
    config=HyperLSTMConfig,
    causal=True,
    reference="labml_nn HyperLSTM; a loop written from the paper",
    tiny=dict(d_model=8, n_layers=2, d_hyper=6, d_embedding=3),
)
class HyperLSTM(nn.Module):
    def __init__(self, config: HyperLSTMConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.layers = nn.ModuleList(
            HyperLSTMLayer(config.d_model, config.d_model, config.d_hyper, config.d_embedding)
            for _ in range(config.n_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = Output(config, gives, config.d_model, pool="last")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.dropout(self.features(x, mask)), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the last layer: (B, T, d_model)."""
        h_BTD = self.input(x)
        for layer in self.layers:
            h_BTD = layer(self.dropout(h_BTD), mask)
        return h_BTD
